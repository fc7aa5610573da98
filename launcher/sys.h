/* The kernel, without a C library: raw system calls, and the few structures that linux-libc-dev does not give.
 *
 * Every wrapper returns what the kernel returns: a result, or a negative errno.
 */
#pragma once

#include <asm/unistd.h>
#include <linux/types.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s64 s64;
typedef unsigned long usize;

#if defined(__x86_64__)
static inline long syscall6(long n, long a, long b, long c, long d, long e, long f) {
        long result;
        register long r10 __asm__("r10") = d;
        register long r8 __asm__("r8") = e;
        register long r9 __asm__("r9") = f;

        __asm__ volatile("syscall"
                         : "=a"(result)
                         : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                         : "rcx", "r11", "memory");
        return result;
}
#elif defined(__aarch64__)
static inline long syscall6(long n, long a, long b, long c, long d, long e, long f) {
        register long x8 __asm__("x8") = n;
        register long x0 __asm__("x0") = a;
        register long x1 __asm__("x1") = b;
        register long x2 __asm__("x2") = c;
        register long x3 __asm__("x3") = d;
        register long x4 __asm__("x4") = e;
        register long x5 __asm__("x5") = f;

        __asm__ volatile("svc 0"
                         : "+r"(x0)
                         : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                         : "memory");
        return x0;
}
#else
#error "no system calls for this machine yet"
#endif

#define SYS_6(n, a, b, c, d, e, f, ...) \
        syscall6((n), (long) (a), (long) (b), (long) (c), (long) (d), (long) (e), (long) (f))
#define sys(n, ...) SYS_6(__NR_##n, ##__VA_ARGS__, 0, 0, 0, 0, 0, 0)

/* System calls younger than the headers of Debian 12 have the same number everywhere. */
#ifndef __NR_fchmodat2
#define __NR_fchmodat2 452
#endif

/* The kernel's own layouts, which a C library would hide. */
struct io_part {
        void *base;
        usize length;
};

struct message {
        void *name;
        int name_length;
        struct io_part *parts;
        usize part_count;
        void *control;
        usize control_length;
        unsigned flags;
};

struct control_head {
        usize length;
        int level;
        int type;
};

struct signal_action {
        void *handler;
        unsigned long flags;
        void *restorer;
        u64 mask;
};

struct interface_request {
        char name[16];
        short flags;
        char rest[22];
};
