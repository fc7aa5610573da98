"""What the kernel's log says of a container's processes: /dev/kmsg (dev-kmsg), read when a counter says that it knows.

    oom-kill:constraint=…,oom_memcg=LIMIT,task_memcg=CGROUP,task=NAME,pid=N,uid=N    mm/oom_kill.c, oom_kill_process
    Memory cgroup out of memory: Killed process N (NAME) …                           the same; never suppressed
    audit: type=1326 … pid=N comm="NAME" … sig=31 arch=… syscall=N …                 kernel/auditsc.c, audit_seccomp

    NAME[N]: segfault at 0 ip … sp … error 4 in …; traps: NAME[N] general protection …    arch/x86/mm/fault.c, traps.c

The first is suppressed when there are many (10 in 5 s), the third needs auditing and no auditd.  Names of processes are
chosen by who runs them, and so are cgroups below a container's: fields are taken from where no name can be.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from typing import Final

import msgspec

PATH: Final = "/dev/kmsg"
_RECORD_BYTES: Final = 8192
_RECORDS: Final = 200_000  # a log that grows as fast as it is read must have an end

_OOM: Final = re.compile(
    r"oom-kill:constraint=(\w+),.*?,(?:oom_memcg=(?P<limit>.*?)|global_oom),"
    r"task_memcg=(?P<cgroup>.*?),task=(?P<name>.*),pid=(?P<pid>\d+),uid=(?P<uid>\d+)"
)
_KILLED: Final = re.compile(r"(?:Memory cgroup out of memory|Out of memory): Killed process (?P<pid>\d+) \(")
_SECCOMP: Final = re.compile(
    r'audit: type=1326 .*? pid=(?P<pid>\d+) comm=(?P<name>"[^"]*"|[0-9A-F]+|\S+) .*'
    r" sig=(?P<signal>\d+) arch=(?P<arch>[0-9a-f]+) syscall=(?P<number>-?\d+) compat=\d+ ip=\S+ code=\S+$"
)


_FAULT: Final = re.compile(
    r"(?:traps: )?.{1,60}?\[(?P<pid>\d+)\]:? "
    r"(?P<what>(?:segfault at [0-9a-f]+ ip|general protection|trap [a-z0-9 ]+|invalid opcode).*)"
)
_FAULT_CHARS: Final = 200


class OomKill(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """A process that the kernel killed for want of memory.

    sequence: of the log's record; limit_cgroup: whose limit it was, "" for the machine's memory.
    """

    sequence: int
    pid: int
    name: str
    uid: int
    limit_cgroup: str


class Denied(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """A system call for which a seccomp filter killed a process.  arch: AUDIT_ARCH_*; number: of the call there."""

    pid: int
    name: str
    arch: int
    number: int


class Log(msgspec.Struct, frozen=True):
    """What was found; `killed`: pids of all processes that were killed for want of memory, in whatever cgroup.

    faults: what the kernel says of a process that it sent SIGSEGV or the like, by pid.
    """

    kills: tuple[OomKill, ...] = ()
    killed: frozenset[int] = frozenset()
    denied: tuple[Denied, ...] = ()
    faults: dict[int, str] = {}


def read(cgroup: str, *, since_us: int) -> Log:
    """All about the processes in `cgroup` and below; blocks for some ms.

    since_us: the log's clock, which is not quite CLOCK_MONOTONIC: be generous.  Raises OSError where the log cannot
    be read.
    """
    return find(records(), cgroup, since_us=since_us)


def find(lines: Iterator[tuple[int, int, str]], cgroup: str, *, since_us: int) -> Log:
    """The same of records (sequence, µs, text)."""
    kills: list[OomKill] = []
    killed: set[int] = set()
    denied: list[Denied] = []
    faults: dict[int, str] = {}
    for sequence, moment_us, text in lines:
        if moment_us < since_us:
            continue
        if match := _OOM.fullmatch(text):
            if match["cgroup"] == cgroup or match["cgroup"].startswith(f"{cgroup}/"):
                limit, pid, uid = match["limit"] or "", int(match["pid"]), int(match["uid"])
                kills.append(OomKill(sequence=sequence, pid=pid, name=match["name"], uid=uid, limit_cgroup=limit))
        elif match := _KILLED.match(text):
            killed.add(int(match["pid"]))
        elif match := _SECCOMP.match(text):
            pid, arch, number = int(match["pid"]), int(match["arch"], 16), int(match["number"])
            denied.append(Denied(pid=pid, name=match["name"].strip('"'), arch=arch, number=number))
        elif match := _FAULT.fullmatch(text):
            faults[int(match["pid"])] = match["what"][:_FAULT_CHARS]
    return Log(tuple(kills), frozenset(killed), tuple(denied), faults)


def records() -> Iterator[tuple[int, int, str]]:
    """(sequence, µs since boot, text) of every kernel message that is still there; not what programs have written."""
    fd = os.open(PATH, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield from of_descriptor(fd, _RECORDS)
    finally:
        os.close(fd)


def of_descriptor(fd: int, limit: int, *, mark: bytes = b"") -> Iterator[tuple[int, int, str]]:
    """The next ones of an open log, at most `limit`, until there is no other; of those that have `mark` in them."""
    for _ in range(limit):
        try:
            record = os.read(fd, _RECORD_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno == errno.EPIPE:  # overwritten while it was read: the next one is there
                continue
            raise
        if mark not in record:
            continue
        head, _, text = record.decode("utf-8", "replace").partition(";")
        fields = head.split(",")
        if int(fields[0]) >> 3 == 0:  # facility 0 is the kernel; a program cannot write as it
            yield int(fields[1]), int(fields[2]), text.split("\n", 1)[0]
