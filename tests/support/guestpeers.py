"""A plugin of the pytest inside the virtual machine: the peers are those on its disk, and everything is slow."""

from __future__ import annotations

import shutil
from pathlib import Path

from support import peers, runtimes

DOCKER = Path("/usr/local/bin/docker")


def _installed(name: str) -> Path:
    found = shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin")
    assert found, f"{name} is not on the machine's disk"
    return Path(found)


peers.docker_cli = lambda: DOCKER  # type: ignore[assignment]  # put there by support.machine
runtimes.Runtime.patience_s = 180.0
peers.binary = _installed  # type: ignore[assignment]
