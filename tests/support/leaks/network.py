"""Network namespaces, the links in each, and the nft rulesets of the host and of the engine's own."""

from __future__ import annotations

import ctypes
import os
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from support.leaks.facts import Fact, Facts
from support.leaks.mounts import mountinfo
from support.leaks.processes import Members, Table, descriptors, text
from support.leaks.subject import Subject

CLONE_NEWNET = 0x40000000
NAMED = Path("/run/netns")
HOST = "the host's network namespace"
ENGINES = "the engine's network namespace"
_INODE = re.compile(r"net:\[(\d+)\]")
_EXPIRES = re.compile(r" expires \w+")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class NetNamespace:
    """A network namespace: a path that setns(2) can open, what to call it, and whether the engine answers for it."""

    path: str
    label: str
    ours: bool


def namespaces(processes: Table, members: Members, subject: Subject) -> dict[int, NetNamespace]:
    """Every namespace that has a process, a name, a mount or a descriptor of the engine; the best label wins."""
    found: dict[int, NetNamespace] = {}
    for inode, namespace in _sightings(processes, members, subject):
        found.setdefault(inode, namespace)
    return found


def _sightings(processes: Table, members: Members, subject: Subject) -> Iterator[tuple[int, NetNamespace]]:
    """Sightings in the order of their worth as a label."""
    yield os.stat("/proc/self/ns/net").st_ino, NetNamespace("/proc/self/ns/net", HOST, False)
    if subject.netns_inode is not None:
        yield subject.netns_inode, NetNamespace(str(subject.netns), ENGINES, True)
    for one in members.values():
        if match := _INODE.fullmatch(one.process.net):
            path = f"/proc/{one.process.pid}/ns/net"
            yield int(match.group(1)), NetNamespace(path, f"network namespace of {one.role}", True)
    yield from _pinned()
    for other in processes.values():
        if match := _INODE.fullmatch(other.net):
            yield int(match.group(1)), NetNamespace(f"/proc/{other.pid}/ns/net", f"somebody's {other.net}", False)
    for one in members.values():
        for number, target in descriptors(one.process.pid):
            if match := _INODE.fullmatch(target):
                path = f"/proc/{one.process.pid}/fd/{number}"
                yield int(match.group(1)), NetNamespace(path, f"network namespace held by {one.role}", True)


def _pinned() -> Iterator[tuple[int, NetNamespace]]:
    """Namespaces that a bind mount keeps; whose they are tells the path."""
    for mount in mountinfo("self"):
        if mount.kind == "nsfs" and (match := _INODE.fullmatch(mount.root)):
            yield int(match.group(1)), NetNamespace(mount.point, f"network namespace at {mount.point}", False)


def read(processes: Table, members: Members, subject: Subject) -> Facts:
    """Facts of all namespaces, read by a thread that enters one after the other and ends."""
    facts = Facts()
    spaces = namespaces(processes, members, subject)
    _in_thread(lambda: _visit_all(spaces, facts))
    return facts


def _in_thread(work: Callable[[], None]) -> None:
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # raised again below, in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=guarded, name="leaks-netns")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def _visit_all(spaces: dict[int, NetNamespace], facts: Facts) -> None:
    for inode, space in spaces.items():
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):  # its last process went meanwhile
            _enter(space.path, inode)
            _visit(space, inode, facts)


def _enter(path: str, inode: int) -> None:
    """Moves the calling thread; ProcessLookupError when the path leads elsewhere by now."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_ino != inode:
            raise ProcessLookupError(path)
        if _libc.setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    finally:
        os.close(fd)


def _visit(space: NetNamespace, inode: int, facts: Facts) -> None:
    facts.add(Fact("network namespace", space.label, "it exists"), ours=space.ours, note=f"net:[{inode}] {space.path}")
    for _, name in socket.if_nameindex():
        facts.add(Fact("link", space.label, name), ours=space.ours)
    if not space.ours and space.label != HOST:
        return
    for line in ruleset():
        facts.add(Fact("nft", space.label, line), ours=space.ours)
    for name in _abstract_sockets():
        facts.add(Fact("socket name", space.label, name), ours=space.ours)


def ruleset() -> list[str]:
    """`nft list ruleset` of the calling thread's namespace: each line with its table and chain, each element alone."""
    done = subprocess.run(["nft", "-s", "list", "ruleset"], check=True, capture_output=True, text=True)
    return list(flat_ruleset(done.stdout))


def flat_ruleset(listing: str) -> Iterator[str]:
    """`table ip t`, `table ip t, chain c`, `table ip t, chain c: rule`, `table ip t, map m: element a : b`."""
    context: list[str] = []
    elements: str | None = None
    for line in (raw.strip() for raw in listing.splitlines()):
        if elements is not None or line.startswith("elements = {"):
            elements = (elements or "") + " " + line.removeprefix("elements = {")
            if line.endswith("}"):
                yield from (f"{', '.join(context)}: element {one}" for one in _elements(elements.rstrip("} ")))
                elements = None
        elif line.endswith("{"):
            context.append(line.rstrip("{ "))
            yield ", ".join(context)
        elif line == "}":
            context.pop()
        elif line:
            yield f"{', '.join(context)}: {line}"


def _elements(listing: str) -> list[str]:
    return [_EXPIRES.sub("", one.strip()) for one in listing.split(",") if one.strip()]


def _abstract_sockets() -> Iterator[str]:
    for line in text("/proc/thread-self/net/unix").splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7].startswith("@"):
            yield fields[7]
