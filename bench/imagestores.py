"""Who takes part in the rows about images: dockerd and Corten by the docker CLI, podman by its own; and their registry.

All of them live in one network namespace, with Debian's docker-registry on its loopback address.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import words

from support import paths, peers, process
from support.dockerd import DockerClient, Dockerd, client_environment
from support.engine import CortenEngine
from support.loopdisk import LoopDisk
from support.netns import NetNs
from support.podman import Podman

TICKS = os.sysconf("SC_CLK_TCK")
PULL_PORT, PUSH_PORT = 5000, 5001
COMMAND_TIMEOUT_S = 300
DISK_MIB = 8 << 10  # written as far as it is used
_CONFIGURATION = """\
version: 0.1
log: {{level: error}}
storage:
  filesystem: {{rootdirectory: {folder}}}
  delete: {{enabled: true}}
http: {{addr: "{address}"}}
"""


@dataclass(frozen=True, slots=True)
class Store:
    """One contender: the start of its argv, its environment, and the mark in the command lines of its processes."""

    name: str
    argv: tuple[str, ...]
    environment: dict[str, str]
    mark: str
    insecure: tuple[str, ...] = ()
    """Options of pull and push for a registry without TLS."""

    def pull(self, reference: str) -> tuple[str, ...]:
        """The command that pulls."""
        return (*self.argv, "pull", "-q", *self.insecure, reference)

    def push(self, reference: str) -> tuple[str, ...]:
        """The command that pushes."""
        return (*self.argv, "push", "-q", *self.insecure, reference)

    def load(self, archive: Path) -> tuple[str, ...]:
        """The command that loads."""
        return (*self.argv, "load", "-q", "-i", str(archive))

    def save(self, reference: str, archive: Path) -> tuple[str, ...]:
        """The command that saves."""
        return (*self.argv, "save", *(("-q",) if self.insecure else ()), "-o", str(archive), reference)

    def tag(self, reference: str, name: str) -> tuple[str, ...]:
        """The command that tags."""
        return (*self.argv, "tag", reference, name)

    def remove(self, *references: str) -> tuple[str, ...]:
        """The command that removes images."""
        return (*self.argv, "rmi", *references)

    def images(self) -> tuple[str, ...]:
        """The command that lists the ids of all images."""
        return (*self.argv, "images", "-a", "-q", "--no-trunc")

    def run(self, argv: tuple[str, ...]) -> str:
        """Runs one of them, and returns its stdout; raises RuntimeError when it fails."""
        done = subprocess.run(
            argv,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            env=self.environment,
        )
        if done.returncode:
            raise RuntimeError(f"{words(argv)}: {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def cpu_s(self) -> float:
        """Seconds of CPU that its daemons used so far, with the children that they waited for, and that of all CLIs."""
        ticks = 0
        for pid in process.processes(self.mark):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            ticks += sum(map(int, fields[11:15]))
        times = os.times()
        return ticks / TICKS + times.children_user + times.children_system


class Registry:
    """docker-registry on loopback of a network namespace, answering; a context manager that removes its folder."""

    def __init__(self, netns: NetNs, port: int) -> None:
        self.folder = paths.scratch("bench-registry")
        self.address = f"127.0.0.1:{port}"
        self._port = port
        self._netns = netns
        configuration = self.folder / "config.yml"
        configuration.write_text(_CONFIGURATION.format(folder=self.folder / "data", address=self.address))
        argv = [*netns.enter, str(peers.binary("docker-registry")), "serve", str(configuration)]
        self._daemon = process.Daemon(argv, self.folder / "log", {"PATH": "/usr/bin:/bin"})
        self._daemon.wait_until(self._listens, "answer of docker-registry")

    def fill(self, layout: Path, tags: dict[str, str]) -> None:
        """Copies images of an OCI layout: tag there to name here, as they are."""
        for tag, name in tags.items():
            argv = [*self._netns.enter, str(peers.binary("skopeo")), "copy", "--insecure-policy", "-q"]
            argv += ["--dest-tls-verify=false", f"oci:{layout}:{tag}", f"docker://{self.address}/{name}"]
            subprocess.run(argv, check=True, env=os.environ | {"LD_LIBRARY_PATH": peers.tree("bookworm").libraries})

    def _listens(self) -> bool:
        argv = [*self._netns.enter, "ss", "-Hltn", f"sport = :{self._port}"]
        return bool(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout)

    def empty(self) -> None:
        """Takes away everything that was pushed: it keeps nothing of it in memory."""
        shutil.rmtree(self.folder / "data/docker", ignore_errors=True)

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self._daemon.stop()
        shutil.rmtree(self.folder)


@dataclass(frozen=True, slots=True)
class Lab:
    """The registry to pull from, the one to push to, and the contenders."""

    source: Registry
    target: Registry
    stores: tuple[Store, ...]


@contextmanager
def lab() -> Iterator[Lab]:
    """Empty registries; dockerd 20.10, podman, Corten.

    Two of them, since who has pulled from a registry lets it mount what he then pushes there, and uploads nothing.
    """
    with ExitStack() as stack:
        disk = stack.enter_context(LoopDisk(DISK_MIB))
        podman = stack.enter_context(Podman(disk.path / "podman"))
        stack.enter_context(_scratch_on(disk.path))
        netns = stack.enter_context(NetNs())
        source, target = (stack.enter_context(Registry(netns, port)) for port in (PULL_PORT, PUSH_PORT))
        quiet = ("--bridge", "none", "--iptables=false", "--ip-forward=false")
        contenders = (
            _by_docker("dockerd", stack.enter_context(Dockerd("20.10", netns=netns, args=quiet))),
            _podman(podman, netns),
            _by_docker("corten", stack.enter_context(CortenEngine(netns=netns))),
        )
        yield Lab(source, target, contenders)


@contextmanager
def _scratch_on(folder: Path) -> Iterator[None]:
    """What keeps its data in a scratch folder has it there."""
    before = os.environ.get(paths.SCRATCH)
    os.environ[paths.SCRATCH] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(paths.SCRATCH)
        if before is not None:
            os.environ[paths.SCRATCH] = before


def _by_docker(name: str, engine: DockerClient) -> Store:
    argv = (str(peers.docker_cli()), "-H", engine.host)
    return Store(name, argv, client_environment(), Path(engine.socket).parent.name)


def _podman(podman: Podman, netns: NetNs) -> Store:
    argv = (*netns.enter, *podman.argv("runc"))
    return Store("podman", argv, podman.environment, podman.folder.name, ("--tls-verify=false",))
