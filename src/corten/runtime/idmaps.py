"""The id maps of an ordinary user's namespace, by newuidmap(1) and newgidmap(1): they know who may have which ids.

They run while the child waits, with its pid (subuid(5), subgid(5)).
"""

from __future__ import annotations

import posix

from corten.errors import FailedPrecondition, NotFound
from corten.runtime import hooks
from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.runtime.launching import Creation
    from corten.spec.runtime import IdMapping

TIMEOUT_S = 10
NO_PATH = "/usr/local/bin:/usr/bin:/bin"


def run(making: Creation, pid: int) -> None:
    """The parent step `idmaps`."""
    linux = making.prepared.config.linux
    write(pid, linux.uid_mappings, linux.gid_mappings)


def write(pid: int, uid_mappings: tuple[IdMapping, ...], gid_mappings: tuple[IdMapping, ...]) -> None:
    """Gives the user namespace of `pid` its maps; raises NotFound without the programs, or FailedPrecondition."""
    for name, mappings in (("newuidmap", uid_mappings), ("newgidmap", gid_mappings)):
        numbers = [str(n) for entry in mappings for n in (entry.container_id, entry.host_id, entry.size)]
        program = {"path": find(name), "args": [name, str(pid), *numbers], "env": [], "timeout": TIMEOUT_S}
        try:
            hooks.run(program, b"", "/")
        except FailedPrecondition as error:
            raise FailedPrecondition(error.text.rpartition("stderr: ")[2].strip() or f"{name}: {error}") from error


def find(name: str) -> str:
    """The program's path in PATH; raises NotFound."""
    path = posix.environ.get(b"PATH", b"").decode("utf-8", "surrogateescape") or NO_PATH
    for directory in path.split(":"):
        if directory.startswith("/") and files.exists(f"{directory}/{name}"):
            return f"{directory}/{name}"
    raise NotFound(f"more ids than the user's own are mapped, and there is no {name} in $PATH (package uidmap)")
