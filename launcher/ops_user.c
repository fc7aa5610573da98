/* Ops of the user: ids, capabilities, limits, working directory, the program's file, names. */
#include "ops.h"

#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/openat2.h>
#include <linux/prctl.h>
#include <linux/resource.h>
#include <linux/stat.h>
#include <asm/stat.h>

int op_set_hostname(struct launch *l, struct cursor *c) {
        struct bytes name = get_bytes(c);

        return c->error ? c->error : (int) sys(sethostname, name.data, name.size);
}

int op_set_domainname(struct launch *l, struct cursor *c) {
        struct bytes name = get_bytes(c);

        return c->error ? c->error : (int) sys(setdomainname, name.data, name.size);
}

int op_set_rlimit(struct launch *l, struct cursor *c) {
        u64 resource = get_number(c);
        struct rlimit64 limit = { .rlim_cur = get_number(c) };

        limit.rlim_max = get_number(c);
        return c->error ? c->error : (int) sys(prlimit64, 0, resource, &limit, 0);
}

int op_umask(struct launch *l, struct cursor *c) {
        sys(umask, get_number(c));
        return 0;
}

int op_set_ids(struct launch *l, struct cursor *c) {
        u64 uid = get_number(c), gid = get_number(c), set_groups = get_number(c), count = get_number(c);

        if (c->error || count > (u64) (c->end - c->at) / 8)
                return -EBADMSG;

        u32 *groups = memory((count + 1) * sizeof(*groups));

        if (!groups)
                return -ENOMEM;
        for (u64 i = 0; i < count; i++)
                groups[i] = (u32) get_number(c);

        int r = set_groups ? (int) sys(setgroups, count, groups) : 0;

        if (r >= 0)
                r = (int) sys(setresgid, gid, gid, gid);
        if (r >= 0)
                r = (int) sys(setresuid, uid, uid, uid);
        return r;
}

static int is_null(const struct stat *st) {
        return (st->st_mode & S_IFMT) == S_IFCHR && st->st_rdev == device_number(1, 3);
}

int op_chown_stdio(struct launch *l, struct cursor *c) {
        u64 uid = get_number(c);
        struct stat st;

        for (int fd = 0; fd < 3; fd++) {
                if (sys(fstat, fd, &st) < 0 || st.st_uid == uid || st.st_rdev == device_number(1, 3))
                        continue;

                int r = (int) sys(fchown, fd, uid, -1);

                /* not ours to give (a read-only file system, an id outside the user namespace, an odd file) */
                if (r < 0 && r != -EINVAL && r != -EPERM && r != -EROFS)
                        return r;
        }
        return 0;
}

int op_reopen_null(struct launch *l, struct cursor *c) {
        int root_fd = slot_fd(l, get_number(c));
        struct open_how look = { .flags = O_PATH | O_NOFOLLOW | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT };
        struct open_how how = { .flags = O_RDWR | O_NOFOLLOW | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT };
        struct stat st;

        if (root_fd < 0)
                return root_fd;

        /* what is there is looked at before it is opened: a device of another kind may act on that */
        cleanup_close int seen = (int) sys(openat2, root_fd, "/dev/null", &look, sizeof(look));

        if (seen < 0 || sys(fstat, seen, &st) < 0 || !is_null(&st))
                return 0;

        cleanup_close int null_fd = (int) sys(openat2, root_fd, "/dev/null", &how, sizeof(how));

        if (null_fd < 0 || sys(fstat, null_fd, &st) < 0 || !is_null(&st))
                return 0;
        for (int fd = 0; fd < 3; fd++) {
                if (sys(fstat, fd, &st) < 0 || !is_null(&st))
                        continue;

                long r = sys(dup3, null_fd, fd, 0);

                if (r < 0)
                        return (int) r;
        }
        return 0;
}

int op_keep_caps(struct launch *l, struct cursor *c) {
        return (int) sys(prctl, PR_SET_KEEPCAPS, 1);
}

int op_drop_bounding(struct launch *l, struct cursor *c) {
        u64 keep = get_number(c), last = get_number(c);

        for (u64 i = 0; i <= last && i < 64; i++) {
                if (keep >> i & 1 || sys(prctl, PR_CAPBSET_READ, i) == 0)
                        continue;

                int r = (int) sys(prctl, PR_CAPBSET_DROP, i);

                if (r < 0)
                        return r;
        }
        return c->error;
}

int op_set_caps(struct launch *l, struct cursor *c) {
        u64 effective = get_number(c), permitted = get_number(c), inheritable = get_number(c);
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct data[2];

        for (int i = 0; i < 2; i++)
                data[i] = (struct __user_cap_data_struct){
                        .effective = (u32) (effective >> 32 * i),
                        .permitted = (u32) (permitted >> 32 * i),
                        .inheritable = (u32) (inheritable >> 32 * i),
                };
        return c->error ? c->error : (int) sys(capset, &header, data);
}

