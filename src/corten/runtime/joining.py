"""The namespaces that a configuration names by path, looked at before anything is made.

The launcher opens them, and the kernel checks their kind; this is for the words of runc, and for what `compile` cannot
see: that a path leads back to the runtime's own namespace.
"""

from __future__ import annotations

import posix

from corten.errors import InvalidArgument, NotFound
from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.spec.runtime import Config

# configuration's word → file in /proc/PID/ns, where that is another word
FILES = {"network": "net", "mount": "mnt"}
NETWORK = "net."


def host_namespaces(config: Config) -> tuple[str, ...]:
    """Kinds whose path is the namespace of this process; raises NotFound for a path that is not there."""
    paths = {entry.type: entry.path for entry in config.linux.namespaces if entry.path}
    if "network" in paths and any(name.replace("/", ".").startswith(NETWORK) for name in config.linux.sysctl):
        _look(paths["network"], "invalid netns path: stat")
    for path in paths.values():
        _look(path, "unable to create new parent process: namespace path: lstat")
    return tuple([type for type, path in paths.items() if _same(path, f"/proc/self/ns/{FILES.get(type, type)}")])


def _look(path: str, doing: str) -> None:
    try:
        posix.lstat(path)
    except FileNotFoundError as error:
        raise NotFound(f"{doing} {path}: {files.why(error)}") from error
    except OSError as error:
        raise InvalidArgument(f"{doing} {path}: {files.why(error)}") from error


def _same(path: str, own: str) -> bool:
    """Both are one file; a path that leads nowhere is the launcher's to report."""
    try:
        found, mine = posix.stat(path), posix.stat(own)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)
