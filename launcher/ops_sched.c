/* Ops of scheduling: processors, policies, where memory comes from, and what the kernel pretends to be. */
#include "ops.h"

#include <linux/errno.h>
#include <linux/ioprio.h>
#include <linux/sched/types.h>

int op_personality(struct launch *l, struct cursor *c) {
        u64 domain = get_number(c);

        if (c->error)
                return c->error;

        long r = sys(personality, domain);

        return r < 0 ? (int) r : 0;
}

int op_set_scheduler(struct launch *l, struct cursor *c) {
        struct sched_attr attr = { .size = sizeof(attr) };

        attr.sched_policy = (u32) get_number(c);
        attr.sched_flags = get_number(c);
        attr.sched_nice = (int) get_number(c);
        attr.sched_priority = (u32) get_number(c);
        attr.sched_runtime = get_number(c);
        attr.sched_deadline = get_number(c);
        attr.sched_period = get_number(c);
        return c->error ? c->error : (int) sys(sched_setattr, 0, &attr, 0);
}

int op_set_io_priority(struct launch *l, struct cursor *c) {
        u64 value = get_number(c);

        return c->error ? c->error : (int) sys(ioprio_set, IOPRIO_WHO_PROCESS, 0, value);
}

int op_set_affinity(struct launch *l, struct cursor *c) {
        struct bytes mask = get_bytes(c);

        if (c->error)
                return c->error;

        long r = sys(sched_setaffinity, 0, mask.size, mask.data);

        return r < 0 ? (int) r : 0;
}

int op_set_mempolicy(struct launch *l, struct cursor *c) {
        u64 mode = get_number(c);
        struct bytes nodes = get_bytes(c);

        if (c->error)
                return c->error;
        /* the kernel counts one bit more than it reads */
        return (int) sys(set_mempolicy, (int) mode, nodes.size ? nodes.data : 0, nodes.size ? nodes.size * 8UL + 1 : 0);
}
