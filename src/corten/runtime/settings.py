"""Places that follow from the global flags and from who runs us."""

from __future__ import annotations

import posix

from corten.runtime import args
from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.runtime.args import Options


def root(settings: Options) -> str:
    """The state root of an invocation, absolute: `--root`, else one below the runtime directory."""
    given = settings.text("root")
    return files.absolute(given) if given else f"{runtime_directory()}/{args.PROGRAM}"


def seccomp_cache() -> str:
    """Where compiled seccomp profiles are kept: shared by every state root of the same user."""
    return f"{runtime_directory()}/{args.PROGRAM}-seccomp"


def runtime_directory() -> str:
    """/run, or XDG_RUNTIME_DIR for an ordinary user and, as by runc, for the root of a user namespace."""
    own = posix.environ.get(b"XDG_RUNTIME_DIR", b"").decode("utf-8", "surrogateescape")
    if not own:
        return "/run"
    if posix.geteuid() == 0 and (posix.environ.get(b"USER") == b"root" or not in_user_namespace()):
        return "/run"
    return own


def in_user_namespace() -> bool:
    """This process is in a user namespace other than the first, whose map is of everything to itself."""
    return files.read("/proc/self/uid_map").split() != [b"0", b"0", b"4294967295"]
