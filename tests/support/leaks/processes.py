"""The process table, and which of it is the engine's: by command line, cgroup, namespace, open files and parentage."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from support.leaks.facts import Fact, Facts
from support.leaks.subject import Subject

PROC = Path("/proc")
KTHREADD = 2
_CONTAINER = re.compile(r"[0-9a-f]{64}")
_NUMBERED = re.compile(r" --control-fd \d+")  # of the zygote: another descriptor after a restart


@dataclass(frozen=True, slots=True)
class Process:
    """One line of ps(1); `mnt` and `net` are what the links in ns/ say, empty for a zombie or one we may not see."""

    pid: int
    ppid: int
    state: str
    comm: str
    argv: tuple[str, ...]
    cgroups: str
    mnt: str
    net: str

    @property
    def is_zombie(self) -> bool:
        """Dead and not waited for."""
        return self.state in "ZX"

    @property
    def is_cortend(self) -> bool:
        """A cortend, of any engine."""
        return any(word.endswith("/cortend") for word in self.argv[:4])

    @property
    def is_zygote(self) -> bool:
        """What shims are forked from."""
        return "--zygote" in self.argv and any("corten-shim" in word for word in self.argv[:4])

    @property
    def is_shim(self) -> bool:
        """A shim, of any engine."""
        return bool(self.argv) and self.argv[0].startswith("corten-shim")


@dataclass(frozen=True, slots=True)
class Member:
    """A process of the engine; `role` names it in a way that a restart does not change."""

    process: Process
    role: str
    is_daemon: bool  # cortend, zygote, shim or stand-in: its descriptors are counted


Table = Mapping[int, Process]
Members = Mapping[int, Member]


def link(path: str) -> str:
    """What a symbolic link of /proc says; empty when the process is gone or not ours to see."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def text(path: str) -> str:
    """A file of /proc; empty when the process is gone."""
    try:
        with open(path, "rb") as stream:
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


def table() -> dict[int, Process]:
    """Every process but the kernel's threads."""
    found = (_read(int(name)) for name in os.listdir(PROC) if name.isdigit())
    return {one.pid: one for one in found if one is not None}


def _read(pid: int) -> Process | None:
    stat = text(f"/proc/{pid}/stat")
    head, _, tail = stat.rpartition(")")
    fields = tail.split()
    if not fields or pid == KTHREADD or int(fields[1]) == KTHREADD:
        return None
    return Process(
        pid=pid,
        ppid=int(fields[1]),
        state=fields[0],
        comm=head.partition("(")[2],
        argv=_argv(pid, fields[0]),
        cgroups=text(f"/proc/{pid}/cgroup"),
        mnt=link(f"/proc/{pid}/ns/mnt"),
        net=link(f"/proc/{pid}/ns/net"),
    )


def _argv(pid: int, state: str) -> tuple[str, ...]:
    """The command line.  For a moment of execve(2), in which descriptors are closed already, it is empty."""
    for _ in range(1000):
        words = text(f"/proc/{pid}/cmdline").rstrip("\0 ")
        if words or state in "ZX":  # or '': it is gone
            break
        time.sleep(0.002)
        state = text(f"/proc/{pid}/stat").rpartition(")")[2].strip()[:1]
    return tuple(words.split("\0"))


def descriptors(pid: int) -> Iterator[tuple[int, str]]:
    """Number and target of every open descriptor."""
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for number in numbers:
        target = link(f"/proc/{pid}/fd/{number}")
        if target:
            yield int(number), target


def members(processes: Table, subject: Subject) -> dict[int, Member]:
    """The engine's processes: those that bear its mark, and all that descend from them.

    What the test itself started (clients, tools) is not the engine's, unless it is a daemon of it or a stand-in.  Who
    is alone has all the others.
    """
    testers = _descendants(processes, {os.getpid()}) | _ancestors(processes, os.getpid())
    net = subject.netns_inode
    seeds = set(subject.stand_ins) & set(processes)
    for pid, one in processes.items():
        is_daemon = one.is_cortend or one.is_zygote or one.is_shim
        is_candidate = is_daemon or pid not in testers
        if is_candidate and (subject.alone or _bears_mark(one, subject, net)):
            seeds.add(pid)
    found = _descendants(processes, seeds)
    return {pid: _member(processes[pid], processes, subject) for pid in sorted(found)}


def _bears_mark(one: Process, subject: Subject, net: int | None) -> bool:
    if subject.names(" ".join(one.argv)) or subject.names(one.cgroups):
        return True
    if net is not None and one.net == f"net:[{net}]":
        return True
    if any(subject.names(link(f"/proc/{one.pid}/{name}")) for name in ("cwd", "root", "exe")):
        return True
    return any(subject.names(target) for _, target in descriptors(one.pid))


def _descendants(processes: Table, seeds: set[int]) -> set[int]:
    children: dict[int, list[int]] = {}
    for one in processes.values():
        children.setdefault(one.ppid, []).append(one.pid)
    found: set[int] = set()
    waiting = list(seeds)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, [])
    return found & set(processes)


def _ancestors(processes: Table, pid: int) -> set[int]:
    found = set()
    while pid in processes:
        pid = processes[pid].ppid
        found.add(pid)
    return found


def _member(one: Process, processes: Table, subject: Subject) -> Member:
    if one.pid in subject.stand_ins:
        return Member(one, subject.stand_ins[one.pid], True)
    if one.is_cortend:
        return Member(one, "cortend", True)
    if one.is_zygote:
        parent = processes.get(one.ppid)
        return Member(one, "child of the zygote" if parent and parent.is_zygote else "zygote", True)
    if one.is_shim and one.argv[0].startswith("corten-shim names"):
        return Member(one, "resolver", True)
    container = _CONTAINER.search(" ".join(one.argv) if one.is_shim else one.cgroups)
    if one.is_shim:
        return Member(one, f"shim {container.group()[:12]}" if container else "shim", True)
    if container:
        return Member(one, f"container {container.group()[:12]}", False)
    return Member(one, f"process {one.comm}", subject.alone)


def read(found: Members) -> Facts:
    """One fact per process of the engine, zombies under the name of their parent."""
    facts = Facts()
    for one in found.values():
        process = one.process
        note = f"pid {process.pid}, parent {process.ppid}, state {process.state}"
        if process.is_zombie:
            parent = found.get(process.ppid)
            place = f"child of {parent.role if parent else process.ppid}"
            facts.add(Fact("zombie", place, process.comm), ours=True, note=note)
        else:
            command = _NUMBERED.sub("", " ".join(process.argv))
            facts.add(Fact("process", one.role, command), ours=True, note=note)
    return facts
