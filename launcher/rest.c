/* corten-rest.so: memory that a process only read is shared again while it rests.
 *
 * CPython writes a reference count for every object that it looks at, so that a forked process soon has pages of its
 * own whose content is what it was.  The zygote puts its heap behind a memfd (rest_base); whoever is forked from it
 * drops, before it sleeps, every page that equals the memfd's (rest_wait).  Nothing changes for the process but who
 * owns the page.
 *
 * One thread only.  No C library: the code must not write to what it compares, and lives outside of it, as its stack does.
 */
#include "sys.h"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mman.h>
#include <linux/signal.h>

#define PAGE 4096UL
#define MAX_REGIONS 256
#define BATCH 256 /* pages looked up at once */
#define ANONYMOUS_MASK ((1ULL << 63) | (1ULL << 61)) /* pagemap.rst: present, and file or shared */
#define ANONYMOUS (1ULL << 63)

struct region {
        u64 start, end, offset; /* offset in the memfd */
};

struct epoll_record {
        u32 events;
        u64 data;
} __attribute__((packed));

static struct region regions[MAX_REGIONS];
static u64 region_count;
static int base_fd = -1;

__attribute__((visibility("default"))) long rest_base(int fd, const u64 *pairs, u64 count);
__attribute__((visibility("default"))) long rest_wait(int epoll_fd, int timeout_ms);

static long store(int fd, u64 start, u64 length, u64 offset) {
        for (u64 done = 0; done < length;) {
                long r = sys(pwrite64, fd, start + done, length - done, offset + done);

                if (r <= 0)
                        return r ? r : -EIO;
                done += (u64) r;
        }
        return 0;
}

/* Puts each of `count` regions (start and end, of whole pages, readable, writable and private) behind the memfd. */
long rest_base(int fd, const u64 *pairs, u64 count) {
        u64 offset = 0;

        if (count > MAX_REGIONS || region_count)
                return -EINVAL;
        for (u64 i = 0; i < count; i++) {
                struct region region = { pairs[2 * i], pairs[2 * i + 1], offset };

                regions[i] = region;
                offset += region.end - region.start;
        }
        for (u64 i = 0; i < count; i++) {
                struct region *region = &regions[i];
                long r = store(fd, region->start, region->end - region->start, region->offset);

                if (r == -EFAULT) { /* given back since the caller has read its map: not worth anything */
                        region->end = region->start;
                        continue;
                }
                if (r < 0)
                        return r;
                r = sys(mmap, region->start, region->end - region->start, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_FIXED, fd, region->offset);
                if (r < 0 && r > -4096)
                        return r;
        }
        base_fd = fd;
        region_count = count;
        return (long) offset;
}

static int is_same(u64 address, u64 offset) {
        u64 base[PAGE / sizeof(u64)];
        const u64 *now = (const u64 *) address;

        if (sys(pread64, base_fd, base, PAGE, offset) != (long) PAGE)
                return 0;
        for (usize i = 0; i < PAGE / sizeof(u64); i++)
                if (now[i] != base[i])
                        return 0;
        return 1;
}

/* Drops the private pages of `count` pages from `address` on that are as they were. */
static void drop_batch(int pagemap, u64 address, u64 offset, u64 count) {
        u64 entries[BATCH], first = 0, length = 0;

        if (sys(pread64, pagemap, entries, count * sizeof(u64), address / PAGE * sizeof(u64)) !=
            (long) (count * sizeof(u64)))
                return;
        for (u64 i = 0; i <= count; i++) {
                u64 at = address + i * PAGE;

                if (i < count && (entries[i] & ANONYMOUS_MASK) == ANONYMOUS && is_same(at, offset + i * PAGE)) {
                        if (!length)
                                first = at;
                        length += PAGE;
                } else if (length) {
                        sys(madvise, first, length, MADV_DONTNEED);
                        length = 0;
                }
        }
}

static void settle(void) {
        int pagemap = (int) sys(openat, AT_FDCWD, "/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

        if (pagemap < 0)
                return;
        for (u64 i = 0; i < region_count; i++) {
                const struct region *region = &regions[i];

                for (u64 at = region->start; at < region->end; at += BATCH * PAGE) {
                        u64 count = (region->end - at) / PAGE;

                        drop_batch(pagemap, at, region->offset + (at - region->start), count < BATCH ? count : BATCH);
                }
        }
        sys(close, pagemap);
}

/* Settles and waits until a descriptor of the epoll is ready; what is ready is left for the caller to ask.
 * 1, 0 after `timeout_ms` (-1: never), or a negative errno. */
long rest_wait(int epoll_fd, int timeout_ms) {
        struct epoll_record record;
        u64 all = ~0ULL, before = 0;

        /* a handler that wrote to a page between its comparison and its end would have written in vain */
        sys(rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof(all));
        settle();
        sys(rt_sigprocmask, SIG_SETMASK, &before, 0, sizeof(before));
        return sys(epoll_pwait, epoll_fd, &record, 1, timeout_ms, 0, 8);
}
