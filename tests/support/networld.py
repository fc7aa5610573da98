"""The world around an engine: a host with cortend or dockerd in it, a client on its segment, a name server.

     client ── 192.0.2.0/24, 2001:db8:1::/64 ── host ── 198.51.100.0/24, 2001:db8:2::/64 ── resolver
       .9, ::9                          .1, ::1      .1, ::1                            .53, ::53

The host's resolv.conf, in the engine's mount namespace alone, names the resolver.  The host is no router before the
engine makes it one.  Test programs run in the test's own process, on sockets made in the namespaces: also in those of
containers (`World.container`), whose image needs no server for that.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from support import images, paths
from support.dockerd import Dockerd
from support.engine import CortenEngine
from support.nameserver import NameServer
from support.netlab import Node, join
from support.netns import NetNs

HOST, CLIENT = "192.0.2.1", "192.0.2.9"
HOST6, CLIENT6 = "2001:db8:1::1", "2001:db8:1::9"
RESOLVER, RESOLVER6 = "198.51.100.53", "2001:db8:2::53"
HOST_AT_RESOLVER, HOST6_AT_RESOLVER = "198.51.100.1", "2001:db8:2::1"

WITH_RESOLV_CONF = ("unshare", "--mount", "--propagation", "slave", "sh", "-c")
RESOLV_CONF_SCRIPT = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
FOREVER = ("sleep", "1000000")


class _Shared(NetNs):
    """Engines close the namespace that they are given; this one is the world's, and stays for the next engine."""

    def close(self) -> None:
        """Nothing: see `end`."""

    def end(self) -> None:
        """Deletes the name."""
        super().close()


class World:
    """The namespaces with their cables; `engine` is there while `corten` or `dockerd` holds."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.netns = _Shared()
        self._stack.callback(self.netns.end)
        self.host = self._stack.enter_context(Node("host", self.netns.path))
        self.client = self._stack.enter_context(Node("client"))
        self.resolver = self._stack.enter_context(Node("resolver"))
        for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            self.host.sysctl(switch, "0")  # a new namespace has what the machine has
        self._join(self.client, "world", (HOST, HOST6), (CLIENT, CLIENT6))
        self._join(self.resolver, "names", (HOST_AT_RESOLVER, HOST6_AT_RESOLVER), (RESOLVER, RESOLVER6))
        self.names = self._stack.enter_context(NameServer(self.resolver))
        self.folder = paths.scratch("world")
        self.resolv_conf = self.folder / "resolv.conf"
        self.resolv_conf.write_text(f"nameserver {RESOLVER}\n")
        self._stack.callback(self.folder.rmdir)
        self._stack.callback(self.resolv_conf.unlink)
        self._containers: dict[str, Node] = {}
        self._engines: dict[str, CortenEngine | Dockerd] = {}
        self.engine: CortenEngine | Dockerd

    def _join(self, node: Node, interface: str, host: tuple[str, str], other: tuple[str, str]) -> None:
        join(self.host, interface, f"{host[0]}/24", node, "eth0", f"{other[0]}/24")
        self.host.address(interface, f"{host[1]}/64")
        node.address("eth0", f"{other[1]}/64")

    # --- engines

    @contextmanager
    def corten(self, config: Mapping[str, Any] | None = None, args: Sequence[str] = ()) -> Iterator[CortenEngine]:
        """cortend in the host, with busybox; ends with `--destroy`, which must leave nothing."""
        prefix = (*WITH_RESOLV_CONF, RESOLV_CONF_SCRIPT, str(self.resolv_conf))
        with CortenEngine(config=config, args=args, netns=self.netns, prefix=prefix) as engine:
            yield self._ready(engine)
            self._end_containers(engine)

    @contextmanager
    def dockerd(self, version: str = "26.1", args: Sequence[str] = ()) -> Iterator[Dockerd]:
        """dockerd in the host, with busybox."""
        prepare = f"mount --bind {self.resolv_conf} /etc/resolv.conf"
        with Dockerd(version, args=args, netns=self.netns, prepare=prepare) as engine:
            yield self._ready(engine)
            self._end_containers(engine)

    def _ready(self, engine: Any) -> Any:
        self.engine = engine
        engine.docker("load", "-i", str(images.busybox()), check=True)
        return engine

    # --- containers

    def container(self, *args: str, name: str = "", command: Sequence[str] = FOREVER) -> Node:
        """`docker run -d` of busybox; its network namespace.  `args` are flags."""
        name = name or f"c{secrets.token_hex(3)}"
        self.engine.docker("run", "-d", "--name", name, *args, images.BUSYBOX_REF, *command, check=True)
        return self.node(name)

    def node(self, name: str) -> Node:
        """The network namespace of a running container, as it is now; `names` of nodes are those of containers."""
        pid = int(self.inspect(name)["State"]["Pid"])
        if name in self._containers:
            self._containers.pop(name).close()
        node = self._containers[name] = Node(name, Path(f"/proc/{pid}/ns/net"))
        self._engines[name] = self.engine
        return node

    def remove(self, name: str) -> None:
        """`docker rm -f`, and lets go of its namespace."""
        if name in self._containers:
            self._containers.pop(name).close()
        self._engines.pop(name, self.engine).docker("rm", "-f", name, check=True)

    def inspect(self, name: str) -> Any:
        """Of a container or a network."""
        return json.loads(self.engine.docker("inspect", name, check=True).stdout)[0]

    def address(self, name: str, network: str = "bridge", *, version: int = 4) -> str:
        """A container's address on a network."""
        key = "IPAddress" if version == 4 else "GlobalIPv6Address"
        return str(self.inspect(name)["NetworkSettings"]["Networks"][network][key])

    def _end_containers(self, engine: CortenEngine | Dockerd | None = None) -> None:
        engine = engine or self.engine
        for name in [name for name in self._containers if self._engines.get(name) is engine]:
            self.remove(name)

    # --- the end

    def close(self) -> None:
        """Lets everything go; engines first, by their own blocks."""
        for node in self._containers.values():
            node.close()
        self._containers.clear()
        self._stack.close()

    def __enter__(self) -> World:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
