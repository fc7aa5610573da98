"""The sockets that clients connect to."""

from __future__ import annotations

import contextlib
import grp
import logging
import os
import socket
from typing import Final

from corten.errors import Conflict, InvalidArgument
from corten.spec.endpoint import address_port, tcp_endpoint
from corten.sys import unixlistener

log = logging.getLogger("corten.daemon")

UNIX: Final = "unix://"
TCP: Final = "tcp://"
FD: Final = "fd://"
_MODE: Final = 0o660
_GROUP: Final = "docker"


def listen(host: str, *, is_verified: bool = False, group: str = "") -> socket.socket:
    """A listening socket for `unix:///path` or `tcp://[address][:port]`.  Raises InvalidArgument, Conflict, OSError.

    `group`: of a unix socket; docker when nothing is given and there is one.
    `is_verified`: clients will need a certificate; without one, whoever reaches the port is warned of.
    """
    if host.startswith(UNIX):
        return _unix(host.removeprefix(UNIX), group)
    if host.startswith(TCP):
        return _tcp(host.removeprefix(TCP), is_verified=is_verified)
    raise InvalidArgument(f"invalid host {host!r}: only unix:// and tcp:// are supported")


def _unix(path: str, group: str) -> socket.socket:
    """Mode 0660.  A path over 107 bytes is bound through its directory (unix(7))."""
    directory, name = os.path.split(os.path.abspath(path))
    os.makedirs(directory, 0o711, exist_ok=True)
    group_number = group_id(group)
    directory_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _refuse_live(f"/proc/self/fd/{directory_fd}/{name}", path)
        unixlistener.appear(listener, directory_fd, name, backlog=1024, mode=_MODE, group=group_number)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(directory_fd)
    listener.setblocking(False)
    return listener


def group_id(name: str) -> int:
    """Of a name or number; without one docker's, or root's where there is none.  Raises InvalidArgument."""
    if name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name or _GROUP).gr_gid
    except KeyError:
        if name:
            raise InvalidArgument(f"group {name} not found") from None
        return 0


def _refuse_live(short: str, path: str) -> None:
    """A socket that somebody serves is left alone; one whose server is dead is replaced."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(short)
    except (FileNotFoundError, ConnectionRefusedError):
        return
    else:
        raise Conflict(f"{path} is served by another process")
    finally:
        probe.close()


def tcp_address(text: str) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Family and address of `[ADDRESS][:PORT]`, which was checked with the settings."""
    host, port = tcp_endpoint(text)
    return socket.AF_INET6 if ":" in host else socket.AF_INET, (host, port)


def _tcp(text: str, *, is_verified: bool) -> socket.socket:
    family, address = tcp_address(text)
    if not is_verified:
        log.warning("tcp://%s: anyone who can reach %s, port %d, is root on this machine", text, *address)
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(1024)
    listener.setblocking(False)
    return listener


def metrics(text: str) -> socket.socket:
    """A listening socket for `[ADDRESS]:PORT`; without an address, on every interface.  Raises OSError."""
    host, port = address_port(text)
    is_dual = not host and socket.has_dualstack_ipv6()
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family = socket.AF_INET6 if is_dual else found[0][0]
    address = ("", port) if not host else found[0][4][:2]
    listener = socket.create_server(address, family=family, backlog=64, dualstack_ipv6=is_dual)
    listener.setblocking(False)
    return listener


def unlink(host: str) -> None:
    """Remove a unix socket's file."""
    if host.startswith(UNIX):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(host.removeprefix(UNIX))
