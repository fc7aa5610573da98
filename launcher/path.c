#include "path.h"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/openat2.h>
#include <asm/statfs.h>

/* Missing components and links to nowhere that one path may go through; bounds the stack as well. */
#define MAX_HOPS 200
#define EXISTING (O_PATH | O_CLOEXEC)

/* A rename beside a `..` makes the kernel give up with EAGAIN; a rootfs that never comes to rest is refused. */
#define MAX_TRIES 64

static int openat2_retry(int dir_fd, const char *path, struct open_how *how) {
        long fd = -EAGAIN;

        for (int i = 0; fd == -EAGAIN && i < MAX_TRIES; i++)
                fd = sys(openat2, dir_fd, path, how, sizeof(*how));
        return (int) fd;
}

int open_in_root(int root_fd, const char *path, u64 flags, u64 resolve) {
        struct open_how how = {
                .flags = flags | O_CLOEXEC,
                .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve,
        };

        return openat2_retry(root_fd, *path ? path : ".", &how);
}

/* One component, which must not be a link, beneath a directory. */
static int open_component(int dir_fd, const char *name, u64 flags, unsigned mode) {
        struct open_how how = {
                .flags = flags | O_NOFOLLOW | O_CLOEXEC,
                .mode = mode,
                .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
        };

        return openat2_retry(dir_fd, name, &how);
}

/* Splits an absolute path at its last component: `path` keeps what is before, the result lies behind it. */
static char *split_last(char *path) {
        usize end = text_length(path);

        while (end && path[end - 1] == '/')
                path[--end] = 0;
        while (end && path[end - 1] != '/')
                end--;
        char *name = path + end;

        path[end ? end - 1 : 0] = 0;
        return name;
}

/* `name` in `dir_path` is a link to nowhere yet: the path becomes what it points at, still beneath the root. */
static int follow_dangling(int dir_fd, const char *dir_path, const char *name, char *out) {
        char target[PATH_SIZE];
        long length = sys(readlinkat, dir_fd, name, target, sizeof(target) - 1);

        if (length < 0)
                return (int) length;
        target[length] = 0;
        if (*target == '/')
                return text_copy(out, PATH_SIZE, target);

        usize used = text_length(dir_path);
        char joined[PATH_SIZE];

        if (text_copy(joined, sizeof(joined), dir_path) < 0 || used + 1 >= sizeof(joined))
                return -ENAMETOOLONG;
        joined[used] = '/';
        if (text_copy(joined + used + 1, sizeof(joined) - used - 1, target) < 0)
                return -ENAMETOOLONG;
        return text_copy(out, PATH_SIZE, joined);
}

static int make_directory(int root_fd, const char *path, unsigned mode, int hops);

/* Opens the directory above `path`, making it where it is missing; `dir` gets its path, `*name` the rest. */
static int open_above(int root_fd, const char *path, char *dir, char **name, int hops) {
        int r = text_copy(dir + 1, PATH_SIZE - 1, path);

        if (r < 0)
                return r;
        dir[0] = '/'; /* so that there is a place to cut */
        *name = split_last(dir);
        if (!**name || text_equal(*name, ".") || text_equal(*name, ".."))
                return -EINVAL;
        return make_directory(root_fd, dir, 0755, hops + 1);
}

static int make_directory(int root_fd, const char *path, unsigned mode, int hops) {
        char dir[PATH_SIZE], next[PATH_SIZE], *name;
        int fd = open_in_root(root_fd, path, EXISTING | O_DIRECTORY, 0);

        if (fd != -ENOENT)
                return fd;
        if (hops > MAX_HOPS)
                return -ELOOP;

        cleanup_close int parent_fd = open_above(root_fd, path, dir, &name, hops);

        if (parent_fd < 0)
                return parent_fd;

        int made = (int) sys(mkdirat, parent_fd, name, mode);

        if (made < 0 && made != -EEXIST)
                return made;
        fd = open_component(parent_fd, name, EXISTING | O_DIRECTORY, 0);
        if (fd != -ELOOP && fd != -ENOTDIR)
                return fd;
        if (made == 0 || follow_dangling(parent_fd, dir, name, next) < 0)
                return fd;
        return make_directory(root_fd, next, mode, hops + 1);
}

int open_directory(int root_fd, const char *path, unsigned mode) {
        return make_directory(root_fd, path, mode, 0);
}

static int make_file(int root_fd, const char *path, unsigned mode, int hops) {
        char dir[PATH_SIZE], next[PATH_SIZE], *name;
        int fd = open_in_root(root_fd, path, EXISTING, 0);

        if (fd != -ENOENT)
                return fd;
        if (hops > MAX_HOPS)
                return -ELOOP;

        cleanup_close int parent_fd = open_above(root_fd, path, dir, &name, hops);

        if (parent_fd < 0)
                return parent_fd;
        fd = open_component(parent_fd, name, O_CREAT | O_EXCL | O_RDONLY, mode);
        if (fd != -EEXIST)
                return fd;
        if (follow_dangling(parent_fd, dir, name, next) < 0)
                return fd;
        return make_file(root_fd, next, mode, hops + 1);
}

int open_file(int root_fd, const char *path, unsigned mode) {
        return make_file(root_fd, path, mode, 0);
}

int open_parent(int root_fd, const char *path, char *name) {
        char dir[PATH_SIZE], *last;
        cleanup_close int fd = open_above(root_fd, path, dir, &last, 0);

        if (fd < 0)
                return fd;

        int r = text_copy(name, PATH_SIZE, last);

        return r < 0 ? r : take(&fd);
}

int check_magic(int fd, u64 magic) {
        struct statfs fs;
        int r = magic ? (int) sys(fstatfs, fd, &fs) : 0;

        return r < 0 ? r : magic && (u64) fs.f_type != magic ? -EXDEV : 0;
}
