"""Messages between cortend and a shim or the zygote; both sides import this module.  docs/shim.md describes them.

A message is one JSON object in one SEQPACKET datagram, with descriptors by SCM_RIGHTS.  A body over `INLINE_BYTES` is
put into a memfd that comes before the other descriptors, and the datagram is the single byte `m`.

    request   {"op": …, "seq": n, …}
    answer    {"seq": n, "ok": {…}}  or  {"seq": n, "error": {"kind": …, "text": …, "evidence": {…}}}
    event     {"event": …, …}        unasked, to every connected client

The protocol only grows: keys are added, never renamed or removed; unknown keys are ignored, an unknown op is answered
with the kind `not-implemented`.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence
from typing import Any

from corten.errors import CortenError, InvalidArgument, from_kind
from corten.runtime import fast
from corten.sys import unixlistener

VERSION = 1
SOCKET_NAME = "shim.sock"
NAMES_SOCKET = "names.sock"  # in the exec-root: the resolver's
HELPER_SOCKET = "helper.sock"  # in the exec-root, for shims alone
NETNS_FD = 100  # where a shim keeps its network namespace: /proc/<shim pid>/fd/100

INLINE_BYTES = 64 * 1024
MESSAGE_BYTES = 16 * 1024 * 1024
MAX_FDS = 250  # SCM_MAX_FD is 253
_IN_MEMFD = b"m"

# plain integers: an operation on an enum member costs microseconds and dirties pages that shims share
_MSG_NOSIGNAL = int(socket.MSG_NOSIGNAL)
_MSG_CMSG_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)
_CUT = int(socket.MSG_TRUNC) | int(socket.MSG_CTRUNC)
_SOL_SOCKET = int(socket.SOL_SOCKET)
_SCM_RIGHTS = int(socket.SCM_RIGHTS)
_ANCILLARY_BYTES = socket.CMSG_SPACE
_FD_BYTES = array.array("i").itemsize

Message = dict[str, Any]


def encode(message: Message) -> bytes:
    """UTF-8; lone surrogates (paths that are not UTF-8) pass as they came from `os.fsdecode`."""
    return fast.dump_bytes(message)


def decode(body: bytes) -> Message:
    """Raises InvalidArgument unless it is one JSON object."""
    try:
        message = fast.loads(body)
    except RecursionError:
        raise InvalidArgument("message is nested too deeply") from None
    if not isinstance(message, dict):
        raise InvalidArgument("message is not a JSON object")
    return message


def failure(error: CortenError) -> Message:
    """The value of `error` in an answer; `evidence` only where the error has some."""
    value: Message = {"kind": error.kind, "text": error.text}
    if error.evidence is not None:
        value["evidence"] = error.evidence
    return value


def raise_failure(value: Message) -> None:
    """Raise what `failure` made."""
    error = from_kind(str(value.get("kind", "internal")), str(value.get("text", "unknown error")))
    evidence = value.get("evidence")
    if isinstance(evidence, dict):
        error.evidence = evidence
    raise error


def send(sock: socket.socket, body: bytes, fds: Sequence[int] = ()) -> None:
    """One message; the descriptors stay the caller's.

    Raises:
        BlockingIOError: the peer does not read (non-blocking socket).
        OSError: the peer is gone.
    """
    if len(body) <= INLINE_BYTES:
        _send(sock, body, fds)
        return
    memfd = os.memfd_create("message", os.MFD_CLOEXEC)
    try:
        os.truncate(memfd, len(body))
        written = 0
        while written < len(body):
            written += os.pwrite(memfd, body[written:], written)
        _send(sock, _IN_MEMFD, (memfd, *fds))
    finally:
        os.close(memfd)


def _send(sock: socket.socket, body: bytes, fds: Sequence[int]) -> None:
    if fds:
        sock.sendmsg([body], [(_SOL_SOCKET, _SCM_RIGHTS, array.array("i", fds))], _MSG_NOSIGNAL)
    else:
        sock.send(body, _MSG_NOSIGNAL)


def receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """One message: (body, descriptors).  An empty body is the end of the stream.

    The descriptors are close-on-exec and the caller's.

    Raises:
        BlockingIOError: nothing there (non-blocking socket).
        InvalidArgument: larger than allowed; its descriptors are closed.
        OSError: the peer is gone.
    """
    body, fds, is_cut = receive_fds(sock, INLINE_BYTES + 1, MAX_FDS + 1)
    if is_cut:
        close_all(fds)
        raise InvalidArgument("message is too large")
    if body != _IN_MEMFD:
        return body, fds
    if not fds:
        raise InvalidArgument("message has no body")
    memfd, *rest = fds
    try:
        return _read_memfd(memfd), rest
    except (OSError, InvalidArgument):
        close_all(rest)
        raise
    finally:
        os.close(memfd)


def receive_fds(sock: socket.socket, size: int, max_fds: int) -> tuple[bytes, list[int], bool]:
    """recvmsg(2): (data, close-on-exec descriptors, whether either was cut).

    Not `socket.recv_fds`: that of Python 3.11 drops its flags, and what it returns would be inherited by containers.
    """
    data, ancillary, flags, _ = sock.recvmsg(size, _ANCILLARY_BYTES(max_fds * _FD_BYTES), _MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == _SOL_SOCKET and kind == _SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % _FD_BYTES])
    return data, fds.tolist(), bool(flags & _CUT)


def _read_memfd(memfd: int) -> bytes:
    size = os.fstat(memfd).st_size
    if size > MESSAGE_BYTES:
        raise InvalidArgument("message is too large")
    body = os.pread(memfd, size, 0)
    if len(body) != size or not body:
        raise InvalidArgument("message is cut short")
    return body


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors that nobody took."""
    for fd in fds:
        os.close(fd)


def bind_listener(directory: str, name: str = SOCKET_NAME, backlog: int = 16) -> socket.socket:
    """A listening socket at `directory`/`name`; it appears there only once it listens."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    dir_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        unixlistener.appear(listener, dir_fd, name, backlog=backlog, mode=0o600)  # the folder may be open to look at
    except OSError:
        listener.close()
        raise
    finally:
        os.close(dir_fd)
    return listener


def connect(directory: str, name: str = SOCKET_NAME) -> socket.socket:
    """A non-blocking connection to the shim of a directory, or to who else listens there.

    Raises:
        FileNotFoundError: there never was one.  ConnectionRefusedError: it is dead.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    dir_fd = -1
    try:
        dir_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        sock.setblocking(False)
        sock.connect(f"/proc/self/fd/{dir_fd}/{name}")
    except OSError:
        sock.close()
        raise
    finally:
        if dir_fd >= 0:
            os.close(dir_fd)
    return sock
