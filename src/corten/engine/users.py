"""`--user` and `--group-add` against /etc/passwd and /etc/group of a rootfs, read by descriptor.

The files belong to a stranger: they are opened beneath the root without following magic links, read up to a
bound, and nothing of the host's name service is asked (field.md D6, D8).  What is digits is a number of 32
bits, never a name (CVE-2016-3697, CVE-2024-40635); a number that is out of range is refused.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from corten.errors import Internal, InvalidArgument
from corten.sys.openat2 import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2

MAX_ID: Final = 0x7FFFFFFF  # dockerd's
_MAX_FILE_BYTES: Final = 1 << 20  # as the launcher's
_MAX_LINE_BYTES: Final = 64 << 10
_MAX_GROUPS: Final = 65_536  # NGROUPS_MAX


class User(NamedTuple):
    """Who a process runs as; `groups` are the additional ones, the primary first as dockerd lists it."""

    uid: int
    gid: int
    groups: tuple[int, ...]


class _Passwd(NamedTuple):
    name: str
    uid: int
    gid: int


class _Group(NamedTuple):
    name: str
    gid: int
    is_member: bool  # whether it lists the user


class Accounts(NamedTuple):
    """The texts of both files; empty when there is none."""

    passwd: bytes
    group: bytes


def read_accounts(root_fd: int) -> Accounts:
    """Both files beneath the root; a missing one is empty."""
    return Accounts(_read_beneath(root_fd, b"etc/passwd"), _read_beneath(root_fd, b"etc/group"))


def _read_beneath(root_fd: int, path: bytes) -> bytes:
    """The start of a plain file, empty for anything else.

    A device of the image is not even opened: outside the container's device cgroup that alone may do harm (a watchdog
    starts).  Nor is a file without a size: those of a procfs, where to read may be to take away (/proc/kmsg).
    """
    try:
        fd = openat2(root_fd, path, os.O_PATH, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    except OSError:
        return b""
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            return b""
        with open(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            return file.read(_MAX_FILE_BYTES) or b""
    finally:
        os.close(fd)


def lookup(spec: str, accounts: Accounts, group_add: Sequence[str] = ()) -> User:
    """`""`, `name`, `uid`, `name:group`, `uid:gid` as dockerd reads them.

    Without a group the user's groups are those that list its name; with one, that group alone.  Errors have
    dockerd's texts and its code (500).
    """
    name, colon, group = spec.partition(":")
    entry = _find_user(name, accounts)
    asked = group if colon else ""
    member = "" if asked else entry.name
    groups = tuple(_groups(accounts.group, (asked, *group_add), member))
    gid, memberships = entry.gid, [item.gid for item in groups if item.is_member]
    if asked:
        gid = _find_group(asked, groups)
    extra = [_additional(item, groups) for item in group_add]
    every = dict.fromkeys((gid, *memberships, *extra))
    return User(entry.uid, gid, tuple(every)[:_MAX_GROUPS])


def _find_user(name: str, accounts: Accounts) -> _Passwd:
    number = _number(name) if name else 0
    for entry in _users(accounts.passwd, _bytes(name) if number is None else str(number).encode()):
        if entry.uid == number if number is not None else entry.name == name:
            return entry
    if number is None:
        raise Internal(f"unable to find user {name}: no matching entries in passwd file")
    return _Passwd("", number, 0)


def _find_group(name: str, groups: Sequence[_Group]) -> int:
    number = _number(name)
    if number is not None:
        return number
    for group in groups:
        if group.name == name:
            return group.gid
    raise Internal(f"unable to find group {name}: no matching entries in group file")


def _additional(name: str, groups: Sequence[_Group]) -> int:
    number = _number(name)
    if number is not None:
        return number
    for group in groups:
        if group.name == name:
            return group.gid
    raise Internal(f"Unable to find group {name}: no matching entries in group file")


def _number(text: str) -> int | None:
    """The number, or None when it is a name.  Digits with a sign are a number too, and out of range."""
    digits = text[1:] if text[:1] in ("-", "+") else text
    if not (digits.isascii() and digits.isdigit()):
        return None
    if text != digits or len(digits) > 10 or int(digits) > MAX_ID:
        raise InvalidArgument(f"uids and gids must be in range 0-{MAX_ID}")
    return int(digits)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _fields(data: bytes, count: int, is_wanted: Callable[[bytes], bool]) -> Iterator[list[str]]:
    """The fields of lines that may be wanted; the others are not even decoded."""
    for line in data.splitlines():
        if line and not line.startswith(b"#") and len(line) <= _MAX_LINE_BYTES and is_wanted(line):
            parts = line.decode("utf-8", "surrogateescape").split(":")
            if len(parts) >= count and parts[0]:
                yield parts


def _users(data: bytes, needle: bytes) -> Iterator[_Passwd]:
    """Of the lines that contain the needle: a name, or a number as it is written without leading zeros."""
    for parts in _fields(data, 4, lambda line: needle in line):
        uid, gid = _id(parts[2]), _id(parts[3])
        if uid is not None and gid is not None:
            yield _Passwd(parts[0], uid, gid)


def _groups(data: bytes, names: Iterable[str], member: str) -> Iterator[_Group]:
    """Of the groups with these names, and those that may list the member (empty: nobody)."""
    wanted, needle = {_bytes(name) for name in names if name}, _bytes(member)
    if not wanted and not needle:
        return

    def is_wanted(line: bytes) -> bool:
        return (bool(needle) and needle in line) or line.partition(b":")[0] in wanted

    for parts in _fields(data, 3, is_wanted):
        gid = _id(parts[2])
        if gid is not None:
            listed = parts[3].split(",") if member and len(parts) > 3 else ()
            yield _Group(parts[0], gid, any(item.strip() == member for item in listed))


def _id(text: str) -> int | None:
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= MAX_ID:
        return int(text)
    return None
