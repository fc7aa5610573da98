"""D-Bus over a connected stream: method calls, their replies, signals.  What a manager of cgroups says to systemd.

Values are plain: int, bool, str, list, tuple (a structure), dict, and for a variant a pair (signature, value).  Only
little-endian messages without descriptors are made; of the peer both byte orders are read.

Source: D-Bus specification 0.38, "Type System", "Message Protocol", "Authentication Protocol".
"""

from __future__ import annotations

import posix
import select
import time

from corten.errors import Internal, InvalidArgument, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL, DESTINATION, SENDER, SIGNATURE = range(1, 9)
FIELD_TYPES = {PATH: "o", REPLY_SERIAL: "u", SIGNATURE: "g"}  # all others are strings
NUMBERS = {"y": 1, "n": 2, "q": 2, "i": 4, "u": 4, "x": 8, "t": 8, "b": 4}  # bytes of each, and its alignment
SIGNED = "nix"
MESSAGE_BYTES_MAX = 1 << 27
NESTING_MAX = 64
CHUNK_BYTES = 65536
TIMEOUT_S = 30.0
NUDGE_S, NUDGE_MAX_S = 0.1, 1.0
NO_ANSWER = "D-Bus: no answer in time"
PEER = "org.freedesktop.DBus.Peer"
BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")


class BusError(Internal):
    """A method call that was answered with an error: `name` is D-Bus's for it."""

    def __init__(self, member: str, name: str, text: str) -> None:
        super().__init__(f"{member}: {text or name}")
        self.name = name


class Message:
    """One message: its kind, header fields by their codes, and the values of its body."""

    __slots__ = ("body", "fields", "kind", "serial")

    def __init__(self, kind: int, serial: int, fields: dict[int, object], body: Sequence[object]) -> None:
        self.kind = kind
        self.serial = serial
        self.fields = fields
        self.body = body


# values ----------------------------------------------------------------------------------------------------


def types(signature: str) -> Iterator[str]:
    """The complete types of a signature, one after the other; raises Internal for what is none."""
    start = 0
    while start < len(signature):
        end = _end(signature, start, 0)
        yield signature[start:end]
        start = end


def _end(signature: str, start: int, depth: int) -> int:
    """Where the complete type that begins at `start` ends."""
    first = signature[start : start + 1]
    if depth > NESTING_MAX or not first:
        raise Internal(f"D-Bus signature {signature!r} is not one")
    if first in NUMBERS or first in "sogvd":
        return start + 1
    if first == "a":
        return _end(signature, start + 1, depth + 1)
    closing = {"(": ")", "{": "}"}.get(first)
    place = start + 1
    while closing and signature[place : place + 1] != closing:
        place = _end(signature, place, depth + 1)
    if not closing or place == start + 1:
        raise Internal(f"D-Bus signature {signature!r} is not one")
    return place + 1


def alignment(type: str) -> int:
    """To a multiple of how many bytes a value of this type is aligned."""
    return NUMBERS.get(type[0]) or {"s": 4, "o": 4, "a": 4, "g": 1, "v": 1}.get(type[0], 8)


def encode(signature: str, values: Sequence[object]) -> bytes:
    """Values of these types, from an offset that is a multiple of eight."""
    out = bytearray()
    for type, value in zip(types(signature), values, strict=True):
        _put(out, type, value)
    return bytes(out)


def _pad(out: bytearray, size: int) -> None:
    out += bytes(-len(out) % size)


def _put(out: bytearray, type: str, value: object) -> None:
    _pad(out, alignment(type))
    first = type[0]
    if first in NUMBERS:
        assert isinstance(value, int)
        out += value.to_bytes(NUMBERS[first], "little", signed=first in SIGNED)
    elif first in "sog":
        assert isinstance(value, str)
        try:
            data = value.encode()
        except UnicodeEncodeError:
            raise InvalidArgument(f"D-Bus takes no text that is not UTF-8: {value!r}") from None
        out += len(data).to_bytes(1 if first == "g" else 4, "little") + data + b"\0"
    elif first == "a":
        _put_array(out, type[1:], value)
    elif first == "v":
        assert isinstance(value, tuple)
        _put(out, "g", value[0])
        _put(out, value[0], value[1])
    else:
        assert isinstance(value, tuple)
        for inner, item in zip(types(type[1:-1]), value, strict=True):
            _put(out, inner, item)


