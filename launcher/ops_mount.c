/* Ops that mount, make files beneath the container's root, and open its terminal. */
#include "ops.h"
#include "path.h"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <asm/ioctls.h>
#include <linux/stat.h>
#include <asm/stat.h>
#include <asm/statfs.h>
#include <asm/termios.h>

#define MOVE_EMPTY (MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)
#define CLONE_EMPTY (OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH)
#define MNT_DETACH 2

/* what a mount point is, and becomes where it is missing (corten/launch/mountops.py) */
enum target_kind { DIRECTORY, FILE, LIKE_SOURCE, PLAIN_DIRECTORY, KEEP_MODE };

int op_open_tree(struct launch *l, struct cursor *c) {
        u64 slot = get_number(c);
        const char *path = get_text(c);
        u64 recursive = get_number(c);
        unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (recursive ? AT_RECURSIVE : 0);

        if (c->error)
                return c->error;
        return slot_set(l, slot, sys(open_tree, AT_FDCWD, path, flags));
}

int op_clone_tree(struct launch *l, struct cursor *c) {
        u64 slot = get_number(c);
        int fd = slot_fd(l, get_number(c));

        return fd < 0 ? fd : slot_set(l, slot, sys(open_tree, fd, "", CLONE_EMPTY));
}

int op_mount_setattr(struct launch *l, struct cursor *c) {
        int fd = slot_fd(l, get_number(c));
        struct mount_attr attr = { .attr_set = get_number(c) };

        attr.attr_clr = get_number(c);
        attr.propagation = get_number(c);

        u64 recursive = get_number(c);
        unsigned flags = AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0);

        if (c->error)
                return c->error;
        return fd < 0 ? fd : (int) sys(mount_setattr, fd, "", flags, &attr, sizeof(attr));
}

int op_mount_propagation(struct launch *l, struct cursor *c) {
        return (int) sys(mount, 0, "/", 0, get_number(c), 0);
}

static int is_directory(int fd) {
        struct stat st;
        int r = (int) sys(newfstatat, fd, "", &st, AT_EMPTY_PATH);

        return r < 0 ? r : (st.st_mode & S_IFMT) == S_IFDIR;
}

static int open_target(int root_fd, const char *path, u64 kind, int source_fd) {
        int directory = kind == LIKE_SOURCE ? is_directory(source_fd) : kind != FILE;

        if (directory < 0)
                return directory;
        if (kind == PLAIN_DIRECTORY) {
                /* no link on the way: what is mounted here is the process's own /proc, /sys or /dev */
                int fd = open_in_root(root_fd, path, O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS);

                if (fd != -ENOENT)
                        return fd;
        }
        if (directory)
                return open_directory(root_fd, path, 0755);

        cleanup_close int fd = open_file(root_fd, path, 0755);
        int r = fd < 0 ? fd : is_directory(fd);

        /* move_mount(2) would answer EINVAL, which says nothing, and callers give advice on ENOTDIR */
        return r < 0 ? r : r ? -ENOTDIR : take(&fd);
}

/* A tmpfs without a mode of its own looks like the directory that it covers, where there is one. */
static int keep_mode(int root_fd, const char *path, int fd) {
        struct stat st;
        cleanup_close int old_fd = open_in_root(root_fd, path, O_PATH | O_DIRECTORY, 0);

        if (old_fd < 0)
                return old_fd == -ENOENT ? 0 : old_fd;

        int r = (int) sys(newfstatat, old_fd, "", &st, AT_EMPTY_PATH);

        return r < 0 ? r : (int) sys(fchmodat, fd, ".", st.st_mode & 07777);
}

static int is_beneath_proc(const char *path) {
        static const char proc[] = "/proc/";

        for (usize i = 0; proc[i]; i++)
                if (path[i] != proc[i])
                        return 0;
        return 1;
}

