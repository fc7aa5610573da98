"""Whom a container's resolver asks: servers of the user's own, or the host's as its resolv.conf(5) has them now.

The host's loopback servers are asked from the host's network, as are its IPv6 ones for a container without IPv6; all
others from the container's: what the firewall says of the container holds for its questions too.  Servers of the user's
own are always asked from the container's network, so that `--dns 127.0.0.1` is a server in it.

Source: libnetwork, resolver.go and internal/resolvconf as dockerd 26.1 has them.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from ipaddress import ip_address

from corten.shim.complain import complain
from corten.sys.libc import fail, function

RESOLV_CONF = "/etc/resolv.conf"
SYSTEMD_RESOLV_CONF, SYSTEMD_STUB = "/run/systemd/resolve/resolv.conf", "127.0.0.53"  # the stub's own servers
FALLBACK = ("8.8.8.8", "8.8.4.4", "2001:4860:4860::8888")  # of a host that names none, as dockerd's
OWN = "127.0.0.11"  # would be asked for ever
_LOOK_S = 1.0
_SIZE = 65536  # of a file that is read
_SIOCGSKNS = 0x894C  # a descriptor of a socket's network namespace (linux/sockios.h)
_CLONE_NEWNET = 0x40000000

_setns = function("setns")


class HostServers:
    """Those of the host; its file is looked at once a second at most, while somebody asks."""

    __slots__ = ("_found", "_looked", "_path", "_seen")

    def __init__(self, path: str = RESOLV_CONF) -> None:
        self._path = path
        self._looked = -_LOOK_S
        self._seen: object = None
        self._found: tuple[str, ...] = ()

    def now(self) -> tuple[str, ...]:
        """Their addresses."""
        moment = time.monotonic()
        if moment >= self._looked + _LOOK_S:
            self._looked = moment
            seen = _identity(self._path), _identity(SYSTEMD_RESOLV_CONF)
            if seen != self._seen:
                self._seen, self._found = seen, read(self._path)
        return self._found


def _identity(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def read(path: str = RESOLV_CONF) -> tuple[str, ...]:
    """The servers in a resolv.conf(5) file; systemd-resolved's own where it names nothing but its stub."""
    found = _nameservers(path)
    if found == (SYSTEMD_STUB,):
        found = _nameservers(SYSTEMD_RESOLV_CONF) or found
    return found or FALLBACK


def _nameservers(path: str) -> tuple[str, ...]:
    try:
        with open(path, "rb") as file:
            lines = file.read(_SIZE).decode(errors="replace").splitlines()
    except OSError:
        return ()
    words = (line.split() for line in lines)
    return tuple(row[1] for row in words if len(row) > 1 and row[0] == "nameserver" and _is_address(row[1]))


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


class Place:
    """The network that a container's questions go out from: its own, told by a socket in it."""

    __slots__ = ("_netns_fd",)

    def __init__(self, inside: socket.socket) -> None:
        """Raises OSError."""
        import fcntl

        self._netns_fd = int(fcntl.ioctl(inside.fileno(), _SIOCGSKNS))

    def close(self) -> None:
        """Lets the namespace go; may be called twice."""
        if self._netns_fd >= 0:
            os.close(self._netns_fd)
            self._netns_fd = -1

    def socket(self, family: int, kind: int) -> socket.socket:
        """A socket in the container's network.  Raises OSError."""
        host_fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(self._netns_fd)
            try:
                return socket.socket(family, kind)
            finally:
                _return(host_fd)
        finally:
            os.close(host_fd)


def _enter(netns_fd: int) -> None:
    if _setns(netns_fd, _CLONE_NEWNET) != 0:
        fail()


def _return(host_fd: int) -> None:
    """Nobody may be answered from the wrong network: another resolver takes over."""
    try:
        _enter(host_fd)
    except OSError as error:
        complain(error)
        os._exit(1)


class Server:
    """One to ask, and from where.  `place`: None for the host's network."""

    __slots__ = ("address", "family", "place")

    def __init__(self, address: str, place: Place | None) -> None:
        self.address = address
        self.family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.place = place

    def connected(self, kind: int, port: int) -> socket.socket:
        """A socket on its way there, which does not block.  Raises OSError."""
        kind |= socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        made = self.place.socket(self.family, kind) if self.place is not None else socket.socket(self.family, kind)
        try:
            made.connect((self.address, port))
        except BlockingIOError:
            return made
        except OSError:
            made.close()
            raise
        return made


def of_user(addresses: Sequence[str], place: Place) -> list[Server]:
    """Servers that somebody named for the container."""
    return [Server(one, place) for one in addresses if one != OWN]


def of_host(addresses: Sequence[str], place: Place, *, has_ipv6: bool) -> list[Server]:
    """The host's: those that only the host reaches are asked from there."""
    return [Server(one, None if _is_hosts_alone(one, has_ipv6=has_ipv6) else place) for one in addresses]


def _is_hosts_alone(address: str, *, has_ipv6: bool) -> bool:
    return "%" in address or ip_address(address).is_loopback or (":" in address and not has_ipv6)
