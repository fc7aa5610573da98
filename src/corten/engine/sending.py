"""A signal as the tracepoint signal_generate saw it (engine/senders.py), and what may be said of it.

Who sent it is what the kernel knows: process, user, si_code of sigaction(2).  The name (comm) is what the sender called
itself then, and evidence of nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from corten.core.asker import Asker, printable
from corten.engine.times import rfc3339
from corten.sys import signalprogram as code

SIGSYS: Final = 31
SYS_SECCOMP: Final = 1
KERNEL, ITSELF, PROCESS = "kernel", "itself", "process"


class Sending(msgspec.Struct, frozen=True, kw_only=True):
    """at_ns: Unix; pid, thread: of the sender, as the host counts; cgroup_id: of its v2 cgroup."""

    signal: int
    code: int
    at_ns: int
    pid: int
    thread: int = 0
    uid: int = 0
    gid: int = 0
    command: str = ""
    cgroup_id: int = 0

    @property
    def is_raised(self) -> bool:
        """Whether the kernel made it: the process named is the one that ran then, and need not have asked for it."""
        return self.code > 0

    def asker(self, target: int) -> Asker:
        """Who sent it to the process `target`."""
        if self.is_raised:
            return Asker(by=KERNEL)
        by = ITSELF if self.pid == target else PROCESS
        return Asker(by=by, pid=self.pid, uid=self.uid, gid=self.gid, command=self.command)

    @property
    def evidence(self) -> str:
        """Where it was seen, and what with it."""
        ran = f"process {self.pid}, uid {self.uid}, which called itself {self.command!r}"
        return f"tracepoint signal_generate at {rfc3339(self.at_ns)}: {ran}; si_code {self.code}"


def sending(record: bytes, boot_ns: int) -> Sending:
    """Of a record of the map; `boot_ns`: Unix time at 0 of CLOCK_BOOTTIME."""
    at, thread, pid, uid, gid, number, kind, name, cgroup_id = code.RECORD.unpack(record)
    return Sending(
        signal=number,
        code=kind,
        at_ns=boot_ns + at,
        pid=pid,
        thread=thread,
        uid=uid,
        gid=gid,
        command=printable(name.split(b"\0", 1)[0].decode("utf-8", "replace")),
        cgroup_id=cgroup_id,
    )


def last_of(sendings: Sequence[Sending], number: int) -> Sending | None:
    """The last one of this number."""
    return next((one for one in reversed(sendings) if one.signal == number), None)


def sent_by(asker: Asker) -> str:
    """How a sentence goes on behind the signal's name."""
    if asker.by == ITSELF:
        return "that it sent to itself"
    return "from the kernel" if asker.by == KERNEL else f"from {asker.text}"
