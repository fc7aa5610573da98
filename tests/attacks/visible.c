/* A container with CAP_SYS_PTRACE takes hold of every process that enters it, as early as it can.
 *
 * visible look COUNT   what the processes are at the first stop: one line for each that is not executed yet,
 *                      `CapEff CapPrm CapBnd Seccomp`, then `missed N`
 * visible forge COUNT KIND VALUE   writes a record of this kind into the trace pipe of each, a thousand times for
 *                      kind 0, and then the end of the line above
 * visible take         waits for one that waits for its start: the line of `look`, and then the errno of an
 *                      unshare(CLONE_NEWUTS) that it is made to call, which CAP_SYS_ADMIN alone may */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

struct record {
    uint32_t index, kind;
    uint64_t value;
};

static int last_pid(void) {
    char text[128] = { 0 };
    int fd = open("/proc/loadavg", O_RDONLY);

    if (fd < 0 || read(fd, text, sizeof text - 1) < 0)
        exit(1);
    close(fd);
    return atoi(strrchr(text, ' ') + 1);
}

static int is_launcher(int pid) {
    char path[64], target[256];

    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    ssize_t n = readlink(path, target, sizeof target - 1);

    return n > 0 && !strncmp(target, "/memfd:", 7);
}

static void print_status(int pid) {
    static const char *const names[] = { "CapEff:", "CapPrm:", "CapBnd:", "Seccomp:" };
    char path[64], line[256], values[4][32] = { { 0 } };

    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *file = fopen(path, "r");

    if (!file)
        return;
    while (fgets(line, sizeof line, file))
        for (int i = 0; i < 4; i++)
            if (!strncmp(line, names[i], strlen(names[i])))
                sscanf(line + strlen(names[i]), "%31s", values[i]);
    fclose(file);
    printf("%s %s %s %s\n", values[0], values[1], values[2], values[3]);
    fflush(stdout);
}

/* The trace pipe: of the descriptors above stdio the one that is a pipe. */
static void forge(int pid, uint32_t kind, uint64_t value) {
    char path[320], target[64] = { 0 };

    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    DIR *folder = opendir(path);

    if (!folder)
        return;
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (atoi(entry->d_name) < 3)
            continue;
        snprintf(path, sizeof path, "/proc/%d/fd/%s", pid, entry->d_name);
        ssize_t n = readlink(path, target, sizeof target - 1);

        if (n <= 0 || strncmp(target, "pipe:", 5))
            continue;
        int fd = open(path, O_WRONLY | O_NONBLOCK);
        struct record record = { .index = 0, .kind = kind, .value = value };
        int written = 0;

        for (int i = 0; fd >= 0 && i < (kind ? 1 : 1000); i++)
            written += write(fd, &record, sizeof record) == sizeof record;
        if (fd >= 0)
            close(fd);
        printf("forged %d\n", written);
        fflush(stdout);
    }
    closedir(folder);
}

/* It blocks in read(2). */
static int is_waiting(int pid) {
    char path[64], text[64] = { 0 };

    snprintf(path, sizeof path, "/proc/%d/syscall", pid);
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);

    if (fd >= 0)
        close(fd);
    return n > 0 && isdigit((unsigned char) *text) && atoi(text) == SYS_read;
}

static int find_waiting(void) {
    for (;;) {
        DIR *folder = opendir("/proc");

        for (struct dirent *entry; folder && (entry = readdir(folder));) {
            int pid = atoi(entry->d_name);

            if (pid > 1 && is_launcher(pid) && is_waiting(pid)) {
                closedir(folder);
                return pid;
            }
        }
        if (folder)
            closedir(folder);
        usleep(1000);
    }
}

/* The process, which has to stand in a system call, calls unshare(2) in its place. */
static int make_unshare(int pid) {
#if defined(__x86_64__)
    struct user_regs_struct registers;
    int status;

    ptrace(PTRACE_GETREGS, pid, 0, &registers);
    registers.rip -= 2; /* the instruction `syscall` */
    registers.orig_rax = (unsigned long long) -1;
    registers.rax = SYS_unshare;
    registers.rdi = CLONE_NEWUTS;
    ptrace(PTRACE_SETREGS, pid, 0, &registers);
    ptrace(PTRACE_SINGLESTEP, pid, 0, 0);
    waitpid(pid, &status, __WALL);
    ptrace(PTRACE_GETREGS, pid, 0, &registers);
    return -(int) registers.rax;
#else
    return pid ? ENOSYS : 0; /* the registers of other machines are not known here */
#endif
}

static int take(void) {
    int pid = find_waiting(), status;

    if (ptrace(PTRACE_SEIZE, pid, 0, 0) < 0) {
        perror("seize");
        return 1;
    }
    ptrace(PTRACE_INTERRUPT, pid, 0, 0);
    waitpid(pid, &status, __WALL);
    print_status(pid);
    printf("%d\n", make_unshare(pid)); /* it is not put back: what becomes of it does not matter */
    fflush(stdout);
    ptrace(PTRACE_DETACH, pid, 0, 0);
    /* whoever is first in a pid namespace cannot end before everybody in it has been reaped */
    return pause();
}

int main(int argc, char **argv) {
    if (!strcmp(argv[1], "take"))
        return take();

    int count = atoi(argv[2]), missed = 0, next = last_pid() + 1;
    int forging = !strcmp(argv[1], "forge");

    printf("ready\n");
    fflush(stdout);
    for (long turn = 0; count > 0; turn++) {
        if (ptrace(PTRACE_SEIZE, next, 0, 0) < 0) {
            int last = turn % 512 ? 0 : last_pid();

            if (last < next)
                continue;
            /* it came and went */
            missed += last + 1 - next;
            count -= last + 1 - next;
            next = last + 1;
            continue;
        }
        int status;

        ptrace(PTRACE_INTERRUPT, next, 0, 0);
        waitpid(next, &status, __WALL);
        if (WIFSTOPPED(status) && is_launcher(next)) {
            print_status(next);
            if (forging)
                forge(next, (uint32_t) strtoul(argv[3], 0, 10), strtoull(argv[4], 0, 10));
        } else {
            missed++;
        }
        if (WIFSTOPPED(status))
            ptrace(PTRACE_DETACH, next, 0, 0);
        next++;
        count--;
    }
    printf("missed %d\n", missed);
    return 0;
}
