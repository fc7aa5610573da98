"""Copies of the mounts of a container that runs, as detached mounts of our own.

A second mount of its layers would be none of the same files (overlayfs.rst, "Changes to underlying filesystems"), and
its root has what else is mounted below it, /proc too.  So the launcher, not this process, enters the container's mount
namespace for two calls: open_tree(2), which copies the one mount, and sendmsg(2), which hands the copy out.  Nothing is
looked up there, and nothing of the container is executed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Final

from corten.errors import Unavailable
from corten.launch.mountops import CloneTree
from corten.launch.ops import CLONE_NEWNS, Plan, SendFd, SetDumpable, Setns
from corten.launch.spawn import Done, Failed, Launcher, sentence
from corten.shim.protocol import receive_fds

_SOCKET, _NAMESPACE = "socket", "namespace"
_DATA: Final = b"."
_BATCH: Final = 64  # what is handed out waits in the socket until the launcher has ended, and must have room there


def plan(count: int) -> Plan:
    """Enter the namespace, copy `count` mounts, hand each out."""
    sources = [f"mount{number}" for number in range(count)]
    ops = [SetDumpable(), Setns(_NAMESPACE, CLONE_NEWNS)]
    for source in sources:
        ops += [CloneTree(f"{source}.copy", source), SendFd(_SOCKET, f"{source}.copy", _DATA)]
    return Plan(tuple(ops), (_SOCKET, _NAMESPACE, *sources))


def copies(launcher: Launcher, namespace_fd: int, mount_fds: Sequence[int]) -> list[int]:
    """Detached copies of mounts of that namespace, without what is mounted below them; the caller's.  Blocks.

    Raises Unavailable when one of them is no mount of it (any more).
    """
    found: list[int] = []
    try:
        for first in range(0, len(mount_fds), _BATCH):
            found += _batch(launcher, namespace_fd, mount_fds[first : first + _BATCH])
    except BaseException:
        for fd in found:
            os.close(fd)
        raise
    return found


def _batch(launcher: Launcher, namespace_fd: int, mount_fds: Sequence[int]) -> list[int]:
    steps = plan(len(mount_fds))
    fds = {_NAMESPACE: namespace_fd} | {f"mount{number}": fd for number, fd in enumerate(mount_fds)}
    found, why = collected(launcher, steps, fds, len(mount_fds))
    if why:
        raise Unavailable(f"the files of the container cannot be reached: {why}")
    return found


def collected(launcher: Launcher, steps: Plan, given: dict[str, int], count: int) -> tuple[list[int], str]:
    """The `count` descriptors that a plan sends over its slot `socket`, the caller's, or none and why.  Blocks."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        failed = _run(launcher, steps, {_SOCKET: theirs.fileno(), **given})
        found = _received(ours, count)
    if failed is None and len(found) == count:
        return found, ""
    for fd in found:
        os.close(fd)
    return [], sentence(steps, failed.index, failed.errno) if failed is not None else "it was killed"


def _run(launcher: Launcher, steps: Plan, fds: dict[str, int]) -> Failed | None:
    launch = launcher.spawn(steps, fds, stdio=_nothing(fds))
    failed = None
    try:
        while True:
            for event in launch.events():
                if isinstance(event, Failed):
                    failed = event
                if isinstance(event, Done):
                    return failed
    finally:
        launch.close()
        launch.reap_launcher()


def _nothing(fds: dict[str, int]) -> tuple[int, int, int]:
    """For stdio, which the launcher does not use: the socket, so that it has nothing of this process."""
    return (fds[_SOCKET],) * 3


def _received(ours: socket.socket, count: int) -> list[int]:
    ours.setblocking(False)
    found: list[int] = []
    for _ in range(count):
        try:
            _, fds, _ = receive_fds(ours, len(_DATA), 1)
        except BlockingIOError:
            break
        if not fds:
            break
        found += fds
    return found
