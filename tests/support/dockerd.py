"""Private dockerd daemons to compare with: own network and mount namespace, own roots, own cgroup parent."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from support import paths, peers, process
from support.netns import NetNs

if TYPE_CHECKING:
    from docker import DockerClient as DockerPy

STARTS = 4
SUITES = {"20.10": "bookworm", "26.1": "trixie"}

# dockerd makes /run/docker, looks in /run for systemd, and 20.10 writes /etc/docker/key.json: both are its own here.
# A copy of /etc, for nothing may be made in the machine's, nor removed beside another dockerd.
PRIVATE = ("unshare", "--mount", "--propagation", "slave", "sh", "-c")
PRIVATE_SCRIPT = (
    "mount -t tmpfs tmpfs /run && cp -a /etc /run/etc && rm -rf /run/etc/docker && mkdir /run/etc/docker"
    " && mount --bind /run/etc /etc"
)


class DockerClient:
    """The ways in which tests talk to an engine that listens on a unix socket."""

    socket: Path

    @property
    def host(self) -> str:
        """What -H and DOCKER_HOST take."""
        return f"unix://{self.socket}"

    def docker(
        self, *args: str, stdin: str | bytes | None = None, timeout: float = 60, check: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Runs the docker CLI; stdin, stdout and stderr are text (bytes of stdin are passed on as they are)."""
        done = subprocess.run(
            [str(peers.docker_cli()), "-H", self.host, *args],
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            check=False,
            timeout=timeout,
            env=client_environment(),
        )
        text = subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )
        assert not check or text.returncode == 0, f"docker {' '.join(args)}: {text.returncode}: {text.stderr}"
        return text

    def client(self, timeout: int = 60) -> DockerPy:
        """A docker-py client at the version that the engine answers; the caller closes it."""
        from docker import DockerClient as DockerPy

        return DockerPy(base_url=self.host, version="auto", timeout=timeout)

    def answers(self) -> bool:
        """Whether GET /_ping answers 200."""
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.settimeout(5)
                connection.connect(str(self.socket))
                connection.sendall(b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
                return b" 200 " in connection.recv(100)
            except OSError:
                return False


def client_environment() -> dict[str, str]:
    """The environment of clients: no setting of the machine's user, no proxy, no colours."""
    kept = {key: value for key, value in os.environ.items() if key in {"PATH", "LANG", "TERM"}}
    return kept | {"HOME": str(paths.cache("home")), "DOCKER_CONFIG": str(paths.cache("home", "docker"))}


def started(start: Callable[[], process.Daemon], answers: Callable[[], bool], timeout: float) -> process.Daemon:
    """A dockerd that answers; tried again where its containerd took longer than the 15 s that dockerd gives it."""
    for number in range(1, STARTS + 1):
        daemon = start()
        try:
            daemon.wait_until(answers, "answer of dockerd", timeout=timeout)
            break
        except process.NotReady as error:
            if number == STARTS or "timeout waiting for containerd to start" not in str(error):
                raise
    return daemon


class Dockerd(DockerClient):
    """dockerd `version` ("20.10" or "26.1") with runc of Debian 12; a context manager.

    It runs in a mount namespace of its own: what it mounts is gone with it.  Its containers are in cgroups below
    `/corten-test-…`.  `runtimes` are further ones: name to path.  `prepare` is a shell command that runs in the mount
    namespace first, `inside` one that runs when it has a /run and /etc of its own.
    """

    def __init__(
        self,
        version: str = "26.1",
        *,
        runtimes: dict[str, Path] | None = None,
        args: Sequence[str] = (),
        prepare: str = "true",
        inside: str = "true",
        netns: NetNs | None = None,
    ) -> None:
        self.version = version
        self._prepare, self._inside = prepare, inside
        self.folder = paths.scratch("dockerd")
        self.socket = self.folder / "s"
        self.netns = NetNs() if netns is None else netns

        def start() -> process.Daemon:
            self._daemon = process.Daemon(self._argv(runtimes or {}, args), self.folder / "log", self._environment())
            return self._daemon

        try:
            started(start, self.answers, 60)
        except process.NotReady:
            self.close()
            raise

    def _argv(self, runtimes: dict[str, Path], args: Sequence[str]) -> list[str]:
        folder = self.folder
        return [
            *self.netns.enter,
            *(*PRIVATE, f'{self._prepare}; {PRIVATE_SCRIPT} && {self._inside} && exec "$0" "$@"'),
            str(peers.binary(f"dockerd-{self.version}")),
            *("--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid"),
            *("--host", f"unix://{self.socket}", "--group", "root"),
            *("--cgroup-parent", f"/{folder.name}", "--init-path", str(peers.binary("tini"))),
            *(word for name, path in runtimes.items() for word in ("--add-runtime", f"{name}={path}")),
            *args,
        ]

    def _environment(self) -> dict[str, str]:
        """Its own suite's containerd and proxy, runc of Debian 12, the machine's iptables."""
        own, other = peers.tree(SUITES[self.version]), peers.tree("bookworm")
        return {
            "PATH": f"{own.search_path}:{other.search_path}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.folder),
            "TMPDIR": "/tmp",
        }

    @property
    def pid(self) -> int:
        """The daemon's pid."""
        return self._daemon.pid

    def log_tail(self, lines: int = 40) -> str:
        """The end of its log."""
        return self._daemon.log_tail(lines)

    def close(self) -> None:
        """Ends the daemon and its containers; removes folders, cgroups and namespace."""
        if self._daemon.is_running() and self.answers():
            running = self.docker("ps", "-aq").stdout.split()
            if running:
                self.docker("rm", "-f", *running)
        self._daemon.stop()
        process.kill_all(str(self.folder))
        process.remove_cgroups(self.folder.name)
        process.unmount_below(self.folder)
        self.netns.close()
        shutil.rmtree(self.folder)

    def __enter__(self) -> Dockerd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
