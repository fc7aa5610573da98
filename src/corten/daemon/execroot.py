"""The exec root: `<exec-root>/tasks` is a private mount of its own.

So what an external runtime's shim mounts below it is not seen by the host's other mount namespaces, while `rshared`
binds elsewhere still propagate (design.md §3).
"""

from __future__ import annotations

import os
from typing import Final

from corten.sys import mount

TASKS: Final = "tasks"
EMPTY: Final = "empty"


def prepare(exec_root: str) -> None:
    """Make the directories, and the mount unless it is there."""
    os.makedirs(exec_root, 0o711, exist_ok=True)
    os.chmod(exec_root, 0o711)
    for name, mode in ((TASKS, 0o711), (EMPTY, 0o700)):
        os.makedirs(f"{exec_root}/{name}", mode, exist_ok=True)
    tasks = os.path.realpath(f"{exec_root}/{TASKS}")
    if tasks not in mount.mount_points():
        mount.mount(tasks, tasks, None, mount.MS_BIND)
    mount.mount("none", tasks, None, mount.MS_PRIVATE)


def remove(exec_root: str) -> None:
    """Unmount whatever is mounted at and below the tasks, innermost first; missing is fine."""
    tasks = os.path.realpath(f"{exec_root}/{TASKS}")
    for point in reversed(mount.mount_points()):
        if point == tasks or point.startswith(f"{tasks}/"):
            mount.umount(point, mount.MNT_DETACH)
