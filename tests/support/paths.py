"""Where things are: the checkout, its commands, the cache of what tests fetch, and a short temporary folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
COMMANDS = REPOSITORY / ".venv" / "bin"

SCRATCH = "CORTEN_TEST_SCRATCH"  # where `scratch` makes folders, when it is not /tmp
PREFIX = "corten-test-"  # every netns, cgroup and folder that a test makes starts so: the leak check looks for it


def cache(*parts: str) -> Path:
    """A folder below $CORTEN_TEST_CACHE, by default `.cache` of the checkout; made when missing."""
    folder = Path(os.environ.get("CORTEN_TEST_CACHE") or REPOSITORY / ".cache").joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def mark() -> str:
    """What stands in the name of everything that this test process makes."""
    return f"{PREFIX}{os.getpid()}-"


def scratch(kind: str) -> Path:
    """A new folder `/tmp/corten-test-<pid>-<kind>-…` with mode 0755 ($CORTEN_TEST_SCRATCH/…); the caller removes it.

    Short, because dockerd and containerd bind sockets by full path (unix(7): 108 bytes).
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{mark()}{kind}-", dir=os.environ.get(SCRATCH, "/tmp")))
    folder.chmod(0o755)
    return folder
