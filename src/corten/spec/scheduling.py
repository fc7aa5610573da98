"""Where and how a process is scheduled: processors, policy, I/O priority, memory nodes, personality.

Rules: config.md, "Linux Process"; config-linux.md, "Memory Policy" and "Personality".  Numbers are the kernel's
(sched_setattr(2), ioprio_set(2), set_mempolicy(2), personality(2)); the sentences of refusals are runc's where it has
one.  Loaded only for a configuration that has one of these fields.
"""

from __future__ import annotations

from corten.errors import InvalidArgument
from corten.spec.reader import U64, Reader, Value

POLICIES = {
    "SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4, "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}  # fmt: skip
SCHED_FIFO, SCHED_RR, SCHED_DEADLINE = 1, 2, 6
SCHEDULER_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01, "SCHED_FLAG_RECLAIM": 0x02, "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08, "SCHED_FLAG_KEEP_PARAMS": 0x10, "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}  # fmt: skip
RESET_ON_FORK = 0x01

IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
IO_CLASS_SHIFT = 13

MEMORY_MODES = {
    "MPOL_DEFAULT": 0, "MPOL_PREFERRED": 1, "MPOL_BIND": 2, "MPOL_INTERLEAVE": 3, "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5, "MPOL_WEIGHTED_INTERLEAVE": 6,
}  # fmt: skip
WITHOUT_NODES = ("MPOL_DEFAULT", "MPOL_LOCAL")
MEMORY_FLAGS = {"MPOL_F_NUMA_BALANCING": 1 << 13, "MPOL_F_RELATIVE_NODES": 1 << 14, "MPOL_F_STATIC_NODES": 1 << 15}

DOMAINS = {"LINUX": 0x0, "LINUX32": 0x8}

# more than any kernel is built for (NR_CPUS, MAX_NUMNODES)
LAST_CPU, LAST_NODE = 8191, 1023


class Scheduler(Value):
    """`scheduler` as sched_setattr(2) takes it; times in nanoseconds."""

    __slots__ = ("deadline_ns", "flags", "nice", "period_ns", "policy", "priority", "runtime_ns")

    def __init__(
        self,
        policy: int,
        *,
        flags: int = 0,
        nice: int = 0,
        priority: int = 0,
        runtime_ns: int = 0,
        deadline_ns: int = 0,
        period_ns: int = 0,
    ) -> None:
        self.policy = policy
        self.flags = flags
        self.nice = nice
        self.priority = priority
        self.runtime_ns = runtime_ns
        self.deadline_ns = deadline_ns
        self.period_ns = period_ns

    @property
    def stays_behind(self) -> bool:
        """A fork does not inherit it: a deadline forbids one, and a flag says so."""
        return self.policy == SCHED_DEADLINE or bool(self.flags & RESET_ON_FORK)


class ExecAffinity(Value):
    """`execCPUAffinity`: masks before and after the cgroup is joined, little-endian; b'' where nothing is said."""

    __slots__ = ("final", "initial")

    def __init__(self, initial: bytes, final: bytes) -> None:
        self.initial = initial
        self.final = final


class MemoryPolicy(Value):
    """`memoryPolicy`: mode and flags as set_mempolicy(2) takes them, the mask of nodes little-endian."""

    __slots__ = ("mode", "nodes")

    def __init__(self, mode: int, nodes: bytes) -> None:
        self.mode = mode
        self.nodes = nodes


def read_scheduler(reader: Reader) -> Scheduler:
    """The object at `scheduler`; raises `InvalidArgument`."""
    word = reader.string("policy")
    if not word:
        raise InvalidArgument("scheduler policy is required")
    if word not in POLICIES:
        raise InvalidArgument(f"invalid scheduler policy: {word}")
    policy = POLICIES[word]
    nice = reader.integer("nice", low=-(1 << 31))
    if not -20 <= nice <= 19:
        raise InvalidArgument(f"invalid scheduler.nice: {nice}")
    priority = reader.integer("priority", high=(1 << 31) - 1)
    if priority and policy not in (SCHED_FIFO, SCHED_RR):
        raise InvalidArgument("scheduler.priority can only be specified for SchedFIFO or SchedRR policy")
    times = [reader.integer(name, high=U64) for name in ("runtime", "deadline", "period")]
    if any(times) and policy != SCHED_DEADLINE:
        raise InvalidArgument("scheduler runtime/deadline/period can only be specified for SchedDeadline policy")
    flags = _flags(reader, SCHEDULER_FLAGS)
    runtime_ns, deadline_ns, period_ns = times
    return Scheduler(
        policy,
        flags=flags,
        nice=nice,
        priority=priority,
        runtime_ns=runtime_ns,
        deadline_ns=deadline_ns,
        period_ns=period_ns,
    )


