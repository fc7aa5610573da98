/* Any plan in any world: main.c maps the plan that libFuzzer made, and every system call is answered by its input.
 *
 *     u16 n, n bytes of answers, the plan
 *
 * A plan may fail, or get as far as execve; it must end by exit_group or execve, and read nothing but itself and what a
 * system call gave it.  What it hands to the kernel is read here, so that the sanitizer sees its bounds.
 */
#include "main.c"

#include <linux/filter.h>
#include <linux/poll.h>
#include <linux/sched.h>
#include <linux/stat.h>
#include <asm/statfs.h>

/* The C library's headers and the kernel's do not go together. */
void *malloc(usize size);
void *calloc(usize count, usize size);
void free(void *block);
int _setjmp(long *where) __attribute__((returns_twice));
void longjmp(long *where, int value) __attribute__((noreturn));
usize LLVMFuzzerMutate(u8 *data, usize size, usize max_size);

/* loops are as long as the answers; this ends what needs none */
#define MAX_CALLS 4000
#define MAX_MEMORY (4 << 20)
#define MAX_BLOCKS 256

enum ending { RUNS, EXITED, EXECUTED, TIRED };

static long over[64];
static const u8 *answers, *answers_end;
static void *blocks[MAX_BLOCKS];
static usize block_count, block_bytes;
static const u8 *plan;
static usize plan_size;
static int calls, next_fd;
static volatile unsigned sum;

static u8 answer(void) {
        return answers < answers_end ? *answers++ : 0;
}

__attribute__((noreturn)) static void finish(enum ending ending) {
        longjmp(over, ending);
}

static void touch(const void *data, usize size) {
        for (usize i = 0; i < size; i++)
                sum += ((const u8 *) data)[i];
}

static void touch_text(const char *text) {
        while (*text)
                sum += (u8) *text++;
}

static void touch_texts(const char **texts) {
        for (; *texts; texts++)
                touch_text(*texts);
}

static void touch_message(const struct message *message) {
        touch(message, sizeof(*message));
        touch(message->control, message->control_length);
        for (usize i = 0; i < message->part_count; i++)
                touch(message->parts[i].base, message->parts[i].length);
}

static long fill(void *data, usize size) {
        usize count = answer();

        if (count > size)
                count = size;
        for (usize i = 0; i < count; i++)
                ((u8 *) data)[i] = answer();
        return (long) count;
}

static void fill_stat(struct stat *st) {
        static const unsigned modes[] = { S_IFREG | 0755, S_IFDIR | 0755, S_IFCHR | 0666, S_IFLNK, S_IFIFO, S_IFREG };
        static const u16 devices[] = { 0x103, 0x105, 0x502, 0 };

        for (usize i = 0; i < sizeof(*st); i++)
                ((u8 *) st)[i] = 0;
        st->st_mode = modes[answer() % ARRAY_SIZE(modes)];
        st->st_rdev = devices[answer() % ARRAY_SIZE(devices)];
        st->st_uid = answer() & 1;
        st->st_size = answer();
}

/* Entries as getdents64(2) gives them. */
static long fill_entries(u8 *buffer) {
        static const char *const names[] = { ".", "..", "a", "long-name" };
        long used = 0;

        for (int count = answer() % 4; count > 0; count--) {
                const char *name = names[answer() % ARRAY_SIZE(names)];
                usize length = 19, i = 0;

                for (; i < 8 + 8; i++)
                        buffer[used + (long) i] = 0;
                do
                        buffer[used + (long) length++] = (u8) *name;
                while (*name++);
                length = (length + 7) & ~7UL;
                buffer[used + 16] = (u8) length;
                buffer[used + 17] = 0;
                buffer[used + 18] = 0;
                used += (long) length;
        }
        return used;
}

static long map_memory(usize size, int fd) {
        if (fd >= 0) {
                u8 *copy = malloc(plan_size);

                for (usize i = 0; i < plan_size; i++)
                        copy[i] = plan[i];
                blocks[block_count++] = copy;
                return (long) copy;
        }
        block_bytes += size;
        if (block_count == MAX_BLOCKS || block_bytes > MAX_MEMORY)
                return -ENOMEM;
        return (long) (blocks[block_count++] = calloc(1, size));
}

static int is_failing(long number) {
        return number != __NR_exit_group && number != __NR_close && number != __NR_clock_gettime;
}

