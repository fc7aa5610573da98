/* The first instruction of a program without a C library: ENTRY(function) calls it with the kernel's stack. */
#pragma once

#if defined(__x86_64__)
#define ENTRY(function)                 \
        __asm__(".globl _start\n"       \
                "_start:\n"             \
                "xor %ebp, %ebp\n"      \
                "mov %rsp, %rdi\n"      \
                "and $-16, %rsp\n"      \
                "call " #function "\n")
#elif defined(__aarch64__)
#define ENTRY(function)                 \
        __asm__(".globl _start\n"       \
                "_start:\n"             \
                "mov x29, #0\n"         \
                "mov x30, #0\n"         \
                "mov x0, sp\n"          \
                "bl " #function "\n")
#endif
