/* CopyUp: what a directory of the container's root holds, copied into the tmpfs that is to cover it. */
#include "ops.h"
#include "path.h"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/stat.h>
#include <asm/stat.h>

/* Bounds the stack: each level has a buffer of entries. */
#define MAX_DEPTH 64
#define OPEN_DIRECTORY (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

struct entry {
        u64 inode;
        s64 offset;
        u16 length;
        u8 type;
        char name[];
};

static int copy_entries(int from_fd, int to_fd, int depth);

static int copy_directory(int from_fd, int to_fd, const char *name, int depth) {
        int r = (int) sys(mkdirat, to_fd, name, 0700);

        if (r < 0)
                return r;

        cleanup_close int from = (int) sys(openat, from_fd, name, OPEN_DIRECTORY);
        cleanup_close int to = (int) sys(openat, to_fd, name, OPEN_DIRECTORY);

        return from < 0 ? from : to < 0 ? to : copy_entries(from, to, depth + 1);
}

static int copy_file(int from_fd, int to_fd, const char *name) {
        cleanup_close int from = (int) sys(openat, from_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        cleanup_close int to = (int) sys(openat, to_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        long count = from < 0 ? from : to;

        if (count < 0)
                return (int) count;
        do
                count = sys(sendfile, to, from, 0, 1 << 24);
        while (count > 0);
        return (int) count;
}

static int copy_link(int from_fd, int to_fd, const char *name) {
        char target[PATH_SIZE];
        long length = sys(readlinkat, from_fd, name, target, sizeof(target) - 1);

        if (length < 0)
                return (int) length;
        target[length] = 0;
        return (int) sys(symlinkat, target, to_fd, name);
}

/* Contents first, then owner, mode and times: a directory's times would not stay otherwise. */
static int copy_entry(int from_fd, int to_fd, const char *name, int depth) {
        struct stat st;
        int r = (int) sys(newfstatat, from_fd, name, &st, AT_SYMLINK_NOFOLLOW);

        if (r < 0)
                return r;
        switch (st.st_mode & S_IFMT) {
        case S_IFDIR:
                r = copy_directory(from_fd, to_fd, name, depth);
                break;
        case S_IFREG:
                r = copy_file(from_fd, to_fd, name);
                break;
        case S_IFLNK:
                r = copy_link(from_fd, to_fd, name);
                break;
        default:
                r = (int) sys(mknodat, to_fd, name, st.st_mode, st.st_rdev);
        }

        u64 times[4] = { st.st_atime, st.st_atime_nsec, st.st_mtime, st.st_mtime_nsec };

        if (r >= 0)
                r = (int) sys(fchownat, to_fd, name, st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW);
        if (r >= 0 && (st.st_mode & S_IFMT) != S_IFLNK)
                r = (int) sys(fchmodat, to_fd, name, st.st_mode & 07777);
        return r < 0 ? r : (int) sys(utimensat, to_fd, name, times, AT_SYMLINK_NOFOLLOW);
}

static int copy_entries(int from_fd, int to_fd, int depth) {
        char buffer[8192] __attribute__((aligned(8)));
        long length;

        if (depth > MAX_DEPTH)
                return -ELOOP;
        while ((length = sys(getdents64, from_fd, buffer, sizeof(buffer))) > 0)
                for (long at = 0; at < length;) {
                        const struct entry *entry = (const void *) (buffer + at);
                        int dots = text_equal(entry->name, ".") || text_equal(entry->name, "..");
                        int r = dots ? 0 : copy_entry(from_fd, to_fd, entry->name, depth);

                        if (r < 0)
                                return r;
                        at += entry->length;
                }
        return (int) length;
}

int op_copy_up(struct launch *l, struct cursor *c) {
        int to_fd = slot_fd(l, get_number(c)), root_fd = slot_fd(l, get_number(c));
        const char *path = get_text(c);

        if (c->error)
                return c->error;
        if (to_fd < 0 || root_fd < 0)
                return -EBADF;

        cleanup_close int from_fd = open_in_root(root_fd, path, O_RDONLY | O_DIRECTORY, 0);

        if (from_fd < 0)
                return from_fd == -ENOENT ? 0 : from_fd;
        return copy_entries(from_fd, to_fd, 0);
}
