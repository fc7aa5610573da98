"""Engines whose containers have users of their own: with accounts and ranges of /etc that no machine has to have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from support import paths
from support.dockerd import Dockerd
from support.engine import CortenEngine

FIRST = 200000
COUNT = 65536
USER = "daemon"
SETTING = {"userns-remap": f"{USER}:{USER}"}


def ranges(folder: Path, text: str = f"{USER}:{FIRST}:{COUNT}\n") -> str:
    """A shell command that puts subuid and subgid in their places, in the mount namespace that it runs in."""
    for name in ("subuid", "subgid"):
        (folder / name).write_text(text)
    return " && ".join(f"mount --bind {folder}/{name} /etc/{name}" for name in ("subuid", "subgid"))


class RemappedEngine(CortenEngine):
    """cortend with `userns-remap`, in a mount namespace with ranges of its own."""

    def start(self, prefix: Sequence[str] = ()) -> None:
        """As every engine does."""
        script = f'{ranges(self.folder)} && exec "$0" "$@"'
        super().start(("unshare", "--mount", "--propagation", "slave", "sh", "-c", script, *prefix))


def dockerd() -> Dockerd:
    """dockerd 26.1 with the same map."""
    folder = paths.scratch("ranges")
    try:
        return Dockerd("26.1", args=("--userns-remap", SETTING["userns-remap"]), prepare=ranges(folder))
    finally:
        for name in ("subuid", "subgid"):
            (folder / name).unlink()
        folder.rmdir()