static int is_procfs(int fd) {
        struct statfs fs;
        int r = (int) sys(fstatfs, fd, &fs);

        return r < 0 ? r : (u64) fs.f_type == PROC_SUPER_MAGIC;
}

/* Whether both lie in one file system. */
static int is_same_device(int fd, int other_fd) {
        struct stat st, other;
        int r = (int) sys(newfstatat, fd, "", &st, AT_EMPTY_PATH);

        r = r < 0 ? r : (int) sys(newfstatat, other_fd, "", &other, AT_EMPTY_PATH);
        return r < 0 ? r : st.st_dev == other.st_dev;
}

/* Only procfs comes on or into the container's /proc, wherever links in the path lead; what lies beneath it by its
 * own name was judged by the compiler (corten/launch/filesystem.py). */
static int check_proc(struct launch *l, int root_fd, const char *path, int target_fd, int fd) {
        int names_proc = text_equal(path, "/proc"), r = names_proc ? 1 : is_procfs(target_fd);

        if (r <= 0 || is_beneath_proc(path))
                return r < 0 ? r : 0;
        r = is_procfs(fd);
        if (r)
                return r < 0 ? r : 0;
        if (!names_proc) {
                cleanup_close int proc_fd = open_in_root(root_fd, "/proc", O_PATH, RESOLVE_NO_SYMLINKS);

                r = proc_fd < 0 ? 0 : is_same_device(proc_fd, target_fd);
                if (r <= 0)
                        return r;
        }
        text_copy(l->text, sizeof(l->text), "it cannot be mounted on or inside /proc because it is not of type proc");
        return -EPERM;
}

int op_move_mount(struct launch *l, struct cursor *c) {
        int fd = slot_fd(l, get_number(c)), root_fd = slot_fd(l, get_number(c));
        const char *path = get_text(c);
        u64 kind = get_number(c);

        if (c->error)
                return c->error;
        if (fd < 0 || root_fd < 0)
                return -EBADF;

        int r = kind == KEEP_MODE ? keep_mode(root_fd, path, fd) : 0;
        cleanup_close int target_fd = r < 0 ? r : open_target(root_fd, path, kind, fd);

        r = target_fd < 0 ? target_fd : check_proc(l, root_fd, path, target_fd, fd);
        return r < 0 ? r : (int) sys(move_mount, fd, "", target_fd, "", MOVE_EMPTY);
}

int op_attach_root(struct launch *l, struct cursor *c) {
        int fd = slot_fd(l, get_number(c));

        return fd < 0 ? fd : (int) sys(move_mount, fd, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH);
}

int op_fchdir(struct launch *l, struct cursor *c) {
        int fd = slot_fd(l, get_number(c));

        return fd < 0 ? fd : (int) sys(fchdir, fd);
}

int op_attach_root_here(struct launch *l, struct cursor *c) {
        int fd = slot_fd(l, get_number(c));
        /* the kernel has taken the working directory along into the mount namespace: no path is looked up here */
        int r = fd < 0 ? fd : (int) sys(move_mount, fd, "", AT_FDCWD, "", MOVE_EMPTY);

        return r < 0 ? r : (int) sys(fchdir, fd);
}

int op_pivot_root(struct launch *l, struct cursor *c) {
        int fd = slot_fd(l, get_number(c));
        int r = fd < 0 ? fd : (int) sys(fchdir, fd);

        /* with the same directory twice the old root ends on top of the new one, and "." is where it is taken off */
        if (r >= 0)
                r = (int) sys(pivot_root, ".", ".");
        if (r >= 0)
                r = (int) sys(umount2, ".", MNT_DETACH);
        return r < 0 ? r : (int) sys(chdir, "/");
}

int op_chroot(struct launch *l, struct cursor *c) {
        int fd = slot_fd(l, get_number(c));
        int r = fd < 0 ? fd : (int) sys(fchdir, fd);

        if (r >= 0)
                r = (int) sys(chroot, ".");
        return r < 0 ? r : (int) sys(chdir, "/");
}