/* Calls that read memory of the launcher. */
static void look(long number, long a, long b, long c, long d, long e) {
        switch (number) {
        case __NR_openat: case __NR_openat2: case __NR_mkdirat: case __NR_mknodat: case __NR_newfstatat:
        case __NR_readlinkat: case __NR_fchmodat: case __NR_fchownat: case __NR_open_tree: case __NR_faccessat2:
        case __NR_utimensat: case __NR_fspick: case __NR_mount_setattr:
                touch_text((const char *) b);
                if (number == __NR_openat2)
                        touch((const void *) c, (usize) d);
                break;
        case __NR_chdir: case __NR_chroot: case __NR_memfd_create: case __NR_fsopen: case __NR_umount2:
                touch_text((const char *) a);
                break;
        case __NR_move_mount:
                touch_text((const char *) b);
                touch_text((const char *) d);
                break;
        case __NR_symlinkat:
                touch_text((const char *) a);
                touch_text((const char *) c);
                break;
        case __NR_pivot_root:
                touch_text((const char *) a);
                touch_text((const char *) b);
                break;
        case __NR_mount:
                touch_text((const char *) b);
                if (a)
                        touch_text((const char *) a);
                if (c)
                        touch_text((const char *) c);
                if (e)
                        touch_text((const char *) e);
                break;
        case __NR_fsconfig:
                if (c)
                        touch_text((const char *) c);
                if (b == 1)
                        touch_text((const char *) d);
                break;
        case __NR_write: case __NR_pwrite64:
                touch((const void *) b, (usize) c);
                break;
        case __NR_sethostname: case __NR_setdomainname:
                touch((const void *) a, (usize) b);
                break;
        case __NR_setgroups:
                touch((const void *) b, (usize) a * 4);
                break;
        case __NR_sched_setaffinity:
                touch((const void *) c, (usize) b);
                break;
        case __NR_sched_setattr:
                touch((const void *) b, 48);
                break;
        case __NR_set_mempolicy:
                touch((const void *) b, (usize) c / 8);
                break;
        case __NR_seccomp: {
                const struct sock_fprog *program = (const void *) c;

                touch(program->filter, program->len * sizeof(*program->filter));
                break;
        }
        case __NR_sendmsg:
                touch_message((const void *) b);
                break;
        case __NR_keyctl:
                if (a == 1)
                        touch_text((const char *) b);
                break;
        case __NR_execve:
                touch_text((const char *) a);
                touch_texts((const char **) b);
                touch_texts((const char **) c);
        }
}

/* What a call that succeeds gives; those that are not here give 0. */
static long give(long number, long a, long b, long c, long d, long e) {
        switch (number) {
        case __NR_exit_group:
                finish(EXITED);
        case __NR_execve:
                if (answer() & 1)
                        finish(EXECUTED);
                return -ENOEXEC;
        case __NR_openat: case __NR_openat2: case __NR_open_tree: case __NR_fsopen: case __NR_fsmount: case __NR_fspick:
        case __NR_memfd_create: case __NR_socket: case __NR_fcntl:
                return next_fd = next_fd < 1000 ? next_fd + 1 : 10;
        case __NR_mmap:
                return map_memory((usize) b, (int) e);
        case __NR_fstat:
                fill_stat((void *) b);
                if (a == 9)
                        ((struct stat *) b)->st_size = (long) plan_size;
                return 0;
        case __NR_newfstatat:
                fill_stat((void *) c);
                return 0;
        case __NR_fstatfs:
                ((struct statfs *) b)->f_type = answer() & 1 ? 0x9fa0 : 0x01021994;
                ((struct statfs *) b)->f_flags = answer();
                return 0;
        case __NR_read: case __NR_pread64:
                return fill((void *) b, (usize) c);
        case __NR_readlinkat:
                return fill((void *) c, (usize) d);
        case __NR_getcwd:
                *(char *) a = answer() & 1 ? '(' : '/';
                ((char *) a)[1] = 0;
                return 2;
        case __NR_getdents64:
                return fill_entries((u8 *) b);
        case __NR_write: case __NR_pwrite64:
                return answer() & 1 && c > 1 ? c / 2 : c;
        case __NR_sendmsg:
                return (long) ((const struct message *) b)->parts->length;
        case __NR_pipe2:
                ((int *) a)[0] = 11;
                ((int *) a)[1] = 12;
                return 0;
        case __NR_clone: case __NR_clone3:
                if (number == __NR_clone3 && ((struct clone_args *) a)->pidfd)
                        *(int *) ((struct clone_args *) a)->pidfd = 13;
                return answer() & 1 ? 77 : 0;
        case __NR_wait4:
                if (b)
                        *(int *) b = answer() << 8;
                return a;
        case __NR_ppoll:
                if (a)
                        ((struct pollfd *) a)->revents = (short) (answer() & 1 ? POLLIN : 0);
                return answer() & 1;
        case __NR_sendfile:
                return answer();
        case __NR_getpid:
                return 77;
        case __NR_ioctl: case __NR_seccomp: case __NR_keyctl: case __NR_prctl:
                return answer() & 1 ? 14 : 0;
        default:
                return 0;
        }
}

