"""What a runtime may leave behind on a machine that others use as well: mounts, cgroups, devices, files, namespaces."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import paths, process
from support.netns import NetNs

# what others make and remove meanwhile: a mount of ours elsewhere has our mark in it
OTHERS = re.compile(r"corten-|pytest-of-|^\S+ /(tmp|run|var|work|root)/")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The machine at one moment."""

    mounts: Counter[str]
    cgroups: frozenset[str]
    links: dict[str, Any]
    files: dict[str, tuple[int, ...]]

    def differences(self, later: Snapshot) -> list[str]:
        """What is there now and was not, or the other way round, or is not the same."""
        found = [f"mount {line}" for line in later.mounts - self.mounts]
        found += [f"no mount {line}" for line in self.mounts - later.mounts if paths.mark() in line]
        found += [f"cgroup {name}" for name in later.cgroups ^ self.cgroups]
        for what, before, after in (("link", self.links, later.links), ("file", self.files, later.files)):
            names = sorted({*before, *after})
            found += [
                f"{what} {name}: {before.get(name)} was, {after.get(name)} is"
                for name in names
                if before.get(name) != after.get(name)
            ]
        return found


def take(folder: Path, netns: NetNs | None) -> Snapshot:
    """Of a test whose files are below `folder`, and whose devices are in `netns`."""
    cgroups = frozenset(str(path) for path in process.cgroups_named(paths.mark()))
    return Snapshot(mounts(), cgroups, {} if netns is None else links(netns), files(folder))


def mounts() -> Counter[str]:
    """Root, mount point, options, type and source of every mount that is not another test's."""
    found: Counter[str] = Counter()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        what = line.split(" ", 3)[3]
        if paths.mark() in what or not OTHERS.search(what):
            found[what] += 1
    return found


def links(netns: NetNs) -> dict[str, Any]:
    """Name, MTU, address, state and addresses of every device; of its index and its peer's nothing is kept."""
    found = {}
    for row in json.loads(netns.run(["ip", "-json", "address"])):
        addresses = sorted(
            (entry["local"], entry["prefixlen"], entry.get("broadcast", ""))
            for entry in row["addr_info"]
            if entry["scope"] == "global"
        )
        found[row["ifname"]] = (row["mtu"], row.get("address"), "UP" in row["flags"], addresses)
    return found


def files(folder: Path) -> dict[str, tuple[int, ...]]:
    """Mode, owner and size of everything below a folder."""
    found: dict[str, tuple[int, ...]] = {}
    for base, names, others in os.walk(folder):
        for name in (*names, *others):
            path = os.path.join(base, name)
            status = os.lstat(path)
            size = 0 if name in names else status.st_size
            found[path.removeprefix(f"{folder}/")] = (status.st_mode, status.st_uid, status.st_gid, size)
    return found


def running() -> set[int]:
    """Every process."""
    return {int(entry) for entry in os.listdir("/proc") if entry.isdigit()}


def only_of(pids: set[int]) -> set[str]:
    """The namespaces that some processes are in, `net:[4026532000]`, and no other."""
    return _all_namespaces(pids) - _all_namespaces(running() - pids)


def held(namespaces: set[str], pids: set[int]) -> list[str]:
    """Those of the namespaces that one of the processes is in; the kernel gives their numbers to new ones soon."""
    if not namespaces:
        return []
    found = [(pid, _namespaces(pid) & namespaces) for pid in pids]
    return [f"namespaces {sorted(names)} of process {pid}" for pid, names in found if names]


def _all_namespaces(pids: Iterable[int]) -> set[str]:
    return {name for pid in pids for name in _namespaces(pid)}


def _namespaces(pid: int) -> set[str]:
    found = set()
    for kind in ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"):
        try:
            found.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # pid 1 may be somebody else's
            continue
    return found
