"""/dev/shm of containers that share it: `--ipc shareable`, `--ipc container:ID`, `--ipc host`.

A private container's is mounted by its runtime.  A shareable one needs a mount that another container can bind,
so it is mounted below the task's directory, in cortend's private tasks mount, and unmounted with the task.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from corten.engine.container import Container, Roster
from corten.engine.tasks import Task
from corten.sys import mount

_NAME: Final = "shm"
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_HOST: Final = "/dev/shm"


class SharedMemory:
    """Makes, finds and releases the mounts."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    def source(self, container: Container, task: Task) -> str:
        """What to bind on /dev/shm: "" for a private one."""
        host = container.record.effective.host
        mode, _, ref = host.ipc_mode.partition(":")
        if mode == "host":
            return _HOST
        if mode == "container":
            other = self._roster.find(ref).task
            return f"{other.directory}/{_NAME}" if other is not None else ""
        if mode != "shareable":
            return ""
        id_map = container.record.effective.id_map
        return _mount(task, host.shm_size, id_map.root if id_map is not None else (0, 0))

    def release(self, task: Task) -> None:
        """Unmount a task's own; does nothing when it has none."""
        release(task.directory)


def _mount(task: Task, size_bytes: int, owner: tuple[int, int]) -> str:
    target = f"{task.directory}/{_NAME}"
    os.mkdir(target, 0o700)
    data = f"mode=1777,size={size_bytes},uid={owner[0]},gid={owner[1]}"
    mount.mount("shm", target, "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, data)
    return target


def release(task_directory: str) -> None:
    """Unmount the shared memory of a task's directory, if there is any."""
    target = f"{task_directory}/{_NAME}"
    if os.path.isdir(target):
        with contextlib.suppress(OSError):  # not a mount: the kill came between mkdir and mount
            mount.umount(target, mount.MNT_DETACH)
