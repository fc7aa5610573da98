"""The steps of a launch plan that say where and how a process is scheduled (config.md, "Linux Process").

See `corten.launch.ops` for what an op is.  Only a plan that has one of them loads this module.
"""

from __future__ import annotations

from corten.launch.ops import Op, errno_text
from corten.spec.scheduling import (
    DOMAINS,
    IO_CLASS_SHIFT,
    IO_CLASSES,
    MEMORY_FLAGS,
    MEMORY_MODES,
    POLICIES,
    SCHED_DEADLINE,
    SCHED_FIFO,
    SCHED_RR,
    SCHEDULER_FLAGS,
)

# sched_setaffinity(2) cuts it to the processors that there are, and the cpuset to those that are given
ALL_CPUS = b"\xff" * 1024


class Personality(Op):
    """personality(2)."""

    __slots__ = ("domain",)
    code, form, order = 60, "n", ("domain",)

    def __init__(self, domain: int) -> None:
        self.domain = domain

    def describe(self) -> str:
        return f"personality {_name(DOMAINS, self.domain)}"


class SetScheduler(Op):
    """sched_setattr(2) of the process itself; times in nanoseconds.  The sentence is runc's."""

    __slots__ = ("deadline_ns", "flags", "nice", "period_ns", "policy", "priority", "runtime_ns")
    code, form = 61, "nnnnnnn"
    order = ("policy", "flags", "nice", "priority", "runtime_ns", "deadline_ns", "period_ns")

    def __init__(
        self, policy: int, flags: int, nice: int, priority: int, runtime_ns: int, deadline_ns: int, period_ns: int
    ) -> None:
        self.policy = policy
        self.flags = flags
        self.nice = nice
        self.priority = priority
        self.runtime_ns = runtime_ns
        self.deadline_ns = deadline_ns
        self.period_ns = period_ns

    def fields(self) -> tuple[object, ...]:
        values = [getattr(self, name) for name in self.order]
        values[2] = self.nice & 0xFFFFFFFFFFFFFFFF
        return tuple(values)

    def describe(self) -> str:
        text = f"sched_setattr {_name(POLICIES, self.policy)}"
        if self.policy in (SCHED_FIFO, SCHED_RR):
            text += f" priority {self.priority}"
        elif self.policy == SCHED_DEADLINE:
            text += f" runtime {self.runtime_ns} deadline {self.deadline_ns} period {self.period_ns}"
        else:
            text += f" nice {self.nice}"
        return text + "".join(f" {name}" for name, bit in SCHEDULER_FLAGS.items() if self.flags & bit)

    def failure(self, errno: int, detail: int) -> str:
        return f"error setting scheduler: {errno_text(errno)}"


class SetIoPriority(Op):
    """ioprio_set(2) of the process itself.  The sentence is runc's."""

    __slots__ = ("value",)
    code, form, order = 62, "n", ("value",)

    def __init__(self, value: int) -> None:
        self.value = value

    def describe(self) -> str:
        level = self.value & (1 << IO_CLASS_SHIFT) - 1
        return f"ioprio_set {_name(IO_CLASSES, self.value >> IO_CLASS_SHIFT)} {level}"

    def failure(self, errno: int, detail: int) -> str:
        return f"failed to set io priority: {errno_text(errno)}"


class SetAffinity(Op):
    """sched_setaffinity(2) of the process itself, the mask little-endian.  The sentence is runc's."""

    __slots__ = ("mask",)
    code, form, order = 63, "b", ("mask",)

    def __init__(self, mask: bytes) -> None:
        self.mask = mask

    def describe(self) -> str:
        return "sched_setaffinity " + ("all" if self.mask == ALL_CPUS else numbers(self.mask))

    def failure(self, errno: int, detail: int) -> str:
        return f"error setting CPU affinity: {errno_text(errno)}"


class SetMempolicy(Op):
    """set_mempolicy(2); `mode` with its flags, the mask of nodes little-endian."""

    __slots__ = ("mode", "nodes")
    code, form, order = 64, "nb", ("mode", "nodes")

    def __init__(self, mode: int, nodes: bytes) -> None:
        self.mode = mode
        self.nodes = nodes

    def describe(self) -> str:
        all_flags = sum(MEMORY_FLAGS.values())
        words = [_name(MEMORY_MODES, self.mode & ~all_flags)]
        words += [numbers(self.nodes)] if self.nodes else []
        words += [name for name, bit in MEMORY_FLAGS.items() if self.mode & bit]
        return "set_mempolicy " + " ".join(words)

    def failure(self, errno: int, detail: int) -> str:
        return f"failed to set memory policy: {errno_text(errno)}"


def numbers(mask: bytes) -> str:
    """The bits of a mask as a list: `0-3,7`."""
    bits, parts, at = int.from_bytes(mask, "little"), [], 0
    while bits >> at:
        if bits >> at & 1:
            first = at
            while bits >> at + 1 & 1:
                at += 1
            parts.append(str(first) if first == at else f"{first}-{at}")
        at += 1
    return ",".join(parts)


def _name(table: dict[str, int], value: int) -> str:
    return next((name for name, number in table.items() if number == value), str(value))