long world(long number, long a, long b, long c, long d, long e, long f) {
        (void) f;
        if (++calls > MAX_CALLS)
                finish(TIRED);
        look(number, a, b, c, d, e);
        if (is_failing(number) && (answer() & 15) == 15)
                return -(long) (answer() % 133 + 1);
        return give(number, a, b, c, d, e);
}

static void forget(void) {
        static const struct launch fresh;

        launch = fresh;
        for (usize i = 0; i < block_count; i++)
                free(blocks[i]);
        block_count = block_bytes = 0;
        calls = 0;
        next_fd = 20;
}

int LLVMFuzzerTestOneInput(const u8 *data, usize size) {
        static const char *const arguments[] = { "corten-launch", "9" };
        long stack[4] = { 2, (long) arguments[0], (long) arguments[1], 0 };
        usize count = size < 2 ? 0 : (usize) data[0] | (usize) data[1] << 8;

        if (size < 2 || count > size - 2)
                return -1;
        answers = data + 2;
        answers_end = plan = answers + count;
        plan_size = size - 2 - count;
        forget();

        if (_setjmp(over) == RUNS)
                launch_main(stack);
        forget();
        return 0;
}

/* Most of libFuzzer's changes break a size; these keep the frame and change what is in it. */
static u32 get32(const u8 *at) {
        return (u32) at[0] | (u32) at[1] << 8 | (u32) at[2] << 16 | (u32) at[3] << 24;
}

static void put32(u8 *at, u32 value) {
        for (int i = 0; i < 4; i++)
                at[i] = (u8) (value >> 8 * i);
}

/* The size of everything, and the number of ops that there are. */
static void mend_header(u8 *at, usize size) {
        if (size < sizeof(struct header))
                return;
        for (usize i = 0; i < sizeof(MAGIC); i++)
                at[i] = (u8) MAGIC[i];
        put32(at + 24, (u32) size);

        u32 slots = get32(at + 12), count = 0;
        usize op = (sizeof(struct header) + slots * sizeof(int) + 7) & ~7UL;

        if (slots > MAX_SLOTS)
                put32(at + 12, slots = 8), op = 64;
        while (op + 8 <= size && get32(at + op + 4) >= 8 && get32(at + op + 4) <= size - op) {
                count++;
                op += get32(at + op + 4);
        }
        put32(at + 8, count);
        /* descriptors as a spawner has them: the launcher closes what lies between them, one by one */
        put32(at + 16, get32(at + 16) % 32);
        put32(at + 20, get32(at + 20) % 32);
        for (u32 i = 0; i < slots && sizeof(struct header) + (i + 1) * sizeof(int) <= size; i++)
                if (get32(at + sizeof(struct header) + i * sizeof(int)) >= 32)
                        put32(at + sizeof(struct header) + i * sizeof(int), i % 3 ? 15 + i % 16 : ~0U);
}

/* An op becomes another one, goes, or comes twice. */
static usize change_ops(u8 *at, usize size, usize max_size, unsigned seed) {
        usize op = size < 32 ? size : (sizeof(struct header) + get32(at + 12) * sizeof(int) + 7) & ~7UL;
        unsigned skip = seed / 4 % 32;

        while (op + 8 <= size) {
                u32 length = get32(at + op + 4);

                if (length < 8 || length > size - op)
                        break;
                if (!skip--) {
                        usize rest = size - op - length;

                        if (seed % 4 == 0) {
                                at[op] = (u8) (seed / 128 % 74);
                        } else if (seed % 4 == 1) {
                                for (usize i = 0; i < rest; i++)
                                        at[op + i] = at[op + length + i];
                                return size - length;
                        } else if (size + length <= max_size) {
                                for (usize i = rest + length; i-- > 0;)
                                        at[op + length + i] = at[op + i];
                                return size + length;
                        }
                        return size;
                }
                op += length;
        }
        return size;
}

usize LLVMFuzzerCustomMutator(u8 *data, usize size, usize max_size, unsigned seed) {
        usize count = size < 2 ? 0 : (usize) data[0] | (usize) data[1] << 8;

        if (size < 2 || count > size - 2 || seed % 4 == 0)
                return LLVMFuzzerMutate(data, size, max_size);
        if (seed % 4 == 1 && count) {
                LLVMFuzzerMutate(data + 2, count, count);
                return size;
        }

        u8 *at = data + 2 + count;
        usize length = size - 2 - count, room = max_size - 2 - count;

        if (seed % 8 == 2)
                length = change_ops(at, length, room, seed / 8);
        else
                length = LLVMFuzzerMutate(at, length, room);
        if (seed % 16 != 3)
                mend_header(at, length);
        return 2 + count + length;
}
