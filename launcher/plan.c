/* Reading the plan's fields (corten/launch/encode.py), the slots, and the trace. */
#include "launch.h"

#include <linux/errno.h>
#include <linux/signal.h>
#include <linux/time.h>

static const u8 *get(struct cursor *c, u64 size) {
        if (c->error || size > (u64) (c->end - c->at)) {
                c->error = -EBADMSG;
                return (void *) 0;
        }

        const u8 *at = c->at;

        c->at += size;
        return at;
}

u64 get_number(struct cursor *c) {
        const u64 *number = (const void *) get(c, sizeof(*number));

        return number ? *number : 0;
}

struct bytes get_bytes(struct cursor *c) {
        const u32 *size = (const void *) get(c, sizeof(*size));
        struct bytes bytes = { .data = (const u8 *) "", .size = 0 };

        if (!size)
                return bytes;

        /* the bytes, NUL, and padding so that the next field is on a multiple of 8 */
        u64 padded = (((u64) *size + 5 + 7) & ~7ULL) - sizeof(*size);
        const u8 *data = get(c, padded);

        if (data && data[*size] == 0)
                bytes = (struct bytes){ .data = data, .size = *size };
        else
                c->error = -EBADMSG;
        return bytes;
}

const char *get_text(struct cursor *c) {
        return (const char *) get_bytes(c).data;
}

struct list get_list(struct cursor *c) {
        struct list list = { .count = get_number(c) };

        list.items = *c;
        return list;
}

const char **get_texts(struct cursor *c, const char *last) {
        u64 count = get_number(c);

        if (c->error || count > (u64) (c->end - c->at) / 8)
                return (void *) 0;

        const char **texts = memory((count + 2) * sizeof(*texts));
        u64 at = 0;

        if (!texts)
                return texts;
        while (count--)
                texts[at++] = get_text(c);
        texts[at] = last;
        return texts;
}

int slot_fd(struct launch *l, u64 slot) {
        return slot < l->slot_count && l->slots[slot] >= 0 ? l->slots[slot] : -EBADF;
}

int slot_set(struct launch *l, u64 slot, long fd) {
        if (fd < 0)
                return (int) fd;
        if (slot >= l->slot_count) {
                sys(close, fd);
                return -EBADMSG;
        }
        close_p(&l->slots[slot]);
        l->slots[slot] = (int) fd;
        return 0;
}

u64 now_ns(struct launch *l) {
        struct __kernel_timespec now = { 0 };

        sys(clock_gettime, CLOCK_MONOTONIC, &now);
        return (u64) now.tv_sec * 1000000000ULL + (u64) now.tv_nsec - l->clock_ahead;
}

/* A reader that is gone (a command that has ended) is no failure of the container. */
void trace_flush(struct launch *l) {
        if (l->record_count)
                sys(write, l->trace_fd, l->records, l->record_count * sizeof(*l->records));
        l->record_count = 0;
}

static void append(struct launch *l, u32 kind, u64 value) {
        if (l->record_count == ARRAY_SIZE(l->records))
                trace_flush(l);
        l->records[l->record_count++] = (struct record){ .index = l->index, .kind = kind, .value = value };
}

void trace_step(struct launch *l) {
        append(l, RECORD_STEP, now_ns(l));
}

void trace_launcher(struct launch *l) {
        append(l, RECORD_LAUNCHER, (u64) sys(getpid));
}

void trace_now(struct launch *l, u32 kind, u64 value) {
        append(l, kind, value);
        trace_flush(l);
}

void trace_failure(struct launch *l, int error) {
        _Static_assert(sizeof(l->text) % 8 == 0, "the text goes out by eight bytes");

        /* alone, so that no record of the other process comes between the text and its error */
        trace_flush(l);
        for (usize at = 0; l->text[at]; at += 8) {
                u64 value = 0;

                for (usize i = 0; i < 8 && l->text[at + i]; i++)
                        ((char *) &value)[i] = l->text[at + i];
                append(l, RECORD_TEXT, value);
                if (at + 8 >= sizeof(l->text) || !l->text[at + 7])
                        break;
        }
        append(l, (u32) -error, l->detail);
        trace_flush(l);
}

void prepare_exec(struct launch *l) {
        struct signal_action action = { 0 };

        if (l->exec_prepared)
                return;
        trace_flush(l);
        sys(rt_sigaction, SIGPIPE, &action, 0, sizeof(action.mask));
        l->exec_prepared = 1;
}