def _put_array(out: bytearray, inner: str, value: object) -> None:
    items = list(value.items()) if isinstance(value, dict) else value
    assert isinstance(items, (list, tuple, bytes))
    place = len(out)
    out += bytes(4)
    _pad(out, alignment(inner))
    start = len(out)
    for item in items:
        _put(out, inner, item)
    out[place : place + 4] = (len(out) - start).to_bytes(4, "little")


class Reader:
    """Values read one after the other; raises Internal at the end of the data."""

    __slots__ = ("data", "order", "place")

    def __init__(self, data: bytes, order: str, place: int = 0) -> None:
        self.data = data
        self.order = order
        self.place = place

    def values(self, signature: str) -> list[object]:
        """One value of each type."""
        return [self.value(type) for type in types(signature)]

    def value(self, type: str, depth: int = 0) -> object:
        """The next value."""
        if depth > NESTING_MAX:
            raise Internal("D-Bus message is nested too deeply")
        self.align(alignment(type))
        first = type[0]
        if first in NUMBERS:
            number = int.from_bytes(self.take(NUMBERS[first]), self.order, signed=first in SIGNED)  # type: ignore[arg-type]
            return bool(number) if first == "b" else number
        if first == "d":
            return self.take(8)
        if first in "sog":
            text = self.take(self.length(1 if first == "g" else 4))
            self.take(1)
            return text.decode("utf-8", "surrogateescape")
        if first == "a":
            return self.array(type[1:], depth)
        if first == "v":
            (inner,) = types(str(self.value("g")))
            return (inner, self.value(inner, depth + 1))
        return tuple(self.value(inner, depth + 1) for inner in types(type[1:-1]))

    def array(self, inner: str, depth: int) -> object:
        """A list, or a dict of entries."""
        size = self.length(4)
        self.align(alignment(inner))
        end = self.place + size
        items = []
        while self.place < end:
            items.append(self.value(inner, depth + 1))
        return dict(items) if inner[0] == "{" else items  # type: ignore[arg-type]

    def length(self, size: int) -> int:
        """A number of bytes to come."""
        return int.from_bytes(self.take(size), self.order)  # type: ignore[arg-type]

    def align(self, size: int) -> None:
        """Passes over padding."""
        self.place += -self.place % size

    def take(self, size: int) -> bytes:
        """The next bytes."""
        data = self.data[self.place : self.place + size]
        if len(data) < size:
            raise Internal("D-Bus message is shorter than it says")
        self.place += size
        return data


# messages --------------------------------------------------------------------------------------------------


def pack(message: Message, signature: str = "") -> bytes:
    """A message on the wire; `signature` is its body's."""
    body = encode(signature, message.body)
    fields = dict(message.fields)
    if signature:
        fields[SIGNATURE] = signature
    rows = [(code, (FIELD_TYPES.get(code, "s"), value)) for code, value in fields.items()]
    head = encode("yyyyuua(yv)", [ord("l"), message.kind, 0, 1, len(body), message.serial, rows])
    return head + bytes(-len(head) % 8) + body


FIRST_BYTES = 16  # of every message: they tell how long it is


def size_of(head: bytes) -> int:
    """The length in bytes of the message that begins with these sixteen; raises Internal for an impossible one."""
    order = _order(head)
    body, fields = int.from_bytes(head[4:8], order), int.from_bytes(head[12:16], order)  # type: ignore[arg-type]
    size = FIRST_BYTES + fields + -fields % 8 + body
    if size > MESSAGE_BYTES_MAX:
        raise Internal(f"D-Bus message of {size} bytes")
    return size


def unpack(data: bytes) -> Message:
    """A whole message."""
    order = _order(data)
    reader = Reader(data, order)
    _, kind, _, _, _, serial, rows = reader.values("yyyyuua(yv)")
    assert isinstance(kind, int)
    assert isinstance(serial, int)
    assert isinstance(rows, list)
    fields = {code: value for code, (_, value) in rows}
    reader.align(8)
    rest = Reader(data[reader.place :], order)
    return Message(kind, serial, fields, rest.values(str(fields.get(SIGNATURE, ""))))


def _order(data: bytes) -> str:
    order = {b"l": "little", b"B": "big"}.get(data[:1])
    if order is None:
        raise Internal("what answers does not speak D-Bus")
    return order


