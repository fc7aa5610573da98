/* Ops that execute something, or come right before it: hooks, the filter of system calls, the end. */
#include "ops.h"

#include <linux/close_range.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/memfd.h>
#include <linux/poll.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/signal.h>
#include <linux/time.h>
#include <linux/wait.h>

/* What goes with a hook: its state to read, files for what it says. */
struct hook {
        int state_fd;
        int out_fd;
        int err_fd;
};

enum {
        SAID_LAST = 512, /* bytes of each stream that are handed on: the end of it */
};

#define OUT_TITLE "stdout: "
#define ERR_TITLE ", stderr: "

_Static_assert(
        sizeof(OUT_TITLE ERR_TITLE) + 2 * SAID_LAST <= sizeof(((struct launch *) 0)->text),
        "what a hook says has room in the text of a failure"
);

/* In the hook's process: its state on stdin, files for its output, nothing else, and out. */
__attribute__((noreturn)) static void run_hook(const char *path, const char **args, const char **env, struct hook *h) {
        struct signal_action standard = { 0 };

        sys(rt_sigaction, SIGPIPE, &standard, 0, sizeof(standard.mask));
        sys(dup3, h->state_fd, 0, 0);
        sys(dup3, h->out_fd, 1, 0);
        sys(dup3, h->err_fd, 2, 0);
        sys(close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC);

        int r = (int) sys(execve, path, args, env);

        /* for `not_executed` */
        sys(ftruncate, 0, 0);
        sys(exit_group, -r);
        __builtin_unreachable();
}

/* The errno of the execve, which empties the state, else 0. */
static int not_executed(struct hook *h, int status) {
        return sys(lseek, h->state_fd, 0, SEEK_END) == 0 ? -(status >> 8 & 0xff) : 0;
}

/* The end of what a stream has got, behind `title`, to `text`; the rest of `text`. */
static char *append_said(char *text, const char *title, int fd) {
        s64 size = sys(lseek, fd, 0, SEEK_END);

        text_copy(text, text_length(title) + 1, title);
        text += text_length(title);
        sys(lseek, fd, size > SAID_LAST ? size - SAID_LAST : 0, SEEK_SET);

        s64 count = sys(read, fd, text, SAID_LAST);

        for (s64 i = 0; i < count; i++)
                if (!text[i])
                        text[i] = ' '; /* it would end the text */
        text += count > 0 ? count : 0;
        *text = 0;
        return text;
}

/* Waits for a child until it ends or the time is over; its wait status goes to `detail` unless it is 0. */
static int wait_hook(struct launch *l, struct hook *h, int pid, int pid_fd, u64 timeout_s) {
        struct pollfd poll = { .fd = pid_fd, .events = POLLIN };
        struct __kernel_timespec limit = { .tv_sec = (s64) timeout_s };
        int status = 0, ready;

        do
                ready = (int) sys(ppoll, &poll, 1, timeout_s ? &limit : 0, 0, 0);
        while (ready == -EINTR);
        if (ready == 0)
                sys(kill, pid, SIGKILL);

        long r = sys(wait4, pid, &status, __WALL, 0);

        if (r < 0)
                return (int) r;
        if (ready == 0)
                return -ETIMEDOUT;
        if (!status)
                return 0;
        r = not_executed(h, status);
        if (r < 0)
                return (int) r;
        l->detail = (u64) status;
        append_said(append_said(l->text, OUT_TITLE, h->out_fd), ERR_TITLE, h->err_fd);
        return -ECHILD;
}

/* memfds and not pipes: a hook that reads nothing, or says much, cannot stop us. */
static int give_state(struct hook *h, struct bytes head, struct bytes tail) {
        char pid_text[21];
        int r = h->state_fd < 0 ? h->state_fd : write_all(h->state_fd, head.data, head.size);

        if (r >= 0)
                r = write_all(h->state_fd, pid_text, text_from_number(pid_text, (u64) sys(getpid)));
        if (r >= 0)
                r = write_all(h->state_fd, tail.data, tail.size);
        return r < 0 ? r : (int) sys(lseek, h->state_fd, 0, SEEK_SET);
}

