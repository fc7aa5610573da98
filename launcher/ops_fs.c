/* Ops that make file systems, and change them. */
#include "ops.h"
#include "path.h"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mount.h>

#define MNT_DETACH 2

/* The last words of the file system on what it did not like: "e tmpfs: Unknown parameter 'x'". */
static void read_explanation(struct launch *l, int fs_fd) {
        char line[sizeof(l->text) + 2];
        long length;

        while ((length = sys(read, fs_fd, line, sizeof(line) - 1)) > 2) {
                line[length] = 0;
                text_copy(l->text, sizeof(l->text), line + 2);
        }
}

/* `key=value`, or a flag where there is no equals sign. */
static int set_option(int fs_fd, const char *option) {
        char key[256];
        usize length = 0;

        while (option[length] && option[length] != '=')
                length++;
        if (!option[length])
                return (int) sys(fsconfig, fs_fd, FSCONFIG_SET_FLAG, option, 0, 0);
        if (length >= sizeof(key))
                return -EINVAL;
        memcpy(key, option, length);
        key[length] = 0;
        return (int) sys(fsconfig, fs_fd, FSCONFIG_SET_STRING, key, option + length + 1, 0);
}

static int make_mount(struct launch *l, const char *fstype, const char **options, u64 attrs, int ns_fd) {
        cleanup_close int fs_fd = (int) sys(fsopen, fstype, FSOPEN_CLOEXEC);
        int r = fs_fd;

        for (; r >= 0 && *options; options++)
                r = set_option(fs_fd, *options);
        if (r >= 0 && ns_fd >= 0)
                r = (int) sys(fsconfig, fs_fd, FSCONFIG_SET_FD, "pidns", 0, ns_fd);
        if (r >= 0)
                r = (int) sys(fsconfig, fs_fd, FSCONFIG_CMD_CREATE, 0, 0, 0);
        if (r >= 0)
                r = (int) sys(fsmount, fs_fd, FSMOUNT_CLOEXEC, attrs);
        if (r < 0 && fs_fd >= 0)
                read_explanation(l, fs_fd);
        return r;
}

int op_fs_mount(struct launch *l, struct cursor *c) {
        u64 slot = get_number(c);
        const char *fstype = get_text(c);
        const char **options = get_texts(c, 0);
        u64 attrs = get_number(c), magic = get_number(c), pid_namespace = get_number(c);
        int ns_fd = pid_namespace == NO_SLOT ? -1 : slot_fd(l, pid_namespace);

        if (c->error)
                return c->error;
        if (!options)
                return -ENOMEM;
        if (pid_namespace != NO_SLOT && ns_fd < 0)
                return ns_fd;

        cleanup_close int fd = make_mount(l, fstype, options, attrs, ns_fd);
        int r = fd < 0 ? fd : check_magic(fd, magic);

        return r < 0 ? r : slot_set(l, slot, take(&fd));
}

/* mount(2) needs a place: the only path that is sure to be there, in a mount namespace that is this process's own by
 * then.  Where something is mounted on the root, "/" is below that, and "/.." above (path_resolution(7)).
 */
int op_mount_detached(struct launch *l, struct cursor *c) {
        u64 slot = get_number(c);
        const char *fstype = get_text(c), *source = get_text(c);
        u64 flags = get_number(c);
        const char *data = get_text(c);
        u64 magic = get_number(c);
        int r = c->error ? c->error : (int) sys(mount, source, "/", fstype, flags, data);

        if (r < 0)
                return r;

        cleanup_close int fd = (int) sys(open_tree, AT_FDCWD, "/..", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

        r = (int) sys(umount2, "/..", MNT_DETACH);
        r = fd < 0 ? fd : r < 0 ? r : check_magic(fd, magic);
        return r < 0 ? r : slot_set(l, slot, take(&fd));
}

int op_reconfigure_mount(struct launch *l, struct cursor *c) {
        int fd = slot_fd(l, get_number(c));
        u64 count = get_number(c);

        if (c->error || fd < 0)
                return c->error ? c->error : fd;

        cleanup_close int fs_fd = (int) sys(fspick, fd, "", FSPICK_CLOEXEC | FSPICK_EMPTY_PATH);
        int r = fs_fd;

        while (r >= 0 && count-- && !c->error)
                r = set_option(fs_fd, get_text(c));
        if (r >= 0 && !c->error)
                r = (int) sys(fsconfig, fs_fd, FSCONFIG_CMD_RECONFIGURE, 0, 0, 0);
        if (r < 0 && fs_fd >= 0)
                read_explanation(l, fs_fd);
        return r;
}
