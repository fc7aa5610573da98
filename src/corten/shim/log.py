"""Where a process's output is kept, and where it is sent besides."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from corten.errors import InvalidArgument
from corten.shim.backend import Steps
from corten.shim.client import STDERR, STDOUT
from corten.shim.jsonlog import RecordEncoder, encode_attributes
from corten.shim.logfile import Framing, LogFile
from corten.shim.loop import Loop
from corten.shim.request import Request

if TYPE_CHECKING:
    from corten.shim.courier import Courier
    from corten.shim.locallog import LocalEncoder

    Encoders = dict[int, RecordEncoder] | dict[int, LocalEncoder]

STREAM_NAMES = {STDOUT: "stdout", STDERR: "stderr"}


class Log:
    """A file and one encoder per stream, a courier, or both.

    The process waits while `is_full`; `on_room` is called when it is no more.
    """

    __slots__ = ("courier", "encoders", "file")

    def __init__(
        self,
        file: LogFile | None,
        attributes: bytes = b"",
        *,
        encoders: Encoders | None = None,
        courier: Courier | None = None,
    ) -> None:
        """`attributes` stand beside each line of JSON; `encoders` for another form than that."""
        self.file = file
        self.courier = courier
        self.encoders: Encoders = encoders or {
            stream: RecordEncoder(name, attributes) for stream, name in STREAM_NAMES.items()
        }

    @property
    def is_full(self) -> bool:
        """Whether the process has to wait."""
        return self.courier is not None and self.courier.is_full

    def when_there_is_room(self, call: Callable[[], None]) -> None:
        """`call` whenever it is full no more."""
        if self.courier is not None:
            self.courier.on_room = call

    def write(self, stream: int, data: bytes) -> None:
        """What was read of a stream just now."""
        moment_ns = time.time_ns()
        if self.file is not None and (records := self.encoders[stream].feed(data, moment_ns)):
            self.file.append(records)
        if self.courier is not None:
            self.courier.write(stream, moment_ns, data)

    def end(self, stream: int) -> None:
        """The stream has ended."""
        moment_ns = time.time_ns()
        if self.file is not None and (records := self.encoders[stream].finish(moment_ns)):
            self.file.append(records)
        if self.courier is not None:
            self.courier.end(stream, moment_ns)

    @property
    def is_kept_by_courier(self) -> bool:
        """Whether the courier writes the file itself: it may be behind what came."""
        return self.file is None and self.courier is not None and self.courier.keeps

    def settle(self) -> Steps[None]:
        """After the last `end`: wait until a file that the courier writes is whole."""
        if self.courier is not None:
            yield from self.courier.settle()

    def close(self) -> None:
        """No more is written."""
        if self.file is not None:
            self.file.close()
        if self.courier is not None:
            self.courier.close()


def open_log(request: Request, loop: Loop, connections: set[object]) -> Steps[Log | None]:
    """What the field `log` of a create asks for; None for nothing.  Raises Internal when a driver has no server."""
    log = open_file(request, loop)
    if "courier" not in request.message:
        return log
    from corten.shim.courier import Courier  # only these containers carry what they need

    courier = Courier(request.object("courier"), loop, connections)
    try:
        yield from courier.begin()
    except BaseException:
        if log is not None:
            log.close()
        raise
    if log is None:
        return Log(None, courier=courier)
    log.courier = courier
    return log


def open_file(request: Request, loop: Loop | None = None) -> Log | None:
    """The file that the fields of `log` name, open; None for none.  Raises OSError, InvalidArgument."""
    path = request.string("path")
    driver = request.string("driver", "json-file" if path else "none")
    if driver == "none":
        return None
    if driver not in ("json-file", "local") or not path:
        raise InvalidArgument(f"log: unknown driver {driver!r}" if path else "log: path is missing")
    options = request.nested("opts")
    if driver == "local":
        from corten.shim import locallog

        encoders = {stream: locallog.LocalEncoder(name) for stream, name in STREAM_NAMES.items()}
        return Log(_log_file(path, options, loop, locallog.FRAMING), encoders=encoders)
    attributes = request.object("attrs")
    encoded = encode_attributes({str(k): str(v) for k, v in attributes.items()}) if attributes else b""
    return Log(_log_file(path, options, loop), encoded)


def _log_file(path: str, options: Request, loop: Loop | None, framing: Framing | None = None) -> LogFile:
    return LogFile(
        path,
        max_size=options.integer("max-size", -1),
        max_files=options.integer("max-file", 1),
        compress=options.boolean("compress"),
        framing=framing,
        loop=loop,
    )
