"""System calls that a container's seccomp filter has logged: what the kernel's records come to.  Pure.

    audit: type=1326 audit(SECONDS.MS:N): … pid=N comm="NAME" exe="PATH" sig=N arch=… syscall=N compat=N ip=… code=0x…

is written for an action that the filter has asked to be logged (SECCOMP_RET_LOG, SECCOMP_FILTER_FLAG_LOG; seccomp(2),
kernel/seccomp.c seccomp_log).  `code` is the action without its data: which error a refused call got is not in it.  The
kernel leaves records out when there are many (printk_ratelimit), so what is counted is records.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from corten.core.asker import printable
from corten.engine.seccomp import parse_profile
from corten.engine.security import UNCONFINED
from corten.engine.times import rfc3339
from corten.errors import InvalidArgument

MAX_ROWS: Final = 32
OTHERS: Final = "others"
FLAG: Final = "SECCOMP_FILTER_FLAG_LOG"
ACTION: Final = "SCMP_ACT_LOG"
MARK: Final = b"audit: type=1326 "

_RECORD: Final = re.compile(
    r'audit: type=1326 audit\((?P<s>\d+)\.(?P<ms>\d{3}):\d+\): .*? pid=(?P<pid>\d+) comm=(?P<name>"[^"]*"|[0-9A-F]+) .*'
    r" sig=\d+ arch=(?P<arch>[0-9a-f]+) syscall=(?P<number>-?\d+) compat=\d+ ip=\S+ code=0x(?P<code>[0-9a-f]+)$"
)
_MASK: Final = 0xFFFF0000
# linux/seccomp.h, SECCOMP_RET_*
_ACTIONS: Final = {
    0x80000000: "process killed",
    0x00000000: "thread killed",
    0x00030000: "refused with SIGSYS",
    0x00050000: "refused with an error",
    0x7FC00000: "given to an agent",
    0x7FF00000: "given to a tracer",
    0x7FFC0000: "let through",
}


class Logged(msgspec.Struct, frozen=True):
    """One record.  arch: AUDIT_ARCH_*; code: the filter's answer; at_ns: Unix time, by the kernel."""

    pid: int
    name: str
    arch: int
    number: int
    code: int
    at_ns: int


class LoggedCall(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Records of one system call with one answer.  pid and command: of the last one; first and last: RFC 3339."""

    call: str
    number: int
    arch: int
    code: int
    action: str
    count: int
    first: str
    last: str
    pid: int
    command: str


def parse(text: str) -> Logged | None:
    """A kernel message; None for one of something else."""
    found = _RECORD.fullmatch(text)
    if found is None:
        return None
    at_ns = int(found["s"]) * 10**9 + int(found["ms"]) * 10**6
    arch, code = int(found["arch"], 16), int(found["code"], 16)
    return Logged(int(found["pid"]), _command(found["name"]), arch, int(found["number"]), code, at_ns)


def _command(text: str) -> str:
    """The kernel writes a name with odd characters in hex."""
    if text.startswith('"'):
        return printable(text.strip('"'))
    try:
        return printable(bytes.fromhex(text).decode("utf-8", "replace"))
    except ValueError:
        return printable(text)


def action(code: int) -> str:
    """What the filter answered, in words."""
    return _ACTIONS.get(code & _MASK, f"answered {code:#x}")


def added(rows: Sequence[LoggedCall], one: Logged, call: str) -> tuple[LoggedCall, ...]:
    """`rows` with a record more; from MAX_ROWS kinds on all others are one row."""
    at = rfc3339(one.at_ns)
    same = next((n for n, row in enumerate(rows) if (row.number, row.arch, row.code) == _kind(one)), None)
    if same is None and len(rows) >= MAX_ROWS:
        same = next((n for n, row in enumerate(rows) if row.call == OTHERS), None)
        if same is None:
            row = LoggedCall(
                call=OTHERS, number=-1, arch=0, code=0, action="", count=1, first=at, last=at, pid=one.pid,
                command=one.name,
            )  # fmt: skip
            return (*rows, row)
    if same is None:
        row = LoggedCall(
            call=call, number=one.number, arch=one.arch, code=one.code, action=action(one.code), count=1, first=at,
            last=at, pid=one.pid, command=one.name,
        )  # fmt: skip
        return (*rows, row)
    row = replace(rows[same], count=rows[same].count + 1, last=at, pid=one.pid, command=one.name)
    return (*rows[:same], row, *rows[same + 1 :])


def _kind(one: Logged) -> tuple[int, int, int]:
    return one.number, one.arch, one.code


def told(row: LoggedCall) -> str:
    """A claim: `system call umask (95, arch 0xc000003e) refused with EPERM: 3 records, …`."""
    which = f"system call {row.call or 'without a name'} ({row.number}, arch {row.arch:#x}) {row.action}"
    if row.call == OTHERS:
        which = "other system calls logged"
    times = f"at {row.first}" if row.count == 1 else f"from {row.first} to {row.last}"
    return f"{which}: {row.count} record{'s' if row.count > 1 else ''}, {times}"


def evidence(row: LoggedCall) -> str:
    """By what it is known."""
    code = "" if row.call == OTHERS else f", code={row.code:#x}"
    return f"kernel log: audit type 1326{code}; the last by {row.command} (pid {row.pid})"


def is_logging(profile: str) -> bool:
    """Whether a container's own profile (engine.security.Security.seccomp) has something logged."""
    if profile in ("", UNCONFINED):
        return False
    try:
        parsed = parse_profile(profile)
    except InvalidArgument:  # of an earlier release
        return False
    actions = {parsed.default_action, *(rule.action for rule in parsed.syscalls or ())}
    return FLAG in (parsed.flags or ()) or ACTION in actions
