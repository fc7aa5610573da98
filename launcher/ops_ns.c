/* Ops of namespaces that a helper makes: user namespaces that hold a mapping, for id-mapped mounts, and a mount
 * namespace in which what the host has set is locked.
 */
#include "ops.h"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/poll.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/signal.h>

/* In the new namespaces: opens one, tells its number in the table of descriptors, which is the launcher's, too, and
 * waits for its end. */
__attribute__((noreturn)) static void hold_namespace(int proc_fd, const char *name, int out_fd, long parent) {
        int fd;

        sys(prctl, PR_SET_PDEATHSIG, SIGKILL);
        fd = (int) sys(openat, proc_fd, name, O_RDONLY | O_CLOEXEC);
        sys(write, out_fd, &fd, sizeof(fd));
        while (sys(getppid) == parent)
                sys(ppoll, 0, 0, 0, 0, 0);
        sys(exit_group, 0);
        __builtin_unreachable();
}

/* A child in new namespaces; with a table of descriptors in common nobody has to look into a process that may not be
 * looked into. */
static long make_holder(u64 flags, int proc_fd, const char *name, int out_fd, int *pid_fd) {
        struct clone_args args = {
                .flags = flags | CLONE_FILES | CLONE_PIDFD, .exit_signal = SIGCHLD, .pidfd = (u64) pid_fd
        };
        long parent = sys(getpid), pid = sys(clone3, &args, sizeof(args));

        if (!pid)
                hold_namespace(proc_fd, name, out_fd, parent);
        return pid;
}

static void end_holder(long pid) {
        sys(kill, pid, SIGKILL);
        while (sys(wait4, pid, 0, 0, 0) == -EINTR)
                ;
}

/* The descriptor that the child opened, or a negative errno.
 *
 * A child that ended without a word (somebody killed it) leaves no end of file: its end of the pipe is the launcher's, too.
 */
static int opened_by_holder(int read_fd, int pid_fd) {
        struct pollfd polls[] = { { .fd = read_fd, .events = POLLIN }, { .fd = pid_fd, .events = POLLIN } };
        int fd;
        long r;

        do
                r = sys(ppoll, polls, ARRAY_SIZE(polls), 0, 0, 0);
        while (r == -EINTR);
        if (r >= 0)
                r = polls[0].revents ? read_some(read_fd, &fd, sizeof(fd)) : -EIO;
        return r < 0 ? (int) r : r == sizeof(fd) ? fd : -EIO;
}

/* The descriptor of a namespace, and of whom it is until `end_holder`; or a negative errno, and there is nobody. */
static int start_holder(u64 flags, int proc_fd, const char *name, long *pid) {
        int fds[2], r = proc_fd < 0 ? proc_fd : (int) sys(pipe2, fds, O_CLOEXEC);

        if (r < 0)
                return r;

        cleanup_close int read_fd = fds[0], write_fd = fds[1], pid_fd = -1;
        long made = make_holder(flags, proc_fd, name, write_fd, &pid_fd);

        if (made < 0)
                return (int) made;
        r = opened_by_holder(read_fd, pid_fd);
        if (r < 0)
                end_holder(made);
        else
                *pid = made;
        return r;
}

int op_make_user_namespace(struct launch *l, struct cursor *c) {
        u64 slot = get_number(c);
        int proc_fd = slot_fd(l, get_number(c));
        const char *uid_map = get_text(c), *gid_map = get_text(c);
        long pid;
        cleanup_close int fd = c->error ? c->error : start_holder(CLONE_NEWUSER, proc_fd, "self/ns/user", &pid);

        if (fd < 0)
                return fd;

        int r = write_process((int) pid, proc_fd, "gid_map", gid_map);

        if (r >= 0)
                r = write_process((int) pid, proc_fd, "uid_map", uid_map);
        end_holder(pid);
        return r < 0 ? r : slot_set(l, slot, take(&fd));
}

int op_lock_mounts(struct launch *l, struct cursor *c) {
        int proc_fd = slot_fd(l, get_number(c));
        u64 flags = CLONE_NEWUSER | CLONE_NEWNS;
        long pid;
        cleanup_close int fd = c->error ? c->error : start_holder(flags, proc_fd, "self/ns/mnt", &pid);

        if (fd < 0)
                return fd;

        int r = (int) sys(setns, fd, CLONE_NEWNS);

        end_holder(pid);
        return r;
}

int op_map_mount(struct launch *l, struct cursor *c) {
        int fd = slot_fd(l, get_number(c)), userns_fd = slot_fd(l, get_number(c));
        u64 recursive = get_number(c);
        struct mount_attr attr = { .attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (u64) userns_fd };

        if (c->error)
                return c->error;
        if (fd < 0 || userns_fd < 0)
                return fd < 0 ? fd : userns_fd;
        return (int) sys(mount_setattr, fd, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0), &attr, sizeof(attr));
}
