"""Network namespaces without names, each with a thread that lives in it: sockets made there stay there.

Nothing here touches the namespace of the test run, and nothing is left when the run is killed: a namespace ends with
its threads, sockets and descriptors.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import TypeVar

from corten.core.journal import JournalEntry
from corten.network.values import Endpoint, Network
from corten.sys import netns, rtnetlink
from corten.sys.namespace import CLONE_NEWNET

T = TypeVar("T")


def _unshare() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def _enter(place: Path) -> None:
    with place.open("rb") as file:
        netns.setns(file.fileno(), CLONE_NEWNET)


class Node:
    """A network namespace with lo up: a new one, or that of `place`.  `call` runs code in it."""

    def __init__(self, name: str, place: Path | None = None) -> None:
        self.name = name
        begin = _unshare if place is None else lambda: _enter(place)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name, initializer=begin)
        self.netns_fd = self.call(lambda: os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        self.links = self.call(rtnetlink.Socket)
        self.links.send(rtnetlink.set_up("lo"))

    def call(self, work: Callable[[], T]) -> T:
        """Runs `work` in the namespace."""
        return self._pool.submit(work).result()

    def call_later(self, work: Callable[[], T]) -> Future[T]:
        """As `call`, without waiting."""
        return self._pool.submit(work)

    def spawn(self, argv: Sequence[str], **options: object) -> subprocess.Popen[bytes]:
        """Starts a program in the namespace, which needs no name for that."""
        enter = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self.netns_fd}", "--"]
        return subprocess.Popen([*enter, *argv], **options)  # type: ignore[call-overload,no-any-return]

    def run(self, argv: Sequence[str]) -> str:
        """Runs a program in the namespace; its output."""
        process = self.spawn(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        return output.decode()

    def address(self, interface: str, address: str) -> None:
        """Brings an interface up with an address."""
        link = self.links.link(interface)
        assert link is not None
        self.links.send(rtnetlink.set_up(interface), rtnetlink.new_address(link.index, ip_interface(address)))

    def route(self, interface: str, gateway: str) -> None:
        """Sets the default route of the gateway's family."""
        link = self.links.link(interface)
        assert link is not None
        self.links.send(rtnetlink.new_default_route(ip_address(gateway), link.index))

    def sysctl(self, name: str, value: str) -> None:
        """Writes a sysctl of the namespace."""

        def write() -> None:
            with open(f"/proc/sys/net/{name}", "w") as file:
                file.write(value)

        self.call(write)

    def close(self) -> None:
        """Lets the namespace go."""
        self.links.close()
        os.close(self.netns_fd)
        self._pool.shutdown()

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def join(one: Node, one_interface: str, one_address: str, other: Node, interface: str, address: str) -> None:
    """A cable between two namespaces."""
    one.links.send(rtnetlink.new_veth(one_interface, interface, "02:00:00:00:00:09", other.netns_fd))
    one.address(one_interface, one_address)
    other.address(interface, address)


# --- talking

SCTP = 132


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _peer(address: str) -> str:
    """Of a client; one of IPv4 reaches a server at `::` as a mapped address."""
    return address.removeprefix("::ffff:")


class TcpServer:
    """Accepts in a namespace and answers with the address of who asked; at `::` it has both families."""

    def __init__(self, node: Node, port: int, address: str = "", protocol: int = 0) -> None:
        self._socket = node.call(lambda: socket.socket(_family(address), socket.SOCK_STREAM, protocol))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((address, port))
        self._socket.listen(128)
        self._begin()

    def _begin(self) -> None:
        self._socket.settimeout(0.2)
        self._pool = ThreadPoolExecutor(1)
        self._closed = False
        self._task = self._pool.submit(self._serve)

    def _serve(self) -> None:
        while not self._closed:
            try:
                connection, peer = self._socket.accept()
            except OSError:
                continue
            with connection:
                connection.sendall(_peer(peer[0]).encode())

    def close(self) -> None:
        """Stops."""
        self._closed = True
        with suppress(OSError):  # of UDP: it is not connected, and who waits for it wakes up all the same
            self._socket.shutdown(socket.SHUT_RDWR)
        self._task.result()
        self._pool.shutdown()
        self._socket.close()

    def __enter__(self) -> TcpServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class UdpServer(TcpServer):
    """The same for datagrams; `tag` goes before the address."""

    def __init__(self, node: Node, port: int, tag: str = "", address: str = "") -> None:
        self._tag = tag
        self._socket = node.call(lambda: socket.socket(_family(address), socket.SOCK_DGRAM))
        self._socket.bind((address, port))
        self._begin()

    def _serve(self) -> None:
        while not self._closed:
            try:
                _, peer = self._socket.recvfrom(100)
            except OSError:
                continue
            with suppress(OSError, TypeError):  # an ICMP error of an earlier answer; the end, which has no peer
                self._socket.sendto(f"{self._tag}{_peer(peer[0])}".encode(), peer)


