/* Calls each entry of the kernel that a container by default shall not reach; prints "name errno", 0 for success.
 * Arguments are such that a call that gets through does nothing: what counts is who refuses it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRY(name, ...) print(name, syscall(__VA_ARGS__))
#define NOWHERE ((void *) 8)

static void print(const char *name, long result) {
        printf("%s %d\n", name, result < 0 ? errno : 0);
        fflush(stdout);
}

/* In a child, so that the next attempt begins outside. */
static void try_unshare(const char *name, int flags) {
        pid_t pid = fork();

        if (!pid) {
                print(name, unshare(flags));
                _exit(0);
        }
        waitpid(pid, 0, 0);
}

static void try_clone(const char *name, unsigned long flags) {
        long pid = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);

        if (!pid)
                _exit(0);
        print(name, pid);
        if (pid > 0)
                waitpid(pid, 0, 0);
}

/* kernel 2022-0185: a parameter too long for the page that legacy file systems collect them in. */
static void try_fsconfig(void) {
        long fd = syscall(SYS_fsopen, "ext4", 0);

        print("fsopen", fd);
        print("fsconfig", syscall(SYS_fsconfig, fd, FSCONFIG_SET_STRING, "x", "", 0));
}

int main(void) {
        try_unshare("unshare-user", CLONE_NEWUSER);
        try_unshare("unshare-mount", CLONE_NEWNS);
        try_unshare("unshare-cgroup", CLONE_NEWCGROUP);
        try_clone("clone-user", CLONE_NEWUSER);
        TRY("clone3", SYS_clone3, NOWHERE, 1UL);
        TRY("setns", SYS_setns, -1, CLONE_NEWNS);
        TRY("mount", SYS_mount, "none", "/", "no-such-fs", 0, 0);
        TRY("umount", SYS_umount2, "/no-such-mount", 0);
        try_fsconfig();
        TRY("fspick", SYS_fspick, -1, "/", 0);
        TRY("open-tree", SYS_open_tree, -1, "x", 0);
        TRY("move-mount", SYS_move_mount, -1, "", -1, "", 0);
        TRY("mount-setattr", SYS_mount_setattr, -1, "", 0, NOWHERE, 0UL);
        TRY("bpf", SYS_bpf, 0, NOWHERE, 1000000);
        TRY("perf-event-open", SYS_perf_event_open, NOWHERE, 0, -1, -1, 0UL);
        TRY("userfaultfd", SYS_userfaultfd, ~0);
        TRY("io-uring-setup", SYS_io_uring_setup, 1, NOWHERE);
        TRY("add-key", SYS_add_key, NOWHERE, NOWHERE, NOWHERE, 0UL, 0);
        TRY("request-key", SYS_request_key, NOWHERE, NOWHERE, NOWHERE, 0);
        TRY("keyctl", SYS_keyctl, ~0, 0, 0, 0, 0);
        TRY("open-by-handle-at", SYS_open_by_handle_at, -1, NOWHERE, 0);
        TRY("init-module", SYS_init_module, NOWHERE, 0UL, NOWHERE);
        TRY("finit-module", SYS_finit_module, -1, NOWHERE, 0);
        TRY("kexec-load", SYS_kexec_load, 0UL, 0UL, NOWHERE, ~0UL);
        TRY("pivot-root", SYS_pivot_root, "/no-such-root", "/no-such-root");
        TRY("quotactl", SYS_quotactl, ~0, NOWHERE, 0, NOWHERE);
        TRY("vsock", SYS_socket, 40, SOCK_STREAM, 0);
        TRY("af-alg", SYS_socket, 38, SOCK_SEQPACKET, 0);
        return 0;
}
