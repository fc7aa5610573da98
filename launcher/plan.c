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

const char **get_texts(struct cursor *c, const char *first) {
        u64 count = get_number(c);

        if (c->error || count > (u64) (c->end - c->at) / 8)
                return (void *) 0;

        const char **texts = memory((count + 2) * sizeof(*texts));
        u64 at = 0;

        if (!texts)
                return texts;
        if (first)
                texts[at++] = first;
        while (count--)
                texts[at++] = get_text(c);
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

static u64 now_ns(void) {
        struct __kernel_timespec now = { 0 };

        sys(clock_gettime, CLOCK_MONOTONIC, &now);
        return (u64) now.tv_sec * 1000000000ULL + (u64) now.tv_nsec;
}

/* A reader that is gone (a command that has ended) is no failure of the container. */
void trace(struct launch *l, u32 kind, u64 value) {
        struct record record = { .index = l->index, .kind = kind, .value = value };

        if (kind == RECORD_STEP || kind == RECORD_WAITING)
                record.value = now_ns();
        sys(write, l->trace_fd, &record, sizeof(record));
}

void trace_failure(struct launch *l, int error) {
        struct record records[sizeof(l->text) / 8 + 1];
        usize count = 0;

        for (usize at = 0; at < sizeof(l->text) && l->text[at]; at += 8, count++) {
                records[count] = (struct record){ .index = l->index, .kind = RECORD_TEXT };
                for (usize i = 0; i < 8 && l->text[at + i]; i++)
                        ((char *) &records[count].value)[i] = l->text[at + i];
        }
        records[count++] = (struct record){ .index = l->index, .kind = (u32) -error, .value = l->detail };
        sys(write, l->trace_fd, records, count * sizeof(*records));
}

void restore_sigpipe(struct launch *l) {
        struct signal_action action = { 0 };

        if (!l->pipe_restored)
                sys(rt_sigaction, SIGPIPE, &action, 0, sizeof(action.mask));
        l->pipe_restored = 1;
}
