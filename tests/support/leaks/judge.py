"""Two snapshots and what the second has more than the first, less a short list of what is no leak."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from support.engine import CortenEngine
from support.leaks import cgroups, descriptors, files, mounts, network, processes, programs
from support.leaks.facts import Fact, Facts
from support.leaks.subject import Subject

SETTLE_SECONDS = 60.0
LINES_PER_KIND = 12


@dataclass(frozen=True, slots=True)
class Allowed:
    """Facts whose text matches `pattern` wholly may hold up to `most` times."""

    pattern: str
    reason: str
    most: int = 1


# What a living engine makes once and keeps until `cortend --destroy`.  At most ten lines, a test counts them.
ALLOWED: tuple[Allowed, ...] = (
    Allowed(r"cgroup, .*: /corten-[0-9a-f]{8}", "the engine's parent of all its cgroups, made for the first container"),
    Allowed(r"file, under exec-root: tasks/moby/", "the folder of the tenant, made for its first task"),
    Allowed(r"descriptor, cortend: net namespace", "one spare namespace, ready for the next container"),
    Allowed(r"network namespace, network namespace held by cortend: it exists", "the spare one itself"),
    Allowed(r"descriptor, resolver: unix seqpacket socket, .*/names\.sock\.new", "a cortend that found its resolver"),
    Allowed(r"link, network namespace held by cortend: lo", "what the kernel puts into the spare one"),
)


@dataclass(frozen=True, slots=True)
class Leak:
    """A fact that holds more often than before, and a hint where to look."""

    fact: Fact
    before: int
    after: int
    note: str

    def __str__(self) -> str:
        times = f" ({self.before} → {self.after})" if self.before or self.after > 1 else ""
        return f"{self.fact}{times}{f' [{self.note}]' if self.note else ''}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The machine at one time, seen with one engine in mind."""

    subject: Subject
    facts: Facts
    seconds: float

    @classmethod
    def take(cls, subject: Subject) -> Snapshot:
        """Reads the whole machine; some tens of milliseconds."""
        start = time.monotonic()
        subject.learn()
        table = processes.table()
        found = processes.members(table, subject)
        roots = files.read(subject)
        subject.learn_from(fact.what for fact in roots.counts if fact.place in (files.DATA, files.EXEC))
        parts = (
            roots,
            files.keyrings(),
            processes.read(found),
            mounts.read(table, found),
            cgroups.read(found),
            network.read(table, found, subject),
            descriptors.read(found),
            programs.read(),
        )
        return cls(subject, _joined(parts), time.monotonic() - start)

    def of_kind(self, kind: str) -> Counter[Fact]:
        """The facts of one kind, with their counts."""
        return Counter({fact: count for fact, count in self.facts.counts.items() if fact.kind == kind})


def _joined(parts: Sequence[Facts]) -> Facts:
    whole = Facts()
    for part in parts:
        whole.counts.update(part.counts)
        whole.ours |= part.ours
        whole.notes |= part.notes
    return whole


def diff(before: Snapshot, after: Snapshot, *, allowed: Sequence[Allowed] = ALLOWED) -> list[Leak]:
    """What `after` has more than `before` and is the engine's by place or by name, sorted."""
    found = []
    for fact, count in after.facts.counts.items():
        earlier = before.facts.counts[fact]
        if count > earlier and _is_engines(fact, after) and not _is_allowed(fact, count, allowed):
            found.append(Leak(fact, earlier, count, after.facts.notes.get(fact, "")))
    return sorted(found, key=lambda leak: leak.fact)


def _is_engines(fact: Fact, snapshot: Snapshot) -> bool:
    subject = snapshot.subject
    is_shared = fact.kind in ("keyring", "bpf program")  # which no namespace parts: neighbours have theirs
    is_alone = subject.alone and not is_shared
    return is_alone or fact in snapshot.facts.ours or subject.names(f"{fact.place} {fact.what}")


def _is_allowed(fact: Fact, count: int, allowed: Sequence[Allowed]) -> bool:
    return any(count <= line.most and re.fullmatch(line.pattern, str(fact)) for line in allowed)


def settled(
    before: Snapshot,
    timeout: float = SETTLE_SECONDS,
    *,
    allowed: Sequence[Allowed] = ALLOWED,
    kinds: Collection[str] = (),
) -> list[Leak]:
    """Compares again and again until there is no leak or the time (seconds) is over: the kernel removes with delay.

    `kinds`: of facts that count; all when there are none.
    """
    end = time.monotonic() + timeout
    while True:
        found = diff(before, Snapshot.take(before.subject), allowed=allowed)
        found = [leak for leak in found if not kinds or leak.fact.kind in kinds]
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.05)


def expect_none(before: Snapshot, timeout: float = SETTLE_SECONDS, *, allowed: Sequence[Allowed] = ALLOWED) -> None:
    """AssertionError with the report when something is left after `timeout` seconds."""
    found = settled(before, timeout, allowed=allowed)
    assert not found, render(found)


@contextmanager
def no_leaks(engine: CortenEngine, timeout: float = SETTLE_SECONDS) -> Iterator[Snapshot]:
    """Fails when the block leaves something; a block that raises is not judged."""
    before = Snapshot.take(Subject.of(engine))
    yield before
    expect_none(before, timeout)


def render(leaks: Sequence[Leak]) -> str:
    """The report: a line per kind with its count, below it the leaks, the first dozen."""
    lines = [f"{len(leaks)} leaks" if len(leaks) != 1 else "1 leak"]
    for kind, count in Counter(leak.fact.kind for leak in leaks).items():
        these = [leak for leak in leaks if leak.fact.kind == kind]
        lines.append(f"  {kind}: {count}")
        lines += [f"    {leak}" for leak in these[:LINES_PER_KIND]]
        lines += [f"    … and {count - LINES_PER_KIND} more"] if count > LINES_PER_KIND else []
    return "\n".join(lines)
