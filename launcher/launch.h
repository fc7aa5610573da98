/* The launcher: executes a plan, step by step, and says where it is and where it failed.
 *
 * It knows no JSON, no OCI word and no default.  The plan comes in a sealed memfd (its form: corten/launch/encode.py);
 * the trace goes out through a pipe in records of 16 bytes (corten/launch/spawn.py).
 */
#pragma once

#include "lib.h"

#define MAX_SLOTS 1024
#define NO_SLOT (~0ULL)

/* Who runs an op after Clone. */
enum side { CHILD, LAUNCHER };

/* One record of the trace; kinds from 1 to 4095 are an errno, and the value is then a detail. */
struct record {
        u32 index;
        u32 kind;
        u64 value;
};

enum record_kind {
        RECORD_STEP = 0,
        RECORD_STARTED = 65536,
        RECORD_WAITING = 65537,
        RECORD_TEXT = 65538,
        RECORD_LAUNCHER = 65539,
};

struct launch {
        int slots[MAX_SLOTS]; /* descriptors by slot, -1 for none */
        u32 slot_count;
        int trace_fd;
        u32 index;  /* the op that runs */
        enum side side;
        int cloned;
        int child;            /* pid of the child, in the launcher after Clone */
        int new_time;         /* unshare(2) has made a time namespace: the child's clock will be another */
        u64 clock_ahead;      /* of a clock that was entered, to the one that the trace began with */
        int chdir_refused;    /* the first chdir was refused: the second one, with the user's ids, counts */
        int empty_attached;   /* Mask has put its empty directory somewhere */
        int exec_prepared;    /* nothing stands between here and execve */
        const char *program;  /* found by FindExecutable */
        const char *home;     /* "HOME=…", found by SetHome */
        u64 detail;           /* goes with the errno of a failure */
        char text[1088];      /* what explains a failure: the kernel's words, the output of a hook */
        struct record records[64]; /* of the trace, not yet written: a write for each step would wake its reader */
        u32 record_count;
};

/* Where an op's next field is read.  `error` stays once set, so that an op checks once, after its last field. */
struct cursor {
        const u8 *at;
        const u8 *end;
        int error;
};

struct list {
        u64 count;
        struct cursor items;
};

struct bytes {
        const u8 *data;
        u32 size;
};

u64 get_number(struct cursor *c);
const char *get_text(struct cursor *c);
struct bytes get_bytes(struct cursor *c);
struct list get_list(struct cursor *c);
/* A NULL-terminated vector of the texts in a list and then `last`, which may be NULL; NULL without memory. */
const char **get_texts(struct cursor *c, const char *last);

/* The descriptor of a slot, or -EBADF. */
int slot_fd(struct launch *l, u64 slot);
/* Puts a descriptor (or passes on an error) into a slot, which owns it from then on. */
int slot_set(struct launch *l, u64 slot, long fd);

/* CLOCK_MONOTONIC, as it was where the trace began. */
u64 now_ns(struct launch *l);

/* A step begins.  Written later, with what follows: after 64 steps, or when somebody waits for it. */
void trace_step(struct launch *l);
/* The launcher goes on in this process.  Written later, too, but before there is a child. */
void trace_launcher(struct launch *l);
/* Something that the parent acts on. */
void trace_now(struct launch *l, u32 kind, u64 value);
/* The failure of a step, behind the kernel's explanation. */
void trace_failure(struct launch *l, int error);
/* Before a step that may take long, never returns, or may not write any more. */
void trace_flush(struct launch *l);
/* Before seccomp, or execve without it: the trace is written, SIGPIPE has its default again. */
void prepare_exec(struct launch *l);

typedef int (*op_function)(struct launch *l, struct cursor *c);