int op_mkdir(struct launch *l, struct cursor *c) {
        int root_fd = slot_fd(l, get_number(c));
        const char *path = get_text(c);
        u64 mode = get_number(c);

        if (c->error)
                return c->error;

        cleanup_close int fd = root_fd < 0 ? root_fd : open_directory(root_fd, path, (unsigned) mode);

        return fd < 0 ? fd : 0;
}

int op_symlink(struct launch *l, struct cursor *c) {
        int root_fd = slot_fd(l, get_number(c));
        const char *path = get_text(c), *target = get_text(c);
        char name[PATH_SIZE];

        if (c->error)
                return c->error;

        cleanup_close int dir_fd = root_fd < 0 ? root_fd : open_parent(root_fd, path, name);
        int r = dir_fd < 0 ? dir_fd : (int) sys(symlinkat, target, dir_fd, name);

        return r == -EEXIST ? 0 : r;
}

/* A file in the place of a node must be that node (config-linux.md, "Devices"). */
static int check_node(struct launch *l, int dir_fd, const char *name, u64 mode, u64 number) {
        struct stat st;
        int r = (int) sys(newfstatat, dir_fd, name, &st, AT_SYMLINK_NOFOLLOW);

        if (r < 0)
                return r;
        if ((st.st_mode & S_IFMT) == (mode & S_IFMT) && ((mode & S_IFMT) == S_IFIFO || st.st_rdev == number))
                return 0;
        text_copy(l->text, sizeof(l->text), "what is there is another file or device");
        return -EEXIST;
}

int op_mknod(struct launch *l, struct cursor *c) {
        int root_fd = slot_fd(l, get_number(c));
        const char *path = get_text(c);
        u64 mode = get_number(c), major = get_number(c), minor = get_number(c);
        u64 uid = get_number(c), gid = get_number(c);
        char name[PATH_SIZE];

        if (c->error)
                return c->error;

        cleanup_close int dir_fd = root_fd < 0 ? root_fd : open_parent(root_fd, path, name);

        if (dir_fd < 0)
                return dir_fd;

        /* the mask is 0: the mode is as asked */
        int r = (int) sys(mknodat, dir_fd, name, mode, device_number(major, minor));

        if (r == -EEXIST)
                return check_node(l, dir_fd, name, mode, device_number(major, minor));
        if (r >= 0 && (uid || gid))
                r = (int) sys(fchownat, dir_fd, name, uid, gid, AT_SYMLINK_NOFOLLOW);
        return r;
}

/* Directories share one empty file system: the first gets the mount itself, the next ones copies of it, because a
 * mount can be copied only where it is attached (before Linux 6.15). */
static int open_cover(struct launch *l, int directory, int null_fd, int empty_fd) {
        if (!directory)
                return null_fd < 0 ? null_fd : (int) sys(open_tree, null_fd, "", CLONE_EMPTY);
        if (empty_fd < 0)
                return empty_fd;
        if (l->empty_attached)
                return (int) sys(open_tree, empty_fd, "", CLONE_EMPTY);
        l->empty_attached = 1;
        return (int) sys(fcntl, empty_fd, F_DUPFD_CLOEXEC, 0);
}

int op_mask(struct launch *l, struct cursor *c) {
        int root_fd = slot_fd(l, get_number(c));
        const char *path = get_text(c);
        int null_fd = slot_fd(l, get_number(c)), empty_fd = slot_fd(l, get_number(c));

        if (c->error)
                return c->error;

        cleanup_close int target_fd = root_fd < 0 ? root_fd : open_in_root(root_fd, path, O_PATH, 0);

        if (target_fd < 0)
                return target_fd == -ENOENT ? 0 : target_fd;

        int directory = is_directory(target_fd);
        cleanup_close int fd = directory < 0 ? directory : open_cover(l, directory, null_fd, empty_fd);

        return fd < 0 ? fd : (int) sys(move_mount, fd, "", target_fd, "", MOVE_EMPTY);
}

