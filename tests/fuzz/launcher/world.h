/* Before every file of the launcher (-include): its system calls go to a made-up kernel, its entry point is a function.
 *
 * sys.h and entry.h are read first; being `#pragma once`, they are not read again, and what they define is replaced.
 */
#pragma once

#include "entry.h"
#include "sys.h"

long world(long number, long a, long b, long c, long d, long e, long f);

#undef SYS_6
#define SYS_6(n, a, b, c, d, e, f, ...) \
        world((n), (long) (a), (long) (b), (long) (c), (long) (d), (long) (e), (long) (f))
#undef ENTRY
#define ENTRY(function)

/* lib.c has its own, and the sanitizer has, too */
#define memset launcher_memset
#define memcpy launcher_memcpy