class Connection:
    """A stream to a bus, or to one peer.  Owns `fd`, which it makes non-blocking; ended by `close`."""

    __slots__ = ("_buffer", "_destination", "_serial", "fd", "signals")

    def __init__(self, fd: int) -> None:
        posix.set_blocking(fd, False)
        self.fd = fd
        self.signals: list[Message] = []  # that came while something else was waited for
        self._buffer = bytearray()
        self._destination = ""
        self._serial = 0

    def close(self) -> None:
        """Ends the connection."""
        posix.close(self.fd)

    def authenticate(self) -> None:
        """As the process's own user, which the kernel attests; raises Unavailable when the peer refuses."""
        identity = str(posix.geteuid()).encode().hex()
        self._send(f"\0AUTH EXTERNAL {identity}\r\n".encode())
        deadline = time.monotonic() + TIMEOUT_S
        while b"\r\n" not in self._buffer:
            self._receive(deadline)
        answer, _, rest = bytes(self._buffer).partition(b"\r\n")
        if not answer.startswith(b"OK "):
            raise Unavailable(f"D-Bus authentication: {answer.decode('utf-8', 'replace')}")
        self._buffer = bytearray(rest)
        self._send(b"BEGIN\r\n")

    def hello(self) -> None:
        """The first call on a bus; a peer without a bus knows it not."""
        self.call(*BUS, "Hello")

    def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        values: Sequence[object] = (),
    ) -> Sequence[object]:
        """Calls a method and waits; the values of its reply.  Raises BusError, or Unavailable after 30 seconds."""
        self._serial += 1
        serial, self._destination = self._serial, destination
        fields: dict[int, object] = {PATH: path, INTERFACE: interface, MEMBER: member, DESTINATION: destination}
        self._send(pack(Message(CALL, serial, fields, values), signature))
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            message = self._next(deadline)
            if message.kind == SIGNAL:
                self.signals.append(message)
            elif message.fields.get(REPLY_SERIAL) != serial:
                continue
            elif message.kind == ERROR:
                text = str(message.body[0]) if message.body and isinstance(message.body[0], str) else ""
                raise BusError(member, str(message.fields.get(ERROR_NAME, "")), text)
            elif message.kind == RETURN:
                return message.body

    def wait_signal(self, wanted: Callable[[Message], bool], timeout_s: float = TIMEOUT_S) -> Message:
        """The first signal that is wanted, among those that came already and those to come."""
        deadline = time.monotonic() + timeout_s
        while True:
            for place, message in enumerate(self.signals):
                if wanted(message):
                    return self.signals.pop(place)
            message = self._next(deadline)
            if message.kind == SIGNAL:
                self.signals.append(message)

    def _next(self, deadline: float) -> Message:
        while len(self._buffer) < FIRST_BYTES or len(self._buffer) < size_of(bytes(self._buffer[:FIRST_BYTES])):
            self._receive(deadline)
        size = size_of(bytes(self._buffer[:FIRST_BYTES]))
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return unpack(data)

    def _receive(self, deadline: float) -> None:
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        pause_s = NUDGE_S
        while not poll.poll(max(0.0, min(pause_s, deadline - time.monotonic())) * 1000):
            if time.monotonic() >= deadline:
                raise Unavailable(NO_ANSWER)
            self._nudge()
            pause_s = min(2 * pause_s, NUDGE_MAX_S)
        try:
            data = posix.read(self.fd, CHUNK_BYTES)
        except ConnectionResetError:
            data = b""
        if not data:
            raise Unavailable("D-Bus: the connection was closed")
        self._buffer += data

    def _nudge(self) -> None:
        """Asks the peer for a sign of life, of which nothing is made: systemd 252 keeps some answers (StopUnit's error
        for a unit that is not there) in its buffer until something else comes."""
        if self._destination:
            self._serial += 1
            fields: dict[int, object] = {PATH: "/", INTERFACE: PEER, MEMBER: "Ping", DESTINATION: self._destination}
            self._send(pack(Message(CALL, self._serial, fields, [])))

    def _send(self, data: bytes) -> None:
        view, deadline = memoryview(data), time.monotonic() + TIMEOUT_S
        try:
            while view:
                try:
                    view = view[posix.write(self.fd, view) :]
                except BlockingIOError:
                    self._wait_for_room(deadline)
        except (BrokenPipeError, ConnectionResetError):
            raise Unavailable("D-Bus: the connection was closed") from None

    def _wait_for_room(self, deadline: float) -> None:
        """Until the peer has read some of what was sent."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise Unavailable(NO_ANSWER)
