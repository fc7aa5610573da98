"""The courier: reads frames of output (corten.shim.courier), makes lines of them, and sends them by a driver.

A process of its own, one per container with such a driver: it may wait for a server, and load what it likes.  The end
of its input is the end of it; after SIGUSR1, from its shim or at the end of that, it has `END_S` for what it still
holds.
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

from corten.shim.client import STDERR, STDOUT
from corten.shim.complain import remark
from corten.shim.courier import FRAME, KEEPER, READY
from corten.shim.lines import Line, Lines
from corten.shim.packer import be_killable
from corten.shim.protocol import Message

_READ_BYTES = 64 * 1024


class Driver(ABC):
    """Where lines go.  `connect` comes first; `send` may wait; both raise OSError when it cannot be done."""

    @abstractmethod
    def connect(self) -> None:
        """Reach the server.  Raises OSError or ValueError: the container does not start then."""

    @abstractmethod
    def send(self, source: str, line: Line) -> None:
        """One line of "stdout" or "stderr".  Raises OSError: the line is lost."""

    @abstractmethod
    def close(self) -> None:
        """The end of the log."""


def run(order: Message, inlet: int, say: int) -> None:
    """The life of a courier."""
    if order.get("driver") == KEEPER:
        from corten.shim import filekeeper

        filekeeper.run(order, inlet, say, frames)
        return
    be_killable()
    try:
        driver = _driver(order)
        driver.connect()
    except (OSError, ValueError) as error:
        with contextlib.suppress(BrokenPipeError):  # one that follows: nobody waits for it
            os.write(say, reason(error).encode()[:4096])
        driver = _Later(order)
    else:
        with contextlib.suppress(BrokenPipeError):
            os.write(say, READY)
    os.close(say)
    deliver(frames(inlet), driver)


def reason(error: BaseException) -> str:
    """In Go's form, where it is a refused connection."""
    text = getattr(error, "strerror", None) or str(error)
    return text[:1].lower() + text[1:] if isinstance(error, OSError) else text


class _Later(Driver):
    """A driver that was not to be had at the start: of a courier that follows one that died."""

    def __init__(self, order: Message) -> None:
        self._order = order
        self._driver: Driver | None = None

    def connect(self) -> None:
        """With the first line."""

    def send(self, source: str, line: Line) -> None:
        if self._driver is None:
            driver = _driver(self._order)
            driver.connect()
            self._driver = driver
        self._driver.send(source, line)

    def close(self) -> None:
        if self._driver is not None:
            self._driver.close()


def deliver(source: Iterator[tuple[int, int, bytes]], driver: Driver) -> None:
    """Send every line; one failure in a row is told."""
    lines = {STDOUT: Lines(), STDERR: Lines()}
    names = {STDOUT: "stdout", STDERR: "stderr"}
    has_failed = False
    for stream, moment_ns, data in source:
        if stream not in lines:
            continue
        for line in lines[stream].feed(data, moment_ns) if data else lines[stream].finish(moment_ns):
            try:
                driver.send(names[stream], line)
                has_failed = False
            except (OSError, ValueError) as error:
                if not has_failed:
                    remark(f"a line of the log is lost: {error}")
                has_failed = True
    driver.close()


def frames(inlet: int) -> Iterator[tuple[int, int, bytes]]:
    """(stream, Unix ns, data) up to the end; data is empty at the end of a stream."""
    buffer = b""
    while True:
        place = 0
        while len(buffer) - place >= FRAME.size:
            stream, moment_ns, length = FRAME.unpack_from(buffer, place)
            start = place + FRAME.size
            if len(buffer) < start + length:
                break
            place = start + length
            yield stream, moment_ns, buffer[start:place]
        data = os.read(inlet, _READ_BYTES)
        if not data:
            return
        buffer = buffer[place:] + data


def _driver(order: Message) -> Driver:
    found = DRIVERS.get(str(order.get("driver")))
    if found is None:
        raise ValueError(f"unknown log driver {order.get('driver')!r}")
    return found()(order)


def _syslog() -> Callable[[Message], Driver]:
    from corten.shim.sendsyslog import Syslog

    return Syslog


def _gelf() -> Callable[[Message], Driver]:
    from corten.shim.sendgelf import Gelf

    return Gelf


def _fluentd() -> Callable[[Message], Driver]:
    from corten.shim.sendfluentd import Fluentd

    return Fluentd


def _journald() -> Callable[[Message], Driver]:
    from corten.shim.sendjournald import Journald

    return Journald


DRIVERS: dict[str, Callable[[], Callable[[Message], Driver]]] = {
    "syslog": _syslog,
    "gelf": _gelf,
    "fluentd": _fluentd,
    "journald": _journald,
}
