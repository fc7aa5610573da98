"""Project quotas: a directory whose files, new ones too, count as one, and how much these may take.

FS_IOC_FSGETXATTR and FS_IOC_FSSETXATTR (ioctl_fsxattr, linux/fs.h) give a directory a project; quotactl_fd(2) with the
X-commands (linux/dqblk_xfs.h), which the kernel has for ext4 as well, gives a project its limit.  The file system is
that of the descriptor.  Needs CAP_SYS_ADMIN; all raise OSError.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import struct
from dataclasses import dataclass
from typing import Final

from corten.sys.libc import syscall

GET_ATTRIBUTES: Final = 0x801C581F
SET_ATTRIBUTES: Final = 0x401C5820
INHERIT: Final = 0x200  # FS_XFLAG_PROJINHERIT
_ATTRIBUTES: Final = struct.Struct("=IIIII8s")  # struct fsxattr: flags, extsize, nextents, project, cowextsize

_SYS_QUOTACTL_FD: Final = 443  # on every architecture; Linux 5.14
_PROJECT: Final = 2  # PRJQUOTA
_GET, _SET, _STATE, _NEXT = 0x5803, 0x5804, 0x5805, 0x5809  # Q_XGETQUOTA, Q_XSETQLIM, Q_XGETQSTAT, Q_XGETNEXTQUOTA
_BLOCK: Final = 512
# struct fs_disk_quota: version, flags, field mask, id; hard and soft limits and counts of blocks and inodes; the rest
_QUOTA: Final = struct.Struct("=bbHIQQQQQQ56s")
_VERSION, _FLAG_PROJECT = 1, 2
_HARD_AND_SOFT: Final = 1 << 3 | 1 << 2  # FS_DQ_BHARD, FS_DQ_BSOFT
_STATE_BYTES: Final = 128
_ACCOUNTS, _ENFORCES = 1 << 4, 1 << 5  # FS_QUOTA_PDQ_ACCT, FS_QUOTA_PDQ_ENFD


@dataclass(frozen=True, slots=True)
class Project:
    """What the file system has of one.  Bytes; `limit` 0 is none."""

    id: int
    limit: int
    used: int
    inodes: int

    @property
    def is_free(self) -> bool:
        """Whether nothing counts for it, and nobody has given it a limit."""
        return not (self.limit or self.used or self.inodes)


def is_enforced(fd: int) -> bool:
    """Whether the file system counts projects and holds them to their limits; False also where it knows none."""
    state = ctypes.create_string_buffer(_STATE_BYTES)
    state[0] = bytes([_VERSION])
    try:
        _quotactl(fd, _STATE, 0, state)
    except OSError:
        return False
    (flags,) = struct.unpack_from("=H", state.raw, 2)
    return bool(flags & (_ACCOUNTS | _ENFORCES) == _ACCOUNTS | _ENFORCES)


def project_of(fd: int) -> int:
    """The project of a file or directory; 0 is none in particular."""
    return int(_attributes(fd)[3])


def has_project(fd: int) -> bool:
    """Whether it is in one; False also where the file system knows none."""
    try:
        return project_of(fd) != 0
    except OSError:
        return False


def set_project(fd: int, project: int) -> None:
    """Puts a directory, and what is made in it from now on, into a project."""
    flags, size, count, _, cow_size, rest = _attributes(fd)
    fcntl.ioctl(fd, SET_ATTRIBUTES, _ATTRIBUTES.pack(flags | INHERIT, size, count, project, cow_size, rest))


def _attributes(fd: int) -> tuple[int, int, int, int, int, bytes]:
    found: tuple[int, int, int, int, int, bytes] = _ATTRIBUTES.unpack(
        fcntl.ioctl(fd, GET_ATTRIBUTES, bytes(_ATTRIBUTES.size))
    )
    return found


def look(fd: int, project: int) -> Project:
    """One project; one that the file system has never heard of is free."""
    return _read(fd, _GET, project) or Project(project, 0, 0, 0)


def next_project(fd: int, project: int) -> Project | None:
    """The one with the smallest number from `project` on that the file system knows; None when there is none."""
    return _read(fd, _NEXT, project)


def set_limit(fd: int, project: int, limit: int) -> None:
    """Bytes that the project's files may take, rounded down to 512; 0 is no limit."""
    blocks = limit // _BLOCK
    row = _QUOTA.pack(_VERSION, _FLAG_PROJECT, _HARD_AND_SOFT, project, blocks, blocks, 0, 0, 0, 0, b"")
    _quotactl(fd, _SET, project, ctypes.create_string_buffer(row, _QUOTA.size))


def _read(fd: int, command: int, project: int) -> Project | None:
    row = ctypes.create_string_buffer(_QUOTA.size)
    try:
        _quotactl(fd, command, project, row)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESRCH):
            return None
        raise
    _, _, _, number, hard, _, _, _, used, inodes, _ = _QUOTA.unpack(row.raw)
    return Project(number, hard * _BLOCK, used * _BLOCK, inodes)


def _quotactl(fd: int, command: int, project: int, row: ctypes.Array[ctypes.c_char]) -> None:
    syscall(_SYS_QUOTACTL_FD, fd, command << 8 | _PROJECT, project, ctypes.addressof(row))
