/* Paths beneath a root that its owner may change at any moment: resolved by descriptor, never twice. */
#pragma once

#include "lib.h"

/* openat2 with RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS and more of `resolve`; close-on-exec is added. */
int open_in_root(int root_fd, const char *path, u64 flags, u64 resolve);
/* The directory at `path`, made where it is missing: the last component with `mode`, others with 0755. */
int open_directory(int root_fd, const char *path, unsigned mode);
/* The file at `path`, made empty where it is missing. */
int open_file(int root_fd, const char *path, unsigned mode);
/* The directory that holds the last component of `path`; that component is copied to `name` (PATH_SIZE bytes). */
int open_parent(int root_fd, const char *path, char *name);
/* -EXDEV where the file system of `fd` is another one than that of `magic` (statfs(2)); 0 is any. */
int check_magic(int fd, u64 magic);
