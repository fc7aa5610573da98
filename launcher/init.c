/* corten-init [--] PROGRAM [ARGUMENT…]: the first process of a container with `--init`.
 *
 * It runs the program as its child, hands it every signal that it gets itself, collects the orphans that end up with
 * it, and ends as the child ends: with its status, or 128 and the number of the signal that killed it.
 * The program is looked for in PATH.  Like tini, which Docker calls docker-init.
 */
#include "entry.h"
#include "lib.h"

#include <asm/ioctls.h>
#include <asm/signal.h>
#include <linux/errno.h>
#include <linux/wait.h>

#define EXIT_CANNOT_INVOKE 126
#define EXIT_NOT_FOUND 127
#define EXIT_SIGNALLED 128
#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define BIT(signal) (1ULL << ((signal) - 1))

/* What a defect of this program raises must not be waited for, but end it. */
static const u64 OWN = BIT(SIGFPE) | BIT(SIGILL) | BIT(SIGSEGV) | BIT(SIGBUS) | BIT(SIGABRT) | BIT(SIGTRAP) | BIT(SIGSYS);

static void say(const char *text) {
        write_all(2, text, text_length(text));
}

static const char *find_path(char **environment) {
        for (; *environment; environment++)
                if (text_begins(*environment, "PATH="))
                        return *environment + 5;
        return DEFAULT_PATH;
}

/* execvp(3): the first directory of PATH that has it; a refusal counts only when no other has it. */
static long execute(char **arguments, char **environment) {
        const char *name = arguments[0];
        const char *path = find_path(environment);
        char candidate[PATH_SIZE];
        long result = -ENOENT;

        for (const char *at = name; *at; at++)
                if (*at == '/')
                        return sys(execve, name, arguments, environment);
        while (*path) {
                usize length = 0;

                while (path[length] && path[length] != ':')
                        length++;
                if (length && length + text_length(name) + 2 <= sizeof(candidate)) {
                        memcpy(candidate, path, length);
                        candidate[length] = '/';
                        text_copy(candidate + length + 1, sizeof(candidate) - length - 1, name);

                        long refused = sys(execve, candidate, arguments, environment);

                        if (refused == -EACCES)
                                result = refused;
                }
                path += length;
                if (*path == ':')
                        path++;
        }
        return result;
}

/* In the child: a process group of its own, in the foreground of the terminal where there is one. */
static void become(char **arguments, char **environment, const u64 *before) {
        int group = (int) sys(getpid);
        struct signal_action ignore = { .handler = (void *) 1 }, normal = { 0 };

        sys(setpgid, 0, 0);
        sys(rt_sigaction, SIGTTOU, &ignore, 0, sizeof(ignore.mask));
        sys(ioctl, 0, TIOCSPGRP, &group);
        sys(rt_sigaction, SIGTTOU, &normal, 0, sizeof(normal.mask));
        sys(rt_sigprocmask, SIG_SETMASK, before, 0, sizeof(*before));

        long result = execute(arguments, environment);

        say("corten-init: exec ");
        say(arguments[0]);
        say(result == -EACCES ? ": permission denied\n" : result == -ENOENT ? ": not found\n" : ": cannot be executed\n");
        sys(exit_group, result == -ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_INVOKE);
}

/* Collects every child that has ended; the exit status once the main one has, else -1. */
static int collect(long child) {
        int status = 0;
        int result = -1;
        long pid;

        while ((pid = sys(wait4, -1, &status, WNOHANG, 0)) > 0) {
                int number = status & 0x7f;

                if (pid == child)
                        result = number ? EXIT_SIGNALLED + number : (status >> 8) & 0xff;
        }
        return result;
}

static int run(char **arguments, char **environment) {
        u64 before = 0;
        u64 all = ~OWN;

        sys(rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof(all));

        long child = sys(clone, SIGCHLD, 0, 0, 0, 0);

        if (child < 0) {
                say("corten-init: fork failed\n");
                return EXIT_CANNOT_INVOKE;
        }
        if (child == 0)
                become(arguments, environment, &before);
        for (;;) {
                long number = sys(rt_sigtimedwait, &all, 0, 0, sizeof(all));

                if (number == SIGCHLD) {
                        int result = collect(child);

                        if (result >= 0)
                                return result;
                } else if (number > 0) {
                        sys(kill, child, number);
                }
        }
}

/* The kernel's stack: argc, argv, NULL, envp, NULL. */
__attribute__((used)) void init_main(long *stack) {
        long count = stack[0];
        char **arguments = (char **) (stack + 1);
        char **environment = arguments + count + 1;
        long first = count > 1 && text_equal(arguments[1], "--") ? 2 : 1;

        if (first >= count) {
                say("usage: corten-init [--] PROGRAM [ARGUMENT...]\n");
                sys(exit_group, 1);
        }
        sys(exit_group, run(arguments + first, environment));
}

ENTRY(init_main);
