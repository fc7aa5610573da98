"""What systemd hands over: sockets (sd_listen_fds(3)), and where to say that the engine serves (sd_notify(3))."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from corten.errors import InvalidArgument

FIRST_FD: Final = 3
PATIENCE_S: Final = 1.0
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


@dataclass(frozen=True, slots=True)
class Handed:
    """One descriptor of a `.socket` unit; its name is FileDescriptorName=."""

    fd: int
    name: str


def take() -> tuple[Handed, ...]:
    """The descriptors that are ours, closed on exec from now on; the variables go, so that no child takes them."""
    found = {name: os.environ.pop(name, "") for name in _VARIABLES}
    if found["LISTEN_PID"] != str(os.getpid()) or not found["LISTEN_FDS"].isdecimal():
        return ()
    count = int(found["LISTEN_FDS"])
    names = found["LISTEN_FDNAMES"].split(":") if found["LISTEN_FDNAMES"] else []
    names += ["unknown"] * (count - len(names))
    for fd in range(FIRST_FD, FIRST_FD + count):
        os.set_inheritable(fd, False)
    return tuple(Handed(FIRST_FD + at, names[at]) for at in range(count))


def listeners(which: str, handed: Sequence[Handed]) -> list[socket.socket]:
    """The sockets of `fd://WHICH`: all for nothing or `*`, one by its number, or those of a name.

    Raises InvalidArgument when there are none, or when one is no listening stream socket.
    """
    if not handed:
        text = "no sockets found via socket activation: make sure the service was started by systemd"
        raise InvalidArgument(text)
    wanted = [one for one in handed if which in ("", "*", one.name, str(one.fd))]
    if not wanted:
        raise InvalidArgument(f"no such activated file descriptor: {which}")
    return [_socket(one) for one in wanted]


def _socket(one: Handed) -> socket.socket:
    try:
        made = socket.socket(fileno=os.dup(one.fd))
    except OSError as error:
        raise InvalidArgument(f"descriptor {one.fd} ({one.name}) is no socket") from error
    is_stream = made.type == socket.SOCK_STREAM and made.family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
    if not is_stream or not made.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        made.close()
        raise InvalidArgument(f"descriptor {one.fd} ({one.name}) is no listening stream socket")
    made.setblocking(False)
    return made


class Notifier:
    """Tells the service manager of our state; nobody, when none asked."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        microseconds, process = (os.environ.pop(name, "") for name in ("WATCHDOG_USEC", "WATCHDOG_PID"))
        is_ours = process in ("", str(os.getpid())) and microseconds.isdecimal()
        self._watch_s = int(microseconds) / 1e6 / 2 if is_ours else 0.0

    def tell(self, *lines: str) -> None:
        """`READY=1` and the like; a manager that does not listen is no reason to end."""
        if not self._address.startswith(("/", "@")):
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
            sender.settimeout(PATIENCE_S)  # its queue may be full
            sender.sendto("\n".join(lines).encode(), address)

    def ready(self) -> None:
        """It serves, for the first time or again."""
        self.tell("READY=1")

    def reloading(self) -> None:
        """`Type=notify-reload` wants to know since when."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Say that this loop turns, twice in each WatchdogSec= of the unit; never where that is not set."""
        if self._watch_s:
            self.tell("WATCHDOG=1")
            loop.call_later(self._watch_s, self.watch, loop)
