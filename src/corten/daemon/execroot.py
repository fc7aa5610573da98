"""The exec root: `<exec-root>/tasks` is a private mount of its own.

So what an external runtime's shim mounts below it is not seen by the host's other mount namespaces, while `rshared`
binds elsewhere still propagate (design.md §3).
"""

from __future__ import annotations

import os
import re
from typing import Final

from corten.sys import files, mount

TASKS: Final = "tasks"
EMPTY: Final = "empty"
ENGINE_ID: Final = "engine-id"


def prepare(exec_root: str, engine_id: str) -> None:
    """Make the directories, and the mount unless it is there; note whose they are."""
    os.makedirs(exec_root, 0o711, exist_ok=True)
    os.chmod(exec_root, 0o711)
    for name, mode in ((TASKS, 0o711), (EMPTY, 0o700)):
        os.makedirs(f"{exec_root}/{name}", mode, exist_ok=True)
    files.replace(f"{exec_root}/{ENGINE_ID}", engine_id.encode())
    tasks = os.path.realpath(f"{exec_root}/{TASKS}")
    if tasks not in mount.mount_points():
        mount.mount(tasks, tasks, None, mount.MS_BIND)
    mount.mount("none", tasks, None, mount.MS_PRIVATE)


def engine_of(exec_root: str) -> str:
    """The id of the engine whose it was; "" when that is not known."""
    try:
        with open(f"{exec_root}/{ENGINE_ID}", encoding="ascii", errors="replace") as file:
            text = file.read(64)
    except OSError:
        return ""
    return text if re.fullmatch("[0-9a-f]{8}", text) else ""


def remove(exec_root: str) -> None:
    """Unmount whatever is mounted at and below the tasks, innermost first; missing is fine."""
    tasks = os.path.realpath(f"{exec_root}/{TASKS}")
    for point in reversed(mount.mount_points()):
        if point == tasks or point.startswith(f"{tasks}/"):
            mount.umount(point, mount.MNT_DETACH)