def read_io_priority(reader: Reader) -> int:
    """The object at `ioPriority` as ioprio_set(2) takes it; raises `InvalidArgument`."""
    word = reader.string("class")
    if word not in IO_CLASSES:
        raise InvalidArgument(f'invalid ioPriority.Class: "{word}"')
    level = reader.integer("priority", low=-(1 << 31))
    if not 0 <= level <= 7:
        raise InvalidArgument(f"invalid ioPriority.Priority: {level}")
    return IO_CLASSES[word] << IO_CLASS_SHIFT | level


def read_exec_affinity(reader: Reader) -> ExecAffinity:
    """The object at `execCPUAffinity`; raises `InvalidArgument`."""
    return ExecAffinity(_mask(reader, "initial", LAST_CPU), _mask(reader, "final", LAST_CPU))


def read_memory_policy(reader: Reader) -> MemoryPolicy:
    """The object at `memoryPolicy`; raises `InvalidArgument`."""
    word = reader.string("mode", required=True)
    if word not in MEMORY_MODES:
        raise InvalidArgument(f'invalid memory policy mode "{word}"')
    nodes = _mask(reader, "nodes", LAST_NODE)
    count = int.from_bytes(nodes, "little").bit_count()
    if word in WITHOUT_NODES and count:
        raise InvalidArgument(f"memory policy mode {word} requires 0 nodes but got {count}")
    if word not in (*WITHOUT_NODES, "MPOL_PREFERRED") and not count:
        raise InvalidArgument(f"memory policy mode {word} requires at least one node but got 0")
    flags = _flags(reader, MEMORY_FLAGS)
    both = MEMORY_FLAGS["MPOL_F_RELATIVE_NODES"] | MEMORY_FLAGS["MPOL_F_STATIC_NODES"]
    if flags & both == both:
        raise InvalidArgument("memory policy flags MPOL_F_RELATIVE_NODES and MPOL_F_STATIC_NODES exclude each other")
    return MemoryPolicy(MEMORY_MODES[word] | flags, nodes)


def read_personality(reader: Reader) -> int:
    """The object at `personality` as personality(2) takes it; raises `InvalidArgument`."""
    word = reader.string("domain", required=True)
    if word not in DOMAINS:
        raise InvalidArgument(f"invalid personality domain {word}")
    if reader.strings("flags"):
        raise InvalidArgument(f"{reader.where}.flags: no flag is supported")
    return DOMAINS[word]


def mask_of(text: str, last: int) -> bytes:
    """The bits of a list as in cpuset(7), `0-3,7`, little-endian in whole words of 8 bytes; raises ValueError."""
    bits = 0
    for part in text.split(","):
        first, dash, end = part.strip(" ").partition("-")
        if not (first or dash):
            continue  # a comma at the end
        low, high = _number(first), _number(end if dash else first)
        if not low <= high <= last:
            raise ValueError(part)
        bits |= (1 << high + 1) - (1 << low)
    return bits.to_bytes(-(-bits.bit_length() // 64) * 8, "little")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise ValueError(text)
    return int(text)


def _mask(reader: Reader, name: str, last: int) -> bytes:
    text = reader.string(name)
    try:
        return mask_of(text, last)
    except ValueError:
        raise InvalidArgument(f"{reader.where}.{name}: {text!r} is not a list of numbers up to {last}") from None


def _flags(reader: Reader, known: dict[str, int]) -> int:
    flags = 0
    for word in reader.strings("flags"):
        if word not in known:
            raise InvalidArgument(f"{reader.where}.flags: unknown flag {word!r}")
        flags |= known[word]
    return flags
