"""Mounts of every mount namespace that a process lives in: proc_pid_mountinfo(5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from support.leaks.facts import Fact, Facts
from support.leaks.processes import Members, Table, link, text

HOST = "the host's mount namespace"
FOREIGN = "a mount namespace of somebody else"


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of mountinfo without its ids and peer groups."""

    mount_id: int
    root: str
    point: str
    kind: str
    source: str
    options: str

    def __str__(self) -> str:
        root = "" if self.root == "/" else f", its {self.root}"
        return f"{self.kind} {self.source} at {self.point}{root} ({self.options})"


def mountinfo(pid: int | str) -> list[Mount]:
    """The mounts that `pid` sees; none when it is gone."""
    found = []
    for line in text(f"/proc/{pid}/mountinfo").splitlines():
        head, _, tail = line.partition(" - ")
        first, last = head.split(" "), tail.split(" ")
        options = f"{first[5]};{' '.join(last[2:])}"
        found.append(Mount(int(first[0]), first[3], first[4], last[0], last[1], options))
    return found


def read(processes: Table, members: Members) -> Facts:
    """Facts per namespace; for namespaces of strangers only what the host's namespace does not have as well.

    A stranger's `unshare --mount` copies our mounts with all others: that is no leak as long as the original lives.
    """
    facts = Facts()
    host = link("/proc/self/ns/mnt")
    originals = {str(mount) for mount in mountinfo("self")}
    for mount in mountinfo("self"):
        facts.add(Fact("mount", HOST, str(mount)))
    for namespace, pids in _viewers(processes).items():
        if namespace == host:
            continue
        owner = next((one for one in members.values() if one.process.mnt == namespace), None)
        pid, seen = _first_view(pids)
        note = f"seen by pid {pid} ({processes[pid].comm})"
        for line, count in seen.items():
            if owner:
                fact = Fact("mount", f"mount namespace of {owner.role}", line)
                facts.ours.add(fact)
            elif line in originals:
                continue
            else:
                fact = Fact("mount", FOREIGN, line)
            facts.at_least(fact, count)
            facts.notes[fact] = note
    return facts


def _viewers(processes: Table) -> dict[str, list[int]]:
    """The processes of each mount namespace, those that are in no chroot first."""
    found: dict[str, list[int]] = {}
    for one in processes.values():
        if one.mnt:
            found.setdefault(one.mnt, []).append(one.pid)
    return {
        namespace: sorted(pids, key=lambda pid: link(f"/proc/{pid}/root") != "/") for namespace, pids in found.items()
    }


def _first_view(pids: Sequence[int]) -> tuple[int, Counter[str]]:
    """Mounts as the first process that still lives sees them."""
    for pid in pids:
        if seen := Counter(str(mount) for mount in mountinfo(pid)):
            return pid, seen
    return pids[0], Counter()
