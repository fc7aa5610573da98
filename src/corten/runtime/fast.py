"""The one place where the cold path touches the interpreter's underscored C modules.

`json`, `signal`, `socket` and `subprocess` cost 5 to 10 ms each on a cold start; the C modules below them
cost 0.6 ms together (design.md §7).  Their shapes hold from Python 3.11 to 3.13; this file alone knows them.
"""

from __future__ import annotations

import _json
import _signal  # type: ignore[import-not-found]
import posix
import time

from corten.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Iterable
    from typing import Any

WHITESPACE = " \t\n\r"


class _Decoding:
    """What `_json.make_scanner` asks its context for."""

    strict = False
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    memo: dict[str, str] = {}

    @staticmethod
    def parse_constant(name: str) -> float:
        raise InvalidArgument(f"JSON has no {name}")


_scan = _json.make_scanner(_Decoding())  # type: ignore[arg-type]


def loads(data: bytes | str) -> Any:
    """One JSON document; raises InvalidArgument with the offset of what does not fit."""
    text = data if isinstance(data, str) else data.decode("utf-8", "surrogateescape")
    start = len(text) - len(text.lstrip(WHITESPACE))
    try:
        value, end = _scan(text, start)
    except StopIteration as stop:
        raise InvalidArgument(_decode_failure(text, int(stop.value))) from None
    except (SystemError, ValueError):
        raise InvalidArgument(_explain(text)) from None
    except RecursionError:
        raise InvalidArgument("invalid JSON: exceeded max depth") from None
    if text[end:].strip(WHITESPACE):
        raise InvalidArgument(f"invalid character {text[end:].lstrip(WHITESPACE)[0]!r} after top-level value")
    return value


def loads_from(name: str, data: bytes) -> Any:
    """One JSON document; raises InvalidArgument with the name of the file that it came from."""
    try:
        return loads(data)
    except InvalidArgument as error:
        raise InvalidArgument(f"{name}: {error.text}") from None


def _decode_failure(text: str, offset: int) -> str:
    if offset >= len(text):
        return "unexpected end of JSON input"
    return f"invalid character {text[offset]!r} at offset {offset} of the JSON document"


def _explain(text: str) -> str:
    """The sentence that the bare scanner cannot make: its error class lives in `json.decoder`."""
    import json

    try:
        json.loads(text)
    except ValueError as error:
        return f"invalid JSON: {error}"
    except RecursionError:  # for it the depth is another one: it stands deeper itself
        return "invalid JSON: exceeded max depth"
    return "invalid JSON"


def _refuse(value: object) -> object:
    raise TypeError(f"not a JSON value: {type(value).__name__}")


_encode = _json.make_encoder(None, _refuse, _json.encode_basestring, None, ":", ",", False, False, False)


def dumps(value: object) -> str:
    """Compact JSON; object keys in their own order."""
    return "".join(_encode(value, 0))


def dump_bytes(value: object) -> bytes:
    """Compact JSON as UTF-8; bytes that were not UTF-8 on their way in come out as they were."""
    return dumps(value).encode("utf-8", "surrogateescape")


def dumps_indented(value: object, indent: str = "  ", level: int = 0) -> str:
    """JSON as Go's MarshalIndent prints it: one member a line, `{}` and `[]` closed up."""
    inner = indent * (level + 1)
    if isinstance(value, dict) and value:
        rows = [f"{dumps(key)}: {dumps_indented(item, indent, level + 1)}" for key, item in value.items()]
        opening, closing = "{", "}"
    elif isinstance(value, (list, tuple)) and value:
        rows = [dumps_indented(item, indent, level + 1) for item in value]
        opening, closing = "[", "]"
    else:
        return dumps(value)
    body = ",\n".join(inner + row for row in rows)
    return f"{opening}\n{body}\n{indent * level}{closing}"


