"""Cgroup directories of every mounted hierarchy, v1 and v2."""

from __future__ import annotations

import os

from support.leaks.facts import Fact, Facts
from support.leaks.mounts import mountinfo
from support.leaks.processes import Members, text


def hierarchies() -> dict[str, str]:
    """Mount point and name (its controllers, or `v2`) of every hierarchy."""
    found = {}
    for mount in mountinfo("self"):
        if mount.kind == "cgroup":
            found[mount.point] = f"v1 {os.path.basename(mount.point)}"
        elif mount.kind == "cgroup2":
            found[mount.point] = "v2"
    return found


def read(members: Members) -> Facts:
    """One fact per directory; those that a process of the engine sits in are its own, the judge's left out."""
    facts = Facts()
    mine = _paths(text("/proc/self/cgroup"))
    theirs = {path for one in members.values() for path in _paths(one.process.cgroups)} - mine - {"/"}
    for point, name in hierarchies().items():
        for base, _, _ in os.walk(point):
            path = base[len(point) :] or "/"
            facts.add(Fact("cgroup", name, path), ours=path in theirs)
    return facts


def _paths(cgroups: str) -> set[str]:
    return {line.split(":", 2)[2] for line in cgroups.splitlines()}