int op_raise_ambient(struct launch *l, struct cursor *c) {
        u64 mask = get_number(c);

        for (u64 i = 0; i < 64; i++) {
                int r = mask >> i & 1 ? (int) sys(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i) : 0;

                if (r < 0)
                        return r;
        }
        return c->error;
}

int op_no_new_privs(struct launch *l, struct cursor *c) {
        return (int) sys(prctl, PR_SET_NO_NEW_PRIVS, 1);
}

/* A directory outside the root has no path inside it: the kernel then says so in place of a first slash. */
static int check_inside(struct launch *l) {
        char path[PATH_SIZE];
        long length = sys(getcwd, path, sizeof(path));

        if (length >= 0 && *path == '/')
                return 0;
        l->detail = 1;
        return length < 0 ? (int) length : -ENOENT;
}

int op_chdir(struct launch *l, struct cursor *c) {
        const char *path = get_text(c);
        u64 again = get_number(c);

        if (c->error)
                return c->error;
        if (again && !l->chdir_refused)
                return 0;

        int r = (int) sys(chdir, path);

        if (r == -EACCES && !again) {
                l->chdir_refused = 1;
                return 0;
        }
        return r < 0 ? r : check_inside(l);
}

/* 0 when the process may execute the file; the errno of a refusal comes with detail 1. */
static int check_executable(struct launch *l, const char *path) {
        struct stat st;
        int r = (int) sys(newfstatat, AT_FDCWD, path, &st, 0);

        l->detail = 0;
        if (r < 0)
                return r;
        l->detail = 1;
        if ((st.st_mode & S_IFMT) == S_IFDIR || !(st.st_mode & 0111))
                return -EACCES;
        return (int) sys(faccessat2, AT_FDCWD, path, 1 /* X_OK */, AT_EACCESS);
}

int op_find_executable(struct launch *l, struct cursor *c) {
        u64 count = get_number(c);
        int r = -ENOENT;

        while (count-- && !c->error) {
                const char *path = get_text(c);

                r = check_executable(l, path);
                if (r == 0) {
                        l->detail = 0;
                        l->program = path;
                        return c->error;
                }
        }
        return c->error ? c->error : r;
}

#define PASSWD_SIZE (1 << 20)

/* The field with this number (from 0) of a line of passwd(5); `*end` is behind it.  NULL where there is none. */
static const char *passwd_field(const char *line, int number, const char **end) {
        for (; *line && *line != '\n'; line++)
                if (!number)
                        break;
                else if (*line == ':')
                        number--;
        if (number)
                return (void *) 0;
        *end = line;
        while (**end && **end != ':' && **end != '\n')
                ++*end;
        return line;
}

static int is_number(const char *text, const char *end, u64 number) {
        char digits[21];
        usize length = text_from_number(digits, number);

        if ((usize) (end - text) != length)
                return 0;
        for (usize i = 0; i < length; i++)
                if (text[i] != digits[i])
                        return 0;
        return 1;
}

/* A bounded copy of the container's /etc/passwd, empty where it has none or no plain file. */
static const char *read_passwd(void) {
        struct open_how how = { .flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, .resolve = RESOLVE_NO_MAGICLINKS };
        cleanup_close int fd = (int) sys(openat2, AT_FDCWD, "/etc/passwd", &how, sizeof(how));
        struct stat st;

        if (fd < 0 || sys(fstat, fd, &st) < 0 || (st.st_mode & S_IFMT) != S_IFREG)
                return "";

        char *text = memory(PASSWD_SIZE);
        usize used = 0;

        if (!text)
                return "";
        while (used < PASSWD_SIZE - 1) {
                long count = read_some(fd, text + used, PASSWD_SIZE - 1 - used);

                if (count <= 0)
                        break;
                used += (usize) count;
        }
        return text;
}

int op_set_home(struct launch *l, struct cursor *c) {
        static char home[PATH_SIZE] = "HOME=/";
        u64 uid = get_number(c);

        for (const char *line = read_passwd(), *end; *line; line += *line == '\n') {
                const char *field = passwd_field(line, 2, &end);

                if (field && is_number(field, end, uid) && (field = passwd_field(line, 5, &end)) &&
                    end > field && (usize) (end - field) < sizeof(home) - 5) {
                        memcpy(home + 5, field, (usize) (end - field));
                        home[5 + (end - field)] = 0;
                        break;
                }
                while (*line && *line != '\n')
                        line++;
        }
        l->home = home;
        return c->error;
}
