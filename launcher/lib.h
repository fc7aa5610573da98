/* Memory, text and descriptors, for a program without a C library. */
#pragma once

#include "sys.h"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define cleanup_close __attribute__((cleanup(close_p)))
#define PATH_SIZE 4096

/* The compiler may call these by name, too. */
void *memset(void *to, int value, usize size);
void *memcpy(void *restrict to, const void *restrict from, usize size);

usize text_length(const char *text);
int text_equal(const char *a, const char *b);
/* 1 when `text` begins with `prefix`. */
int text_begins(const char *text, const char *prefix);
/* Decimal digits and NUL; returns the number of digits.  `out` holds 21 bytes. */
usize text_from_number(char *out, u64 number);
/* Copies with NUL; -ENAMETOOLONG where it does not fit. */
int text_copy(char *out, usize size, const char *text);

/* Zeroed memory that is never given back; NULL when there is none. */
void *memory(usize size);

/* Closes a descriptor that is 0 or more, and forgets it. */
void close_p(int *fd);
/* Hands the descriptor on: the cleanup attribute then closes nothing. */
static inline int take(int *fd) {
        int value = *fd;

        *fd = -1;
        return value;
}

/* Writes all of it or fails; -EINTR is tried again. */
int write_all(int fd, const void *data, usize size);
/* One read, -EINTR tried again. */
long read_some(int fd, void *data, usize size);
