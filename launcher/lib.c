#include "lib.h"

#include <linux/errno.h>
#include <linux/mman.h>

void *memset(void *to, int value, usize size) {
        u8 *at = to;

        while (size--)
                *at++ = (u8) value;
        return to;
}

void *memcpy(void *restrict to, const void *restrict from, usize size) {
        u8 *at = to;
        const u8 *source = from;

        while (size--)
                *at++ = *source++;
        return to;
}

usize text_length(const char *text) {
        usize length = 0;

        while (text[length])
                length++;
        return length;
}

int text_equal(const char *a, const char *b) {
        while (*a && *a == *b)
                a++, b++;
        return *a == *b;
}

int text_begins(const char *text, const char *prefix) {
        while (*prefix)
                if (*text++ != *prefix++)
                        return 0;
        return 1;
}

usize text_from_number(char *out, u64 number) {
        char digits[20];
        usize count = 0;

        do
                digits[count++] = (char) ('0' + number % 10);
        while (number /= 10);
        for (usize i = 0; i < count; i++)
                out[i] = digits[count - 1 - i];
        out[count] = 0;
        return count;
}

int text_copy(char *out, usize size, const char *text) {
        usize length = text_length(text);

        if (length >= size)
                return -ENAMETOOLONG;
        memcpy(out, text, length + 1);
        return 0;
}

void *memory(usize size) {
        long address = sys(mmap, 0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        return address < 0 && address > -4096 ? (void *) 0 : (void *) address;
}

void close_p(int *fd) {
        if (*fd >= 0)
                sys(close, *fd);
        *fd = -1;
}

int write_all(int fd, const void *data, usize size) {
        const u8 *at = data;

        while (size) {
                long written = sys(write, fd, at, size);

                if (written == -EINTR)
                        continue;
                if (written < 0)
                        return (int) written;
                at += written;
                size -= (usize) written;
        }
        return 0;
}

long read_some(int fd, void *data, usize size) {
        long count;

        do
                count = sys(read, fd, data, size);
        while (count == -EINTR);
        return count;
}