def rfc3339(now_ns: int | None = None, *, nanoseconds: bool = True) -> str:
    """A time of the realtime clock as Go's RFC3339Nano prints it in UTC; without an argument, now."""
    stamp_ns = time.time_ns() if now_ns is None else now_ns
    whole, fraction = divmod(stamp_ns, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    digits = f".{fraction:09d}".rstrip("0").rstrip(".") if nanoseconds else ""
    return f"{text}{digits}Z"


# signals ---------------------------------------------------------------------------------------------------

SIGNALS: dict[str, int] = {
    name[3:]: int(number)
    for name, number in vars(_signal).items()
    if name.startswith("SIG") and name[3:4] not in ("_", "") and isinstance(number, int)
}


NUMBER_DIGITS = 18  # what is longer does not fit into Go's int, and is no number for runc
EINVAL = 22


def signal_number(text: str) -> int:
    """The number of a signal given as number, `KILL` or `SIGKILL`; raises InvalidArgument in runc's words.

    Whether there is such a number is the kernel's to say.
    """
    digits = text[1:] if text[:1] in ("+", "-") else text
    if digits.isascii() and digits.isdigit() and len(digits.lstrip("0")) <= NUMBER_DIGITS:
        return int(text)
    number = SIGNALS.get(text.upper().removeprefix("SIG"))
    if number is None or text.upper().removeprefix("SIG") in ("RTMIN", "RTMAX"):
        raise InvalidArgument(f'unknown signal "{text}"')
    return number


def pidfd_send_signal(pidfd: int, signum: int) -> None:
    """pidfd_send_signal(2); OSError ESRCH when the process has been reaped, EINVAL for a strange number."""
    try:
        _signal.pidfd_send_signal(pidfd, signum)
    except OverflowError:
        raise OSError(EINVAL, posix.strerror(EINVAL)) from None


def catch_signals(signums: Iterable[int], write_fd: int) -> None:
    """From now on each of these signals, unless ignored, writes its number as one byte to a non-blocking pipe."""
    _signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    for signum in signums:
        if _signal.getsignal(signum) != _signal.SIG_IGN:
            _signal.signal(signum, _caught)


def _caught(signum: int, frame: object) -> None:
    """The number already stands in the pipe."""


def keep_children() -> None:
    """SIGCHLD as it is by default: a caller that ignores it, as supervisors do, would have the kernel reap for us."""
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)


def wait_status(pidfd: int) -> int:
    """Reaps the child behind `pidfd`, blocking; its exit status, 128+n when signal n ended it."""
    result = posix.waitid(posix.P_PIDFD, pidfd, posix.WEXITED)
    assert result is not None
    exited = 1  # CLD_EXITED
    return result.si_status if result.si_code == exited else 128 + result.si_status


POLL_MS_MAX = (1 << 31) - 1


def poll_ms(deadline: float | None) -> int | None:
    """How long poll(2) may wait for a time of the monotonic clock: 24 days at most, so look at the clock again."""
    if deadline is None:
        return None
    return min(max(0, int((deadline - time.monotonic()) * 1000) + 1), POLL_MS_MAX)


# sockets ---------------------------------------------------------------------------------------------------

CONNECT_TIMEOUT_S, CONNECT_POLL_S = 30.0, 0.01
SUN_PATH_BYTES = 108  # unix(7): sizeof(sun_path), with the NUL


def connect_unix(path: str, timeout_s: float | None = None) -> int:
    """A close-on-exec stream connected to the unix socket at an absolute path of any length; raises OSError.

    With a time it is non-blocking, and a full queue of the other side is an error at once (unix(7), EAGAIN).
    """
    import _socket

    stream = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC, 0)
    directory = -1
    try:
        if len(path.encode("utf-8", "surrogateescape")) >= SUN_PATH_BYTES:
            head, _, tail = path.rpartition("/")
            directory = posix.open(head, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
            path = f"/proc/self/fd/{directory}/{tail}"
        stream.settimeout(timeout_s)
        stream.connect(path)
        return stream.detach()
    finally:
        stream.close()
        if directory >= 0:
            posix.close(directory)


def connect_in_time(path: str, timeout_s: float = CONNECT_TIMEOUT_S) -> int:
    """As `connect_unix`, a blocking stream to a socket whose queue may be full for a while.

    Raises BlockingIOError when it stays so.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fd = connect_unix(path, timeout_s)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(CONNECT_POLL_S)
        else:
            posix.set_blocking(fd, True)
            return fd


def socket_pair() -> tuple[_socket.socket, _socket.socket]:
    """Two connected close-on-exec streams."""
    import _socket

    return _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC, 0)


def receive_fd(stream: _socket.socket) -> int:
    """The descriptor that the next message on `stream` carries (unix(7), SCM_RIGHTS); -1 when it carries none."""
    import _socket

    fd_bytes = 4
    _, ancillary, _, _ = stream.recvmsg(4096, _socket.CMSG_SPACE(fd_bytes), _socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS and len(data) >= fd_bytes:
            return int.from_bytes(data[:fd_bytes], "little")
    return -1


def send_fd(target_fd: int, data: bytes, fd: int) -> None:
    """One message with a descriptor to the connected socket `target_fd`, which stays the caller's; raises OSError."""
    import _socket

    target = _socket.socket(fileno=target_fd)
    try:
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(4, "little"))
        target.sendmsg([data], [rights], _socket.MSG_NOSIGNAL)
    finally:
        target.detach()


def pass_fd_on(stream: _socket.socket, target_fd: int) -> None:
    """Sends the next message on `stream`, with its descriptor, to the socket `target_fd`; raises OSError."""
    import _socket

    data, ancillary, _, _ = stream.recvmsg(4096, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
    target = _socket.socket(fileno=target_fd)
    try:
        target.sendmsg([data], ancillary, _socket.MSG_NOSIGNAL)
    finally:
        target.detach()
        for _, _, fd in ancillary:
            posix.close(int.from_bytes(fd, "little"))