int op_hook(struct launch *l, struct cursor *c) {
        const char *path = get_text(c);
        const char **args = get_texts(c, 0);
        u64 home = get_number(c);
        const char **env = get_texts(c, home ? l->home : 0);
        struct bytes head = get_bytes(c), tail = get_bytes(c);
        u64 timeout_s = get_number(c);

        if (c->error)
                return c->error;
        if (!args || !env)
                return -ENOMEM;

        trace_flush(l);

        cleanup_close int state_fd = (int) sys(memfd_create, "state", 0);
        cleanup_close int out_fd = (int) sys(memfd_create, "stdout", MFD_CLOEXEC);
        cleanup_close int err_fd = (int) sys(memfd_create, "stderr", MFD_CLOEXEC);
        struct hook hook = { .state_fd = state_fd, .out_fd = out_fd, .err_fd = err_fd };
        int r = out_fd < 0 ? out_fd : err_fd < 0 ? err_fd : give_state(&hook, head, tail);

        if (r < 0)
                return r;

        cleanup_close int pid_fd = -1;
        /* not clone3: a hook may run behind the container's filter, and Docker's answers that with ENOSYS */
        long pid = sys(clone, CLONE_PIDFD | SIGCHLD, 0, &pid_fd, 0, 0);

        if (pid == 0)
                run_hook(path, args, env, &hook);
        return pid < 0 ? (int) pid : wait_hook(l, &hook, (int) pid, pid_fd, timeout_s);
}

/* Tests only: stop here.  The kernel protects pid 1 from its own signals: then wait for one from outside. */
int op_stop(struct launch *l, struct cursor *c) {
        u64 number = get_number(c);
        long pid = sys(getpid);

        trace_now(l, RECORD_WAITING, 0);
        sys(kill, pid, number);
        for (;;)
                sys(ppoll, 0, 0, 0, 0, 0);
}

int op_seccomp(struct launch *l, struct cursor *c) {
        struct bytes filter = get_bytes(c);
        u64 flags = get_number(c), last = get_number(c), listener = get_number(c);
        struct sock_fprog program = {
                .len = (u16) (filter.size / sizeof(struct sock_filter)),
                .filter = (struct sock_filter *) filter.data,
        };

        if (c->error)
                return c->error;
        if (!filter.size || filter.size % sizeof(struct sock_filter) || filter.size / sizeof(struct sock_filter) > 4096)
                return -EINVAL;
        if (last)
                prepare_exec(l);

        /* with SECCOMP_FILTER_FLAG_NEW_LISTENER a descriptor, else 0 */
        long r = sys(seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);

        return listener == NO_SLOT ? (int) r : slot_set(l, listener, r);
}

/* For people who are not our parent: `exec /x: exec format error` on stderr, as far as the profile lets us. */
static void report_exec(struct launch *l, struct cursor *c, int error) {
        struct list errnos = get_list(c);
        char text[PATH_SIZE + 128] = "exec ";
        usize length;

        /* the numbers come first, then as many texts */
        for (u64 i = 0; i < errnos.count; i++)
                get_number(c);

        u64 count = get_number(c);

        while (count-- && !c->error) {
                const char *why = get_text(c);

                if (get_number(&errnos.items) != (u64) -error)
                        continue;
                if (text_copy(text + 5, PATH_SIZE, l->program) < 0)
                        return;
                length = text_length(text);
                text_copy(text + length, sizeof(text) - length, ": ");
                if (text_copy(text + length + 2, sizeof(text) - length - 3, why) < 0)
                        return;
                length = text_length(text);
                text[length] = '\n';
                write_all(2, text, length + 1);
        }
}

int op_exec(struct launch *l, struct cursor *c) {
        const char **args = get_texts(c, 0), **env = get_texts(c, l->home);

        if (c->error)
                return c->error;
        if (!args || !env)
                return -ENOMEM;
        if (!l->program)
                return -ENOENT;
        prepare_exec(l);

        int r = (int) sys(execve, l->program, args, env);

        report_exec(l, c, r);
        return r;
}
