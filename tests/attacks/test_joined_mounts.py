"""A configuration that joins the mount namespace of another container, or of the host, by path.

pivot_root(2) changes the root of every process in that namespace: the other container, or the host, would go on in the
root filesystem of this one.  Everything here runs in a mount namespace of its own.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import paths, runtimes, weakened_corten
from support.runtimes import Runtime
from support.weakened import Edit

JOINED: tuple[Edit, ...] = (
    ("launch/checks.py", "    if mount.path:\n", "    if False:\n"),
    ("launch/enter.py", '"network", "cgroup", "user")', '"network", "cgroup", "mount", "user")'),
)
# the victim in a namespace of its own: a shell that tells what its root is when it is asked
VICTIM = ("unshare", "--mount", "--propagation", "private", "sh", "-c", "echo ready; read line; ls /")


@pytest.fixture
def folder() -> Iterator[Path]:
    with runtimes.folder_of_containers("joined") as made:
        yield made


def attack(folder: Path, commands: Path) -> str:
    """A container with the victim's mount namespace; what the victim finds in its root afterwards."""
    bundle = runtimes.bundle("true", folder=folder / "bundle")
    (bundle.path / "rootfs/of the attacker").mkdir()
    pipe = subprocess.PIPE
    with subprocess.Popen(VICTIM, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as victim:
        assert victim.stdin is not None
        assert victim.stdout is not None
        assert victim.stdout.readline() == "ready\n"
        others = [entry for entry in bundle.config["linux"]["namespaces"] if entry["type"] != "mount"]
        path = f"/proc/{victim.pid}/ns/mnt"
        assert os.readlink(path) != os.readlink("/proc/self/ns/mnt")
        bundle.config["linux"]["namespaces"] = [*others, {"type": "mount", "path": path}]
        Runtime(commands / "corten-runtime", folder / "root")("run", "-b", str(bundle.save().path), "C")
        found = sorted(os.listdir(f"/proc/{victim.pid}/root"))
        victim.stdin.write("\n")
    return " ".join(found)


def test_root_of_the_others_stays(folder: Path) -> None:
    assert attack(folder, paths.COMMANDS) == " ".join(sorted(os.listdir("/")))


def test_twin_a_runtime_that_joins_changes_it(folder: Path) -> None:
    with weakened_corten.build(*JOINED) as weak:
        assert "of the attacker" in attack(folder, weak.commands)
