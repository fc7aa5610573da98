/* A server and its load, for bench/network.py; static, so that it runs in any container.
 *
 * serve PORT                        answers a byte with a byte, over IPv4 and IPv6, for ever
 * connect ADDRESS PORT SECONDS      connections, one after the other, a byte there and back in each: prints how many, and how many failed
 * resolve SERVER NAME SECONDS N     A queries, N at any time: prints how many a second, the 99th percentile in µs, and how many were lost
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { QUERIES_MAX = 64, TAKEN_MAX = 1 << 20, PATIENCE_MS = 5000 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int serve(int port) {
    const struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    const int yes = 1, no = 0, poll = epoll_create1(0);
    int listener = socket(AF_INET6, SOCK_STREAM, 0);
    if (listener >= 0)
        setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
    const struct sockaddr_in any4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (listener < 0 || bind(listener, (const struct sockaddr *)&any, sizeof any) != 0) {
        close(listener); /* no IPv6 here */
        listener = socket(AF_INET, SOCK_STREAM, 0);
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
        if (bind(listener, (const struct sockaddr *)&any4, sizeof any4) != 0)
            return 1;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    if (listen(listener, 4096) != 0 || epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event) != 0)
        return 1;
    for (;;) {
        char byte;
        if (epoll_wait(poll, &event, 1, -1) != 1)
            continue;
        const int fd = event.data.fd;
        if (fd == listener) {
            event.data.fd = accept(listener, NULL, NULL);
            event.events = EPOLLIN;
            if (event.data.fd >= 0)
                epoll_ctl(poll, EPOLL_CTL_ADD, event.data.fd, &event);
        } else if (read(fd, &byte, 1) != 1 || write(fd, &byte, 1) != 1) {
            close(fd);
        }
    }
}

static int asked(const struct sockaddr_in *whom) {
    const struct linger reset = {1, 0}; /* leaves nothing in TIME_WAIT: ports would run out */
    const struct timeval patience = {PATIENCE_MS / 1000, 0};
    char byte = 'x';
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    const int good = connect(fd, (const struct sockaddr *)whom, sizeof *whom) == 0 && write(fd, &byte, 1) == 1 &&
                     read(fd, &byte, 1) == 1;
    close(fd);
    return good;
}

static int connects(const char *address, int port, double seconds) {
    struct sockaddr_in whom = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    long done = 0, failed = 0;
    if (inet_pton(AF_INET, address, &whom.sin_addr) != 1)
        return 2;
    const double end = now() + seconds;
    while (now() < end)
        *(asked(&whom) ? &done : &failed) += 1;
    printf("%ld %ld\n", done, failed);
    return 0;
}

static size_t question(unsigned char *out, const char *name) {
    unsigned char *at = out + 12;
    memcpy(out, "\0\0\1\0\0\1\0\0\0\0\0\0", 12);
    while (*name != '\0') {
        const size_t length = strcspn(name, ".");
        *at++ = (unsigned char)length;
        at = mempcpy(at, name, length);
        name += length + (name[length] == '.');
    }
    memcpy(at, "\0\0\1\0\1", 5);
    return (size_t)(at + 5 - out);
}

static int by_size(const void *one, const void *other) {
    const float a = *(const float *)one, b = *(const float *)other;
    return (a > b) - (a < b);
}

static int resolve(const char *server, const char *name, double seconds, int at_once) {
    static float taken[TAKEN_MAX];
    struct sockaddr_in whom = {.sin_family = AF_INET, .sin_port = htons(53)};
    struct pollfd polled[QUERIES_MAX];
    double sent[QUERIES_MAX];
    unsigned char query[300], answer[4096];
    long answers = 0, lost = 0;
    if (at_once < 1 || at_once > QUERIES_MAX || strlen(name) > 250 || inet_pton(AF_INET, server, &whom.sin_addr) != 1)
        return 2;
    const size_t length = question(query, name);
    const double began = now(), end = began + seconds;
    for (int i = 0; i < at_once; i++) {
        polled[i] = (struct pollfd){socket(AF_INET, SOCK_DGRAM, 0), POLLIN, 0};
        sent[i] = now();
        if (connect(polled[i].fd, (struct sockaddr *)&whom, sizeof whom) != 0 || send(polled[i].fd, query, length, 0) < 0)
            return 1;
    }
    while (now() < end && answers < TAKEN_MAX) {
        if (poll(polled, (nfds_t)at_once, 1000) < 0)
            return 1;
        for (int i = 0; i < at_once; i++) {
            const ssize_t got = polled[i].revents ? recv(polled[i].fd, answer, sizeof answer, MSG_DONTWAIT) : 0;
            if (polled[i].revents && got > 12 && (answer[3] & 15) == 0 && answer[7] > 0)
                taken[answers++] = (float)((now() - sent[i]) * 1e6);
            else if (polled[i].revents || now() - sent[i] > PATIENCE_MS / 1e3)
                lost++;
            else
                continue;
            if (answers == TAKEN_MAX)
                break;
            sent[i] = now();
            send(polled[i].fd, query, length, 0);
        }
    }
    const double spent = now() - began;
    qsort(taken, (size_t)answers, sizeof *taken, by_size);
    printf("%.0f %.0f %ld\n", (double)answers / spent, answers ? taken[answers * 99 / 100] : 0, lost);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "serve") == 0)
        return serve(atoi(argv[2]));
    if (argc == 5 && strcmp(argv[1], "connect") == 0)
        return connects(argv[2], atoi(argv[3]), atof(argv[4]));
    if (argc == 6 && strcmp(argv[1], "resolve") == 0)
        return resolve(argv[2], argv[3], atof(argv[4]), atoi(argv[5]));
    return 2;
}
