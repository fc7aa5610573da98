"""The contenders of the rows about networks: two dockerds, podman and Corten, each a host with a client beside it.

Every engine has the same network `bench`, in it the containers `server` (iperf3 and netload, published) and `peer`.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import words

from support import images, peers, process
from support.dockerd import DockerClient, Dockerd, client_environment
from support.engine import CortenEngine
from support.neighbour import neighbour
from support.netns import NetNs
from support.podman import Podman

IMAGE = "corten-bench/net:1"
NETWORK, SERVER, PEER = "bench", "server", "peer"
STREAM_PORT, CONNECT_PORT = 5201, 5202
STREAM_PUBLISHED, CONNECT_PUBLISHED = 15201, 15202
DOCKERDS = ("dockerd 20.10", "dockerd 26.1")
NO_PROXY = "dockerd 26.1, no proxy"
COMMAND_TIMEOUT_S = 120
_LIBRARIES = "/lib/bench"
_SERVE = f"iperf3 -s -p {STREAM_PORT} >/dev/null & exec netload serve {CONNECT_PORT}"


@dataclass(frozen=True, slots=True)
class Contender:
    """One engine: the start of its command lines, their environment, its host and the client beside it."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    host: NetNs
    client: NetNs

    def run(self, *args: str) -> str:
        """A command of its CLI; what it prints.  Raises RuntimeError."""
        return _output([*self.argv, *args], self.environment)

    def text(self, *args: str) -> str:
        """The same as a shell reads it."""
        return words([*self.argv, *args])


@dataclass(frozen=True, slots=True)
class Tools:
    """Programs on this side: netload, and iperf3 with the libraries that it needs."""

    netload: Path
    iperf3: Path
    environment: Mapping[str, str]

    def run(self, netns: NetNs, *argv: str) -> str:
        """One of them in a namespace."""
        return _output([*netns.enter, *argv], self.environment)


def _output(argv: Sequence[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        argv,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        env=environment,
    )
    if done.returncode:
        raise RuntimeError(f"{words(argv)}: {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def tools(folder: Path) -> Tools:
    """Compiles netload into `folder`."""
    netload = folder / "netload"
    subprocess.run(["cc", "-static", "-O2", "-o", netload, Path(__file__).with_name("netload.c")], check=True)
    libraries = peers.tree("bookworm").libraries
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LD_LIBRARY_PATH": libraries}
    return Tools(netload, peers.binary("iperf3"), environment)


def archive(folder: Path, found: Tools) -> Path:
    """IMAGE: busybox with netload and iperf3."""
    listed = _output(["ldd", str(found.iperf3)], found.environment)
    loader = re.findall(r"^\s*(/\S*ld-linux\S*)", listed, re.M)
    entries = [
        images.Entry("bin/netload", found.netload.read_bytes(), mode=0o755),
        images.Entry("bin/iperf3", found.iperf3.read_bytes(), mode=0o755),
        *(images.Entry(path.lstrip("/"), Path(path).read_bytes(), mode=0o755) for path in loader),
    ]
    for path in map(Path, re.findall(r"=> (/\S+)", listed)):
        entries.append(images.Entry(f"{_LIBRARIES}/{path.name}".lstrip("/"), path.read_bytes(), mode=0o755))
    config = {"Cmd": ["sh"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", f"LD_LIBRARY_PATH={_LIBRARIES}"]}
    made = folder / "net.tar"
    made.write_bytes(images.docker_archive([IMAGE], [*images.busybox_layers(), images.layer(entries)], config))
    return made


@contextmanager
def lab(image: Path) -> Iterator[tuple[Contender, ...]]:
    """The contenders, with IMAGE, NETWORK, SERVER and PEER in each; the last is a dockerd without a proxy."""
    with ExitStack() as stack:
        found = [
            _docker(stack, DOCKERDS[0], stack.enter_context(Dockerd("20.10"))),
            _docker(stack, DOCKERDS[1], stack.enter_context(Dockerd("26.1"))),
            _podman(stack),
            _docker(stack, "corten", stack.enter_context(CortenEngine())),
            _docker(stack, NO_PROXY, stack.enter_context(Dockerd("26.1", args=("--userland-proxy=false",)))),
        ]
        for one in found:
            _furnish(one, image)
        yield tuple(found)


def _docker(stack: ExitStack, name: str, engine: Dockerd | CortenEngine) -> Contender:
    assert isinstance(engine, DockerClient)
    argv = (str(peers.docker_cli()), "-H", engine.host)
    return Contender(name, argv, client_environment(), engine.netns, stack.enter_context(neighbour(engine.netns)))


def _podman(stack: ExitStack) -> Contender:
    podman, netns = stack.enter_context(Podman()), stack.enter_context(NetNs())
    configuration = Path(podman.environment["CONTAINERS_CONF"])
    helpers = f'[engine]\nhelper_binaries_dir = ["{peers.tree("bookworm").root}/usr/lib/podman"]\n'
    network = f'[network]\nnetwork_backend = "netavark"\nnetwork_config_dir = "{podman.folder}/networks"\n'
    configuration.write_text(configuration.read_text().replace("[engine]\n", helpers, 1) + network)
    argv = (*netns.enter, *podman.argv("runc"))
    made = Contender("podman", argv, podman.environment, netns, stack.enter_context(neighbour(netns)))
    stack.callback(made.run, "rm", "--force", "--all", "--time", "0")  # in its namespace: its firewall is there
    return made


def _furnish(one: Contender, image: Path) -> None:
    one.run("load", "-q", "-i", str(image))
    one.run("network", "create", NETWORK)
    ports = (f"{STREAM_PUBLISHED}:{STREAM_PORT}", f"{CONNECT_PUBLISHED}:{CONNECT_PORT}")
    published = [word for port in ports for word in ("-p", port)]
    one.run("run", "-d", "--name", SERVER, "--network", NETWORK, *published, IMAGE, "sh", "-c", _SERVE)
    one.run("run", "-d", "--name", PEER, "--network", NETWORK, IMAGE, "sleep", "100000")
    for port in (STREAM_PORT, CONNECT_PORT):
        process.wait_for(lambda p=port: _listens(one, p), f"{one.name}: a server at port {port}")  # type: ignore[misc]


def _listens(one: Contender, port: int) -> bool:
    listed = one.run("exec", SERVER, "netstat", "-ltn")
    return re.search(rf":{port}\s", listed) is not None
