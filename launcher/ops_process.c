/* Ops of the process: cgroups, namespaces, the conversation with the parent. */
#include "ops.h"

#include <linux/close_range.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/keyctl.h>
#include <linux/openat2.h>
#include <linux/poll.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/signal.h>
#include <linux/sockios.h>
#include <linux/time.h>
#include <linux/stat.h>
#include <asm/stat.h>

int op_set_dumpable(struct launch *l, struct cursor *c) {
        return (int) sys(prctl, PR_SET_DUMPABLE, 0);
}

int op_join_cgroup(struct launch *l, struct cursor *c) {
        const char *path = get_text(c);

        if (c->error)
                return c->error;

        cleanup_close int fd = (int) sys(openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC);

        return fd < 0 ? fd : write_all(fd, "0", 1);
}

int op_open(struct launch *l, struct cursor *c) {
        u64 slot = get_number(c);
        const char *path = get_text(c);
        u64 flags = get_number(c);

        if (c->error)
                return c->error;
        return slot_set(l, slot, sys(openat, AT_FDCWD, path, flags | O_CLOEXEC));
}

int op_open_device(struct launch *l, struct cursor *c) {
        u64 slot = get_number(c), root = get_number(c);
        const char *path = get_text(c);
        u64 major = get_number(c), minor = get_number(c);
        int root_fd = root == NO_SLOT ? AT_FDCWD : slot_fd(l, root);
        u64 resolve = RESOLVE_NO_MAGICLINKS | (root == NO_SLOT ? 0 : RESOLVE_IN_ROOT);
        struct open_how how = { .flags = O_PATH | O_NOFOLLOW | O_CLOEXEC, .resolve = resolve };
        struct stat st;

        if (c->error)
                return c->error;

        cleanup_close int fd = (int) sys(openat2, root_fd, path, &how, sizeof(how));

        if (fd < 0)
                return fd;

        int r = (int) sys(newfstatat, fd, "", &st, AT_EMPTY_PATH);

        if (r < 0)
                return r;
        if ((st.st_mode & S_IFMT) != S_IFCHR || st.st_rdev != device_number(major, minor))
                return -ENXIO;
        return slot_set(l, slot, take(&fd));
}

int op_unshare(struct launch *l, struct cursor *c) {
        u64 flags = get_number(c);
        int r = (int) sys(unshare, flags);

        if (r >= 0 && flags & CLONE_NEWTIME)
                l->new_time = 1;
        return r;
}

int op_setns(struct launch *l, struct cursor *c) {
        int fd = slot_fd(l, get_number(c));
        u64 flags = get_number(c), before = flags & CLONE_NEWTIME ? now_ns(l) : 0;
        int r = fd < 0 ? fd : (int) sys(setns, fd, flags);

        if (r >= 0 && flags & CLONE_NEWTIME)
                l->clock_ahead += now_ns(l) - before;
        return r;
}

/* Behind a clone with the child's pid, 0 in the child itself, and with the time before it where clocks differ. */
static int cloned(struct launch *l, long pid, u64 before) {
        if (pid < 0)
                return (int) pid;
        if (!pid && l->new_time)
                l->clock_ahead += now_ns(l) - before;
        l->cloned = 1;
        l->side = pid ? LAUNCHER : CHILD;
        l->child = (int) pid;
        if (pid)
                trace_now(l, RECORD_STARTED, (u64) pid);
        return 0;
}

int op_clone(struct launch *l, struct cursor *c) {
        u64 flags = get_number(c), slot = get_number(c);
        struct clone_args args = { .flags = flags | CLONE_PARENT };

        if (slot != NO_SLOT) {
                int fd = slot_fd(l, slot);

                if (fd < 0)
                        return fd;
                args.flags |= CLONE_INTO_CGROUP;
                args.cgroup = (u64) fd;
        }

        trace_flush(l);

        u64 before = l->new_time ? now_ns(l) : 0;

        return cloned(l, sys(clone3, &args, sizeof(args)), before);
}

int op_clone_legacy(struct launch *l, struct cursor *c) {
        u64 flags = get_number(c);

        if (c->error)
                return c->error;
        trace_flush(l);

        u64 before = l->new_time ? now_ns(l) : 0;
        long pid = sys(clone, flags | CLONE_PARENT, 0, 0, 0, 0);
        int r = cloned(l, pid, before);

        if (pid > 0) {
                /* nothing is left to do here, and whoever reads waits for the end of the trace */
                sys(close, l->trace_fd);
                sys(exit_group, 0);
        }
        return r;
}

int op_clone_launcher(struct launch *l, struct cursor *c) {
        int fd = slot_fd(l, get_number(c));
        /* as vfork(2) does it, because copies cost time: this process sleeps until the new one has ended, and then
         * touches nothing of what they share; the descriptors are shared as well, so that it holds none open */
        struct clone_args args = {
                .flags = CLONE_PARENT | CLONE_INTO_CGROUP | CLONE_VM | CLONE_VFORK | CLONE_FILES,
                .cgroup = (u64) fd,
        };

        if (fd < 0)
                return fd;

        /* whoever gives up finds the new launcher in the old one's process group, if the trace has not named it yet */
        int r = (int) sys(setpgid, 0, 0);

        if (r < 0)
                return r;

        long pid = sys(clone3, &args, sizeof(args));

        if (pid > 0)
                sys(exit_group, 0);
        if (pid < 0)
                return (int) pid;
        trace_launcher(l);
        return 0;
}

int op_pipe(struct launch *l, struct cursor *c) {
        u64 read_slot = get_number(c), write_slot = get_number(c);
        int fds[2];
        int r = (int) sys(pipe2, fds, O_CLOEXEC);

        if (r < 0)
                return r;

        int first = slot_set(l, read_slot, fds[0]), second = slot_set(l, write_slot, fds[1]);

        return first < 0 ? first : second;
}

