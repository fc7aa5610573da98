/* Every op: number, function, and who runs it after Clone.  The numbers are those of corten/launch/ops.py and
 * mountops.py; tests/unit/launch/test_ops.py compares.
 */
#pragma once

#include "launch.h"

#define OPS(X) \
        X(1, op_set_dumpable, CHILD) \
        X(2, op_join_cgroup, CHILD) \
        X(3, op_open, CHILD) \
        X(4, op_open_device, CHILD) \
        X(5, op_close_range, CHILD) \
        X(6, op_open_tree, CHILD) \
        X(7, op_clone_tree, CHILD) \
        X(8, op_fs_mount, CHILD) \
        X(9, op_mount_setattr, CHILD) \
        X(10, op_mount_propagation, CHILD) \
        X(11, op_move_mount, CHILD) \
        X(12, op_attach_root, CHILD) \
        X(13, op_mask, CHILD) \
        X(14, op_pivot_root, CHILD) \
        X(15, op_chroot, CHILD) \
        X(16, op_unshare, CHILD) \
        X(17, op_setns, CHILD) \
        X(18, op_clone, CHILD) \
        X(19, op_pipe, CHILD) \
        X(20, op_write_id_maps, LAUNCHER) \
        X(21, op_send_byte, LAUNCHER) \
        X(22, op_wait_byte, CHILD) \
        X(23, op_wait, CHILD) \
        X(24, op_close, CHILD) \
        X(25, op_write, CHILD) \
        X(26, op_write_file, CHILD) \
        X(27, op_setsid, CHILD) \
        X(28, op_join_session_keyring, CHILD) \
        X(29, op_loopback_up, CHILD) \
        X(30, op_mkdir, CHILD) \
        X(31, op_symlink, CHILD) \
        X(32, op_mknod, CHILD) \
        X(33, op_open_pty, CHILD) \
        X(34, op_send_fd, CHILD) \
        X(35, op_readonly_path, CHILD) \
        X(36, op_set_stdio, CHILD) \
        X(37, op_set_controlling_terminal, CHILD) \
        X(38, op_set_hostname, CHILD) \
        X(39, op_set_domainname, CHILD) \
        X(40, op_set_rlimit, CHILD) \
        X(41, op_umask, CHILD) \
        X(42, op_set_ids, CHILD) \
        X(43, op_chown_stdio, CHILD) \
        X(44, op_keep_caps, CHILD) \
        X(45, op_drop_bounding, CHILD) \
        X(46, op_set_caps, CHILD) \
        X(47, op_raise_ambient, CHILD) \
        X(48, op_no_new_privs, CHILD) \
        X(49, op_parent_death_signal, CHILD) \
        X(50, op_chdir, CHILD) \
        X(51, op_find_executable, CHILD) \
        X(52, op_set_home, CHILD) \
        X(53, op_hook, CHILD) \
        X(54, op_stop, CHILD) \
        X(55, op_seccomp, CHILD) \
        X(56, op_exec, CHILD) \
        X(57, op_copy_up, CHILD) \
        X(58, op_clone_launcher, CHILD) \
        X(59, op_clone_legacy, CHILD) \
        X(60, op_personality, CHILD) \
        X(61, op_set_scheduler, CHILD) \
        X(62, op_set_io_priority, CHILD) \
        X(63, op_set_affinity, CHILD) \
        X(64, op_set_mempolicy, CHILD) \
        X(65, op_make_user_namespace, CHILD) \
        X(66, op_map_mount, CHILD) \
        X(67, op_reconfigure_mount, CHILD) \
        X(68, op_fchdir, CHILD) \
        X(69, op_reopen_null, CHILD) \
        X(70, op_attach_root_here, CHILD) \
        X(71, op_lock_mounts, CHILD) \
        X(72, op_mount_detached, CHILD)

#define X(number, function, side) int function(struct launch *l, struct cursor *c);
OPS(X)
#undef X

/* Writes a file of a process's directory in a procfs. */
int write_process(int pid, int proc_fd, const char *name, const char *data);

/* st_rdev and mknod(2), as the kernel encodes them (new_encode_dev). */
static inline u64 device_number(u64 major, u64 minor) {
        return (minor & 0xff) | (major & 0xfff) << 8 | (minor & ~0xffULL) << 12;
}