def ask_tcp(node: Node, address: str, port: int, timeout: float = 60.0, *, protocol: int = 0) -> str:
    """Who a server says that we are; 'refused' or 'silence' when it does not."""
    asker = node.call(lambda: socket.socket(_family(address), socket.SOCK_STREAM, protocol))
    with asker:
        asker.settimeout(timeout)
        try:
            asker.connect((address, port))
            return asker.recv(100).decode()
        except TimeoutError:
            return "silence"
        except OSError as error:
            return "refused" if isinstance(error, ConnectionRefusedError) else f"errno {error.errno}"


def ask_udp(node: Node, address: str, port: int, *, source_port: int = 0, timeout: float = 60.0) -> str:
    """As `ask_tcp`, by one datagram."""
    asker = node.call(lambda: socket.socket(_family(address), socket.SOCK_DGRAM))
    with asker:
        asker.bind(("", source_port))
        asker.settimeout(timeout)
        try:
            asker.connect((address, port))
            asker.send(b"?")
            return asker.recv(100).decode()
        except TimeoutError:
            return "silence"
        except OSError as error:
            return "refused" if isinstance(error, ConnectionRefusedError) else f"errno {error.errno}"


# --- records that a test can look into


class MemoryStore:
    """The network's records, in memory."""

    def __init__(self) -> None:
        self.records: dict[str, Endpoint] = {}
        self.known: dict[str, Network] = {}
        self.settings: dict[str, str] = {}

    def transaction(self) -> AbstractContextManager[object]:
        """Nothing to commit."""
        return nullcontext()

    def networks(self) -> list[Network]:
        """Every network."""
        return list(self.known.values())

    def save_network(self, network: Network) -> None:
        """Records."""
        self.known[network.network_id] = network

    def remove_network(self, network_id: str) -> None:
        """Forgets."""
        self.known.pop(network_id, None)

    def endpoints(self) -> list[Endpoint]:
        """Every endpoint."""
        return list(self.records.values())

    def save(self, endpoint: Endpoint) -> None:
        """Records."""
        self.records[endpoint.endpoint_id] = endpoint

    def remove(self, endpoint_id: str) -> None:
        """Forgets."""
        self.records.pop(endpoint_id, None)

    def setting(self, key: str) -> str:
        """A word."""
        return self.settings.get(key, "")

    def set_setting(self, key: str, value: str) -> None:
        """Remembers a word."""
        self.settings[key] = value


class MemoryJournal:
    """Journal entries that are not done."""

    def __init__(self) -> None:
        self.open: dict[int, JournalEntry] = {}

    def begin(self, kind: str, name: str, **data: object) -> int:
        """Announces."""
        number = max(self.open, default=0) + 1
        self.open[number] = JournalEntry(number, kind, name, data, 0)
        return number

    def done(self, *ids: int) -> None:
        """Ends."""
        for number in ids:
            self.open.pop(number, None)

    def entries(self, kind: str = "") -> list[JournalEntry]:
        """Those of a kind."""
        return [one for one in self.open.values() if kind in ("", one.kind)]


@contextmanager
def nodes(*names: str) -> Iterator[list[Node]]:
    """Several namespaces."""
    made: list[Node] = []
    try:
        for name in names:
            made.append(Node(name))
        yield made
    finally:
        for node in made:
            node.close()
