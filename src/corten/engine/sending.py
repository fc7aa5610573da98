"""A signal as the tracepoint signal_generate saw it (engine/senders.py), and what may be said of it.

Process and user are the kernel's word for who ran when it was generated; whether that one sent it says si_code
(sigaction(2), rt_sigqueueinfo(2)):

    SI_USER, SI_QUEUE, SI_TKILL    it did
    any above 0                    the kernel did: only to itself may a process send one like it
    all others                     a timer, say, in whose interrupt anybody ran; or a process that pretends so

The name (comm) is what the process called itself then, and evidence of nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from corten.core.asker import Asker, printable
from corten.engine.times import rfc3339
from corten.sys import signalprogram as code

SIGSYS: Final = 31
_SENT: Final = (0, -1, -6)  # SI_USER, SI_QUEUE, SI_TKILL
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

    def is_raised_for(self, target: int) -> bool:
        """Whether the process `target` brought it upon itself: by a fault, its filter, or in its own name."""
        return self.code > 0 and self.pid == target

    def asker(self, target: int) -> Asker | None:
        """Who sent it to the process `target`; None where that cannot be said."""
        if self.code > 0:
            return Asker(by=KERNEL) if self.pid != target else None
        if self.code not in _SENT or not self.pid:  # 0: nobody ran, an interrupt came
            return None
        by = ITSELF if self.pid == target else PROCESS
        return Asker(by=by, pid=self.pid, uid=self.uid, gid=self.gid, command=self.command)

    def sent_by(self, target: int) -> str:
        """How a sentence goes on behind the signal's name."""
        asker = self.asker(target)
        if asker is None:
            return "from the kernel or itself" if self.code > 0 else f"of si_code {self.code}, which names no sender"
        if asker.by == ITSELF:
            return "that it sent to itself"
        return "from the kernel" if asker.by == KERNEL else f"from {asker.text}"

    @property
    def evidence(self) -> str:
        """Where it was seen, and who ran then."""
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
