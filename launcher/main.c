/* corten-launch FD: execute the plan in the memfd FD. */
#include "entry.h"
#include "ops.h"

#include <linux/close_range.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mman.h>
#include <linux/prctl.h>
#include <linux/signal.h>
#include <asm/stat.h>

struct op {
        op_function run;
        enum side side;
};

#define X(number, function, op_side) [number] = { .run = function, .side = op_side },
static const struct op table[] = { OPS(X) };
#undef X

#define MAX_FD (1 << 20) /* fs.nr_open, unless somebody raises it */

struct header {
        char magic[8];
        u32 op_count;
        u32 slot_count;
        int trace_fd;
        u32 preserve_fds;
        u32 size;
        u32 zero;
        int slots[];
};

struct op_header {
        u16 code;
        u16 zero;
        u32 size;
};

static const char MAGIC[8] = "CORTEN\0\1";
static struct launch launch;

static long number_from_text(const char *text) {
        long number = 0;

        for (; *text >= '0' && *text <= '9'; text++)
                number = number * 10 + (*text - '0');
        return number;
}

/* Where the ops begin, from the start of the plan. */
static usize ops_offset(const struct header *header) {
        return (sizeof(*header) + header->slot_count * sizeof(int) + 7) & ~7UL;
}

/* Descriptors that can be, so that nothing below counts beyond them. */
static int is_sound(const struct header *header) {
        if (header->trace_fd < 0 || header->trace_fd >= MAX_FD || header->preserve_fds >= MAX_FD)
                return 0;
        for (u32 i = 0; i < header->slot_count; i++)
                if (header->slots[i] < -1 || header->slots[i] >= MAX_FD)
                        return 0;
        return 1;
}

static const struct header *map_plan(int fd) {
        struct stat st;

        if (sys(fstat, fd, &st) < 0 || (usize) st.st_size < sizeof(struct header))
                return (void *) 0;

        long address = sys(mmap, 0, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        const struct header *header = (const void *) address;

        if (address < 0 && address > -4096)
                return (void *) 0;
        for (usize i = 0; i < sizeof(MAGIC); i++)
                if (header->magic[i] != MAGIC[i])
                        return (void *) 0;
        if (header->size != (u64) st.st_size || header->slot_count > MAX_SLOTS ||
            ops_offset(header) > header->size || !is_sound(header))
                return (void *) 0;
        return header;
}

static int is_kept(const struct header *header, int fd) {
        if (fd < 3 + (int) header->preserve_fds || fd == launch.trace_fd)
                return 1;
        for (u32 i = 0; i < header->slot_count; i++)
                if (header->slots[i] == fd)
                        return 1;
        return 0;
}

/* Closes whatever came along by accident, and lets nothing of ours pass the execve. */
static void close_strangers(const struct header *header) {
        int last = launch.trace_fd;

        for (u32 i = 0; i < header->slot_count; i++)
                if (header->slots[i] > last)
                        last = header->slots[i];
        for (int fd = 3; fd <= last; fd++)
                if (!is_kept(header, fd))
                        sys(close, fd);
        sys(close_range, (last < 2 + (int) header->preserve_fds ? 2 + (int) header->preserve_fds : last) + 1, ~0U, 0);
        for (u32 i = 0; i < header->slot_count; i++)
                if (header->slots[i] >= 0)
                        sys(fcntl, header->slots[i], F_SETFD, FD_CLOEXEC);
        sys(fcntl, launch.trace_fd, F_SETFD, FD_CLOEXEC);
}

static void start(const struct header *header) {
        struct signal_action standard = { 0 }, ignore = { .handler = SIG_IGN };

        launch.trace_fd = header->trace_fd;
        launch.slot_count = header->slot_count;
        for (u32 i = 0; i < header->slot_count; i++)
                launch.slots[i] = header->slots[i];
        for (int number = 1; number <= 64; number++)
                sys(rt_sigaction, number, &standard, 0, sizeof(standard.mask));
        /* whoever reads the trace may be gone when we write: that must not end the container */
        sys(rt_sigaction, SIGPIPE, &ignore, 0, sizeof(ignore.mask));
        /* for ps: until execve the name would be the descriptor's number */
        sys(prctl, PR_SET_NAME, "corten-launch");
        close_strangers(header);
}

/* One op; the cursor stands at its header.  0, or a negative errno. */
static int step(const u8 **at, const u8 *end) {
        const struct op_header *op = (const void *) *at;

        if ((usize) (end - *at) < sizeof(*op) || op->size < sizeof(*op) || op->size > (u64) (end - *at) ||
            op->code >= ARRAY_SIZE(table) || !table[op->code].run)
                return -EBADMSG;

        struct cursor cursor = { .at = *at + sizeof(*op), .end = *at + op->size };

        *at += op->size;
        if (launch.cloned && table[op->code].side != launch.side)
                return 0;
        if (!launch.exec_prepared)
                trace_step(&launch);
        launch.detail = 0;

        int r = table[op->code].run(&launch, &cursor);

        return r < 0 ? r : cursor.error;
}

/* Ends with 0 in the launcher, whose child goes on, and with 1 after a failure. */
__attribute__((noreturn, used)) void launch_main(long *stack) {
        const char **argv = (const char **) (stack + 1);
        int plan_fd = stack[0] == 2 ? (int) number_from_text(argv[1]) : -1;
        const struct header *header = plan_fd < 3 ? (void *) 0 : map_plan(plan_fd);

        if (!header)
                sys(exit_group, 2);
        sys(close, plan_fd);
        start(header);

        const u8 *at = (const u8 *) header + ops_offset(header), *end = (const u8 *) header + header->size;

        for (launch.index = 0; launch.index < header->op_count; launch.index++) {
                int r = step(&at, end);

                if (r < 0) {
                        trace_failure(&launch, r);
                        sys(exit_group, 1);
                }
        }
        trace_flush(&launch);
        sys(exit_group, 0);
        __builtin_unreachable();
}

ENTRY(launch_main);
