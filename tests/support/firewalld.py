"""firewalld as Debian has it, unpacked and not installed, with a message bus of its own, in a namespace of the test's.

Its Python is that of the other peers.  It keeps its rules in nftables' table `inet firewalld`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from support import paths, peers
from support.netlab import Node

SUITE = "bookworm"
PACKAGES = (
    *("firewalld", "python3-firewall", "python3-nftables", "python3-dbus", "python3-gi"),
    *("gir1.2-glib-2.0", "libgirepository-1.0-1", "dbus-daemon", "libdbus-1-3"),
)
PATIENCE_S = 60.0
_BUS = """\
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*"/> <allow receive_sender="*"/> <allow own="*"/> <allow user="*"/>
  </policy>
</busconfig>
"""


def tree() -> Path:
    """The unpacked packages, fetched once."""
    folder = paths.cache("peers", "firewalld")
    with peers.locked(folder):
        if not (folder / "done").exists():
            peers.download_packages(SUITE, PACKAGES, folder / "deb")
            for package in sorted((folder / "deb").glob("*.deb")):
                subprocess.run(["dpkg-deb", "-x", package, folder / "root"], check=True)
                package.unlink()
            (folder / "done").touch()
    return folder / "root"


class Firewalld:
    """firewalld in the namespace of `host`, as it is when nobody has configured it."""

    def __init__(self, host: Node) -> None:
        self._host = host
        self._root = tree()
        self._python = peers.tree(SUITE).root
        self._folder = paths.scratch("firewalld")
        self._stack = ExitStack()
        self._stack.callback(shutil.rmtree, self._folder)
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise

    def _start(self) -> None:
        shutil.copytree(self._root / "etc/firewalld", self._folder / "etc")
        (self._folder / "bus.conf").write_text(_BUS.format(socket=self._folder / "bus"))
        bus = [str(self._root / "usr/bin/dbus-daemon"), f"--config-file={self._folder / 'bus.conf'}", "--nofork"]
        self._run_behind([*bus, "--nopidfile"])
        self._until((self._folder / "bus").exists)
        configs = ["--system-config", str(self._folder / "etc")]
        configs += ["--default-config", str(self._root / "usr/lib/firewalld")]
        self._run_behind([*self._argv("sbin/firewalld"), "--nofork", "--nopid", "--log-target", "console", *configs])
        self._until(lambda: "running" in self._asked("--state").stdout)

    def _argv(self, program: str) -> list[str]:
        return [str(self._python / "usr/bin/python3.11"), str(self._root / "usr" / program)]

    @property
    def _environment(self) -> dict[str, str]:
        libraries = sorted((self._root / "usr/lib").glob("*-linux-gnu"))
        modules = [found / "usr/lib/python3/dist-packages" for found in (self._root, self._python)]
        return os.environ | {
            "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={self._folder / 'bus'}",
            "GI_TYPELIB_PATH": ":".join(str(one / "girepository-1.0") for one in libraries),
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHOME": str(self._python / "usr"),
            "PYTHONPATH": ":".join(map(str, modules)),
        }

    def _run_behind(self, argv: Sequence[str]) -> None:
        with (self._folder / "log").open("ab") as log:
            process = self._host.spawn(argv, env=self._environment, stdout=log, stderr=log)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)

    def _until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, (self._folder / "log").read_text()
            time.sleep(0.1)

    def _asked(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [*self._argv("bin/firewall-cmd"), *words]
        pipe = subprocess.PIPE
        return subprocess.run(
            argv, check=False, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=self._environment, timeout=60
        )

    def cmd(self, *words: str) -> str:
        """`firewall-cmd` with these words; what it says."""
        done = self._asked(*words)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def __enter__(self) -> Firewalld:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