int op_readonly_path(struct launch *l, struct cursor *c) {
        int root_fd = slot_fd(l, get_number(c));
        const char *path = get_text(c);
        struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY };

        if (c->error)
                return c->error;

        cleanup_close int target_fd = root_fd < 0 ? root_fd : open_in_root(root_fd, path, O_PATH, 0);

        if (target_fd < 0)
                return target_fd == -ENOENT ? 0 : target_fd;

        cleanup_close int fd = (int) sys(open_tree, target_fd, "", CLONE_EMPTY | AT_RECURSIVE);
        int r = fd < 0 ? fd : (int) sys(mount_setattr, fd, "", AT_EMPTY_PATH, &attr, sizeof(attr));

        return r < 0 ? r : (int) sys(move_mount, fd, "", target_fd, "", MOVE_EMPTY);
}

/* Only the multiplexer of a devpts is one: anything else at that place is refused. */
static int check_ptmx(int fd) {
        struct stat st;
        int r = check_magic(fd, DEVPTS_SUPER_MAGIC);

        if (r >= 0)
                r = (int) sys(fstat, fd, &st);
        if (r < 0)
                return r;
        return (st.st_mode & S_IFMT) == S_IFCHR && st.st_rdev == device_number(5, 2) ? 0 : -ENXIO;
}

int op_open_pty(struct launch *l, struct cursor *c) {
        int root_fd = slot_fd(l, get_number(c)), unlock = 0;
        u64 master = get_number(c), slave = get_number(c);
        struct winsize size = { .ws_col = (u16) get_number(c) };

        size.ws_row = (u16) get_number(c);
        if (c->error)
                return c->error;

        cleanup_close int fd = root_fd < 0 ? root_fd : open_in_root(root_fd, "dev/pts/ptmx", O_RDWR | O_NOCTTY, 0);
        int r = fd < 0 ? fd : check_ptmx(fd);

        if (r >= 0)
                r = (int) sys(ioctl, fd, TIOCSPTLCK, &unlock);
        if (r >= 0 && (size.ws_col || size.ws_row))
                r = (int) sys(ioctl, fd, TIOCSWINSZ, &size);
        if (r >= 0)
                r = slot_set(l, slave, sys(ioctl, fd, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
        return r < 0 ? r : slot_set(l, master, take(&fd));
}

#define SOL_SOCKET 1
#define SCM_RIGHTS 1
#define MSG_NOSIGNAL 0x4000

int op_send_fd(struct launch *l, struct cursor *c) {
        int socket_fd = slot_fd(l, get_number(c)), fd = slot_fd(l, get_number(c));
        struct bytes data = get_bytes(c);
        struct {
                struct control_head head;
                int fd;
        } control = {
                .head = { .length = sizeof(control.head) + sizeof(fd), .level = SOL_SOCKET, .type = SCM_RIGHTS },
                .fd = fd,
        };
        struct io_part part = { .base = (void *) data.data, .length = data.size };
        struct message message = {
                .parts = &part,
                .part_count = 1,
                .control = &control,
                .control_length = sizeof(control),
        };

        if (c->error)
                return c->error;
        if (socket_fd < 0 || fd < 0)
                return -EBADF;

        long sent = sys(sendmsg, socket_fd, &message, MSG_NOSIGNAL);

        return sent < 0 ? (int) sent : sent == data.size ? 0 : -EIO;
}

int op_set_stdio(struct launch *l, struct cursor *c) {
        int fd = slot_fd(l, get_number(c));

        for (int target = 0; target < 3 && fd >= 0; target++) {
                long r = sys(dup3, fd, target, 0);

                if (r < 0)
                        return (int) r;
        }
        return fd < 0 ? fd : 0;
}

int op_set_controlling_terminal(struct launch *l, struct cursor *c) {
        return (int) sys(ioctl, 0, TIOCSCTTY, 0);
}
