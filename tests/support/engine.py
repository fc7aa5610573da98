"""A private Corten engine: its own network namespace, roots and socket; it may be killed, restarted and destroyed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from support import paths, process
from support.dockerd import DockerClient, client_environment
from support.netns import NetNs

START_SECONDS = 60


class CortenEngine(DockerClient):
    """cortend under `folder`; a context manager that ends with `destroy`.

    `config` becomes daemon.json; `commands` is where cortend lies, for builds that are not this checkout's; `prefix` is
    what it is always started below.  The folder's name (`corten-test-<pid>-engine-…`) is in every path of the engine,
    so that all its processes can be told by their command lines.  `last_check` looks at each engine before its end,
    unless that is an error.
    """

    patience_s: float = START_SECONDS  # until cortend answers
    last_check: ClassVar[Callable[[CortenEngine], None] | None] = None

    def __init__(
        self,
        *,
        config: Mapping[str, Any] | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        commands: Path = paths.COMMANDS,
        netns: NetNs | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.folder = paths.scratch("engine")
        self.data_root = self.folder / "data"
        self.exec_root = self.folder / "exec"
        self.socket = self.folder / "s"
        self.pidfile = self.folder / "pid"
        self.log = self.folder / "log"
        self.config_file = self.folder / "daemon.json"
        self.config_file.write_text(json.dumps(dict(config or {})))
        self.netns = NetNs() if netns is None else netns
        self._args = list(args)
        self._prefix = list(prefix)
        self._commands = commands
        self._env = dict(env or {})
        self._daemon: process.Daemon | None = None
        try:
            self.start()
        except process.NotReady:
            self.destroy()
            raise

    # The daemon.

    @property
    def argv(self) -> list[str]:
        """cortend and the paths of this engine, without `--destroy`."""
        return [
            str(self._commands / "cortend"),
            *("--data-root", str(self.data_root), "--exec-root", str(self.exec_root), "--host", self.host),
            *("--pidfile", str(self.pidfile), "--config", str(self.config_file), "--debug"),
            *self._args,
        ]

    @property
    def environment(self) -> dict[str, str]:
        """cortend's environment: a daemon's, with nothing of the desk's."""
        return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/"} | self._env

    def start(self, prefix: Sequence[str] = ()) -> None:
        """Starts cortend (below `prefix`, for example strace) and waits until it answers; NotReady otherwise."""
        argv = [*self.netns.enter, *self._prefix, *prefix, *self.argv]
        self._daemon = process.Daemon(argv, self.log, self.environment)
        self._daemon.wait_until(self.answers, "answer of cortend", timeout=self.patience_s)

    @property
    def pid(self) -> int:
        """cortend's pid as its pidfile names it."""
        return int(self.pidfile.read_text())

    def is_running(self) -> bool:
        """Whether cortend has not ended."""
        return self._daemon is not None and self._daemon.is_running()

    def kill9(self) -> None:
        """SIGKILL to cortend; returns when it is dead and reaped."""
        assert self._daemon is not None
        if self.is_running() and self.pidfile.exists():
            os.kill(self.pid, signal.SIGKILL)
        self._daemon.stop(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM to cortend: containers go on.  Its exit status."""
        assert self._daemon is not None
        return self._daemon.stop()

    def restart(self) -> None:
        """Stops cortend with SIGTERM and starts it again."""
        self.stop()
        self.start()

    def log_tail(self, lines: int = 60) -> str:
        """The end of cortend's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    # Our own command line.

    def corten(
        self, *args: str, stdin: str | None = None, timeout: float = 60, check: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Runs the corten CLI against this engine."""
        done = subprocess.run(
            [str(paths.COMMANDS / "corten"), "-H", self.host, *args],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            env=client_environment(),
        )
        assert not check or done.returncode == 0, f"corten {' '.join(args)}: {done.returncode}: {done.stderr}"
        return done

    # The end.

    def destroy(self) -> list[str]:
        """Ends the engine with `cortend --destroy`, then removes by force what that left, and returns its names.

        An empty list is what a test wants to see.
        """
        if self._daemon is not None:
            self._daemon.stop()
        ids = process.engines_below(self.folder, self.data_root)
        done = subprocess.run(
            [*self.netns.enter, *self.argv, "--destroy"],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            env=self.environment,
        )
        left = [] if done.returncode == 0 else [f"cortend --destroy: {done.returncode}: {done.stderr.strip()}"]
        return left + self._force(ids)

    def _force(self, ids: Sequence[str]) -> list[str]:
        """Removes processes, cgroups, mounts and folders of this engine by name."""
        left = process.kill_all(self.folder.name)
        for mark in ids:
            left += [f"cgroup {path}" for path in process.remove_cgroups(mark)]
        left += [f"mount {point}" for point in process.unmount_below(self.folder)]
        self.netns.close()
        shutil.rmtree(self.folder)
        return left

    def __enter__(self) -> CortenEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                print(f"---- {self.log}\n{self.log_tail()}")
            elif CortenEngine.last_check is not None:
                CortenEngine.last_check(self)
        finally:
            left = self.destroy()
        assert error is not None or not left, f"cortend --destroy left: {left}"