int write_process(int pid, int proc_fd, const char *name, const char *data) {
        char path[64];
        usize length = text_from_number(path, (u64) pid);

        path[length] = '/';
        if (text_copy(path + length + 1, sizeof(path) - length - 1, name) < 0)
                return -ENAMETOOLONG;

        cleanup_close int fd = (int) sys(openat, proc_fd, path, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);

        return fd < 0 ? fd : write_all(fd, data, text_length(data));
}

int op_write_id_maps(struct launch *l, struct cursor *c) {
        int proc_fd = slot_fd(l, get_number(c));
        const char *uid_map = get_text(c), *gid_map = get_text(c);
        u64 deny = get_number(c);
        int r = c->error ? c->error : proc_fd;

        if (r >= 0 && deny)
                r = write_process(l->child, proc_fd, "setgroups", "deny");
        if (r >= 0)
                r = write_process(l->child, proc_fd, "gid_map", gid_map);
        if (r >= 0)
                r = write_process(l->child, proc_fd, "uid_map", uid_map);
        return r < 0 ? r : 0;
}

int op_send_byte(struct launch *l, struct cursor *c) {
        int fd = slot_fd(l, get_number(c));

        return fd < 0 ? fd : write_all(fd, "", 1);
}

static int wait_byte(int fd) {
        char byte;
        long count = read_some(fd, &byte, 1);

        return count == 1 ? 0 : count < 0 ? (int) count : -EPIPE;
}

int op_wait_byte(struct launch *l, struct cursor *c) {
        int fd = slot_fd(l, get_number(c));
        u64 closing = get_number(c);

        if (closing < l->slot_count)
                close_p(&l->slots[closing]);
        return fd < 0 ? fd : wait_byte(fd);
}

int op_wait(struct launch *l, struct cursor *c) {
        int fd = slot_fd(l, get_number(c));

        if (fd < 0)
                return fd;
        trace_now(l, RECORD_WAITING, 0);
        return wait_byte(fd);
}

int op_close(struct launch *l, struct cursor *c) {
        u64 count = get_number(c);

        while (count-- && !c->error) {
                u64 slot = get_number(c);

                if (slot < l->slot_count)
                        close_p(&l->slots[slot]);
        }
        return c->error;
}

int op_write(struct launch *l, struct cursor *c) {
        int fd = slot_fd(l, get_number(c));
        struct bytes data = get_bytes(c);

        if (c->error)
                return c->error;
        return fd < 0 ? fd : write_all(fd, data.data, data.size);
}

int op_write_file(struct launch *l, struct cursor *c) {
        int dir_fd = slot_fd(l, get_number(c));
        const char *path = get_text(c);
        struct bytes data = get_bytes(c);
        struct open_how how = {
                .flags = O_WRONLY | O_CLOEXEC,
                .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
        };

        if (c->error)
                return c->error;
        if (dir_fd < 0)
                return dir_fd;

        cleanup_close int fd = (int) sys(openat2, dir_fd, path, &how, sizeof(how));

        if (fd < 0)
                return fd;

        /* one write: files in /proc/sys take their value whole */
        long written = sys(write, fd, data.data, data.size);

        return written < 0 ? (int) written : written == data.size ? 0 : -EIO;
}

int op_setsid(struct launch *l, struct cursor *c) {
        long r = sys(setsid);

        return r < 0 ? (int) r : 0;
}

#define KEYRING_PERMISSIONS 0x3f1b0000 /* the possessor everything; its user view, read, search, link */

int op_join_session_keyring(struct launch *l, struct cursor *c) {
        const char *name = get_text(c);

        if (c->error)
                return c->error;

        long ring = sys(keyctl, KEYCTL_JOIN_SESSION_KEYRING, name);

        if (ring == -ENOSYS)
                return 0;
        if (ring < 0)
                return (int) ring;

        long r = sys(keyctl, KEYCTL_SETPERM, ring, KEYRING_PERMISSIONS);

        return r < 0 ? (int) r : 0;
}

#define AF_INET 2
#define SOCK_DGRAM 2
#define IFF_UP 1

int op_loopback_up(struct launch *l, struct cursor *c) {
        struct interface_request request = { .name = "lo" };
        cleanup_close int fd = (int) sys(socket, AF_INET, SOCK_DGRAM | O_CLOEXEC, 0);

        if (fd < 0)
                return fd;

        int r = (int) sys(ioctl, fd, SIOCGIFFLAGS, &request);

        if (r < 0)
                return r;
        request.flags |= IFF_UP;
        return (int) sys(ioctl, fd, SIOCSIFFLAGS, &request);
}

int op_parent_death_signal(struct launch *l, struct cursor *c) {
        u64 number = get_number(c);
        int life_fd = slot_fd(l, get_number(c));
        /* a parent that died before the prctl will send no signal */
        struct pollfd polls[] = { { .fd = l->trace_fd }, { .fd = life_fd, .events = POLLIN } };
        struct __kernel_timespec zero = { 0 };

        if (life_fd < 0)
                return life_fd;

        int r = (int) sys(prctl, PR_SET_PDEATHSIG, number);

        if (r < 0)
                return r;
        r = (int) sys(ppoll, polls, 2, &zero, 0, 0);
        return r < 0 ? r : polls[0].revents & POLLERR || polls[1].revents ? -ESRCH : 0;
}

int op_close_range(struct launch *l, struct cursor *c) {
        return (int) sys(close_range, get_number(c), ~0U, CLOSE_RANGE_CLOEXEC);
}
