/* Ops that make file systems, and change them. */
#include "ops.h"
#include "path.h"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mount.h>

#define MNT_DETACH 2

enum {
        VALUE_LAST = 255,
        PAGE_BYTES = 4096, /* of mount(2)'s data, with the NUL */
};

/* What fsconfig(2) takes as flags, for mount(2). */
static const struct {
        const char *word;
        u64 set;
        u64 clear;
} SUPER_FLAGS[] = {
        { "ro", MS_RDONLY, 0 },         { "rw", 0, MS_RDONLY },           { "sync", MS_SYNCHRONOUS, 0 },
        { "async", 0, MS_SYNCHRONOUS }, { "dirsync", MS_DIRSYNC, 0 },     { "lazytime", MS_LAZYTIME, 0 },
        { "nolazytime", 0, MS_LAZYTIME }, { "mand", MS_MANDLOCK, 0 },     { "nomand", 0, MS_MANDLOCK },
};

struct long_mount {
        const char *source;
        u64 flags;
        usize length;
        char data[PAGE_BYTES];
};

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

/* What fsconfig(2) refuses: it takes a key or a value of up to 255 bytes. */
static int is_long(const char *option) {
        usize key = 0;

        while (option[key] && option[key] != '=')
                key++;
        return option[key] && text_length(option + key + 1) > VALUE_LAST;
}

static int any_is_long(const char **options) {
        for (; *options; options++)
                if (is_long(*options))
                        return 1;
        return 0;
}

/* One option for mount(2): a flag, the source, or a word of `data`. */
static int add_option(struct long_mount *m, const char *option) {
        for (usize i = 0; i < ARRAY_SIZE(SUPER_FLAGS); i++)
                if (text_equal(option, SUPER_FLAGS[i].word)) {
                        m->flags |= SUPER_FLAGS[i].set;
                        m->flags &= ~SUPER_FLAGS[i].clear;
                        return 0;
                }
        if (text_begins(option, "source=")) {
                m->source = option + sizeof("source=") - 1;
                return 0;
        }
        if (m->length)
                m->data[m->length++] = ',';

        int r = m->length < sizeof(m->data) ? text_copy(m->data + m->length, sizeof(m->data) - m->length, option) : -1;

        m->length += text_length(option);
        return r < 0 ? -E2BIG : 0;
}

/* mount(2), which takes a page of options, at the only path that is sure to be there, and from there a detached mount.
 *
 * The mount namespace is this process's own by then.  Where something is mounted on the root, "/" is below that, and
 * "/.." above (path_resolution(7)).
 */
static int mount_long(struct launch *l, const char *fstype, const char **options) {
        struct long_mount m = { .source = "none" };
        int r = 0;

        for (; r >= 0 && *options; options++)
                r = add_option(&m, *options);
        if (r < 0) {
                text_copy(l->text, sizeof(l->text), "its options are longer than a page");
                return r;
        }
        r = (int) sys(mount, m.source, "/", fstype, m.flags, m.data);
        if (r < 0)
                return r;

        cleanup_close int fd = (int) sys(open_tree, AT_FDCWD, "/..", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

        r = (int) sys(umount2, "/..", MNT_DETACH);
        return r < 0 ? r : take(&fd);
}

static int mount_short(struct launch *l, const char *fstype, const char **options, u64 attrs, int ns_fd) {
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
        struct mount_attr attr = { .attr_set = get_number(c), .attr_clr = MOUNT_ATTR__ATIME };
        u64 magic = get_number(c), pid_namespace = get_number(c);
        int ns_fd = pid_namespace == NO_SLOT ? -1 : slot_fd(l, pid_namespace);

        if (c->error)
                return c->error;
        if (!options)
                return -ENOMEM;
        if (pid_namespace != NO_SLOT && ns_fd < 0)
                return ns_fd;

        int with_mount = any_is_long(options);
        cleanup_close int fd = with_mount ? mount_long(l, fstype, options)
                                          : mount_short(l, fstype, options, attr.attr_set, ns_fd);

        if (fd < 0)
                return fd;

        int r = with_mount ? (int) sys(mount_setattr, fd, "", AT_EMPTY_PATH, &attr, sizeof(attr)) : 0;

        if (r >= 0)
                r = check_magic(fd, magic);
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
