"""containerd 1.7 inside the virtual machine, driven by ctr."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import images, process

TIMEOUT_S = 120.0
LINGER = "sleep 2"  # as support.containerd has it, on a machine that is ten times slower


class Containerd:
    """The daemon with folders of its own."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "s"
        words = ("--root", f"{folder}/root", "--state", f"{folder}/state", "--address", str(self.socket))
        self.daemon = process.Daemon(["containerd", *words], folder / "log")
        self.daemon.wait_until(lambda: self.ctr("version").returncode == 0, "answer of containerd", timeout=TIMEOUT_S)

    def ctr(self, *words: str) -> subprocess.CompletedProcess[str]:
        """ctr; its output must not be what a container keeps open."""
        argv = ["ctr", "--address", str(self.socket), *words]
        return subprocess.run(
            argv, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT_S
        )

    def check(self, *words: str) -> str:
        """What ctr writes; it must succeed."""
        done = self.ctr(*words)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}\n{self.daemon.log_tail()}"
        return done.stdout

    def remove(self, id: str) -> None:
        """Kills and deletes a task, and its container."""
        self.ctr("tasks", "kill", "--signal", "KILL", id)
        process.wait_for(lambda: "RUNNING" not in self.check("tasks", "ls"), "end of the task", TIMEOUT_S)
        self.ctr("tasks", "delete", id)
        self.ctr("containers", "delete", id)


@contextmanager
def with_busybox(folder: Path) -> Iterator[Containerd]:
    """A containerd that has the busybox image, until the block ends."""
    made = Containerd(folder)
    try:
        made.check("images", "import", str(images.busybox()))
        yield made
    finally:
        made.daemon.stop()
