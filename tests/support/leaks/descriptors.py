"""Descriptors of the engine's daemons: kind and target, with no number that changes from run to run."""

from __future__ import annotations

import ctypes
import os
import re

from support.leaks.facts import Fact, Facts
from support.leaks.mounts import mountinfo
from support.leaks.processes import Members, descriptors, link, text

OVERLAYFS_SUPER_MAGIC = 0x794C7630
_NUMBERED = re.compile(r"([a-z_]+):\[(\d+)\]")
_MNT_ID = re.compile(r"^mnt_id:\s*(\d+)$", re.MULTILINE)
_SO_ACCEPTCON = 0x10000  # /proc/net/unix, Flags
_TYPES = {"0001": "stream", "0002": "datagram", "0005": "seqpacket"}
_TCP_LISTEN = "0A"
_NAMESPACES = frozenset({"mnt", "net", "pid", "ipc", "uts", "user", "cgroup", "time"})
_libc = ctypes.CDLL(None, use_errno=True)

Sockets = dict[str, str]


def read(members: Members) -> Facts:
    """Facts for cortend, the zygote, shims and stand-ins; containers' own processes are not looked into."""
    facts = Facts()
    known = _all_sockets(members)
    mount_ids = {link("/proc/self/ns/mnt"): {mount.mount_id for mount in mountinfo("self")}}
    for one in members.values():
        pid = one.process.pid
        if not one.is_daemon or one.process.is_zombie:
            continue
        if not mount_ids.get(one.process.mnt):
            mount_ids[one.process.mnt] = {mount.mount_id for mount in mountinfo(pid)}
        for number, target in descriptors(pid):
            what = _describe(pid, number, target, known, mount_ids[one.process.mnt])
            facts.add(Fact("descriptor", one.role, what), ours=True, note=f"pid {pid}, one is {number} → {target}")
    return facts


def _describe(pid: int, number: int, target: str, known: Sockets, mount_ids: set[int]) -> str:
    match = _NUMBERED.fullmatch(target)
    if match and match.group(1) == "socket":
        return known.get(match.group(2), "socket that is not bound, or of another namespace")
    if match and match.group(1) in _NAMESPACES:
        return f"{match.group(1)} namespace"
    if match:
        return match.group(1)
    if target.startswith("/memfd:"):
        return f"memfd {target.removeprefix('/memfd:').removesuffix(' (deleted)')}"
    if target.startswith("/") and _is_detached(pid, number, mount_ids):
        return f"{_filesystem(pid, number)} in a detached mount, {target}"
    if target.endswith(" (deleted)"):
        return f"deleted file {target.removesuffix(' (deleted)')}"
    return target


def _is_detached(pid: int, number: int, mount_ids: set[int]) -> bool:
    match = _MNT_ID.search(text(f"/proc/{pid}/fdinfo/{number}"))
    return match is not None and int(match.group(1)) not in mount_ids


def _filesystem(pid: int, number: int) -> str:
    """`overlay` or the magic number of statfs(2)."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.statfs(f"/proc/{pid}/fd/{number}".encode(), buffer) != 0:
        return "something"
    magic = ctypes.c_long.from_buffer(buffer).value
    return "overlay" if magic == OVERLAYFS_SUPER_MAGIC else f"file system {magic:#x}"


def _all_sockets(members: Members) -> Sockets:
    """Sockets of the judge's network namespace and of all that members live in.

    An accepted unix(7) socket belongs to the namespace of the client that connected.
    """
    found = sockets("self")
    viewers: dict[str, list[int]] = {}
    for one in members.values():
        if one.process.net:
            viewers.setdefault(one.process.net, []).append(one.process.pid)
    for pids in viewers.values():
        for pid in pids[:3]:  # one alone may be dying
            found |= sockets(pid)
    return found


def sockets(pid: int | str) -> Sockets:
    """Inode and description of every socket of the network namespace that `pid` lives in: proc_pid_net(5)."""
    found: Sockets = {}
    for fields in _rows(pid, "unix", maxsplit=7):
        listening = " listening" if int(fields[3], 16) & _SO_ACCEPTCON else ""
        name = fields[7] if len(fields) > 7 else "unnamed"
        found[fields[6]] = f"unix {_TYPES.get(fields[4], fields[4])} socket{listening}, {name}"
    for family in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        for fields in _rows(pid, family):
            listening = " listening" if family.startswith("tcp") and fields[3] == _TCP_LISTEN else ""
            port = int(fields[1].rpartition(":")[2], 16)
            found[fields[9]] = f"{family} socket{listening}, port {port}"
    for family in ("netlink", "packet"):
        for fields in _rows(pid, family):
            found[fields[-1]] = f"{family} socket"
    return found


def _rows(pid: int | str, family: str, maxsplit: int = -1) -> list[list[str]]:
    path = f"/proc/{pid}/net/{family}"
    return [line.split(maxsplit=maxsplit) for line in text(path).splitlines()[1:]] if os.path.exists(path) else []
