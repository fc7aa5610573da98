"""A network namespace per test engine: what runs in it cannot touch the machine's links, routes and firewall.

Commands enter it by nsenter(1), never by `ip netns exec`, which mounts another /sys and hides the cgroups.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from support import paths
from support.runtimes import Runtime

RUN = Path("/run/netns")


class NetNs:
    """`corten-test-<pid>-<random>` with lo up, until `close` (or the end of the with block)."""

    def __init__(self) -> None:
        self.name = f"{paths.mark()}{secrets.token_hex(3)}"
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.run(["ip", "link", "set", "lo", "up"])

    @property
    def path(self) -> Path:
        """The file that nsenter and setns take."""
        return RUN / self.name

    @property
    def enter(self) -> list[str]:
        """What to put before an argv."""
        return ["nsenter", f"--net={self.path}", "--"]

    def run(self, argv: Sequence[str], *, timeout: float = 60) -> str:
        """Runs a command inside, returns its stdout; raises CalledProcessError."""
        done = subprocess.run([*self.enter, *argv], check=True, stdout=subprocess.PIPE, text=True, timeout=timeout)
        return done.stdout

    def close(self) -> None:
        """Deletes the name; the kernel drops the namespace with its last process."""
        if self.path.exists():
            subprocess.run(["ip", "netns", "delete", self.name], check=True)

    def __enter__(self) -> NetNs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class InNetNs(Runtime):
    """A runtime that runs in a network namespace."""

    def __init__(self, runtime: Runtime, netns: NetNs) -> None:
        super().__init__(runtime.program, runtime.root)
        self.netns = netns

    def argv(self, *words: str) -> list[str]:
        """The command line of a call."""
        return [*self.netns.enter, *super().argv(*words)]


class OwnNet(NetNs):
    """The namespace of the test itself, for a machine that is the test's own."""

    def __init__(self) -> None:
        self.name = "own"

    @property
    def path(self) -> Path:
        """The file that nsenter and setns take."""
        return Path("/proc/self/ns/net")

    @property
    def enter(self) -> list[str]:
        """Nothing to put before an argv."""
        return []

    def close(self) -> None:
        """It goes with the machine."""
