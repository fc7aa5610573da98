"""The shim's end of a courier: a child process that sends output to where it cannot be written without waiting.

    output ──► write ──► queue ──► socket ──► courier (corten.shim.delivery) ──► syslog, journald, gelf, fluentd,
                           │                                                     or a file (corten.shim.filekeeper)
                           │ full: the container waits (mode=blocking), or what comes is dropped (mode=non-blocking)

A courier is forked when its container is made, because what it loads (DNS, TLS, JSON) would be a burden in a shim.  One
that dies is followed by another after a moment; what it had taken and not sent is lost, as it is with dockerd.  At the
end of the log it has `END_S` to send the rest.

Frames: stream (1 byte), Unix time in ns (8), length (4), big-endian, then so many bytes; none: the stream has ended.
To who keeps the log itself, DROPPED in place of a stream: so many bytes (in digits) are missing here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import time
from collections import deque
from collections.abc import Callable

from corten.errors import Internal
from corten.shim.backend import Steps
from corten.shim.client import HIGH_WATER_BYTES
from corten.shim.complain import complain, remark
from corten.shim.loop import HANGUP, READ, WRITE, Loop, Readable, Sleep
from corten.shim.packer import keep_only
from corten.shim.protocol import Message, close_all
from corten.sys import prctl

FRAME = struct.Struct(">BQI")
DROPPED = 0
END_S = 10  # dockerd's, for a driver that is closed
KEEPER = "file"  # the driver of one that keeps the log itself
_START_S = 15.0
_AGAIN_S = 1.0
_POLL_S = 0.005
_SOCKET_BYTES = 64 * 1024
_FRAME_COST = 64  # of memory beside its data: one-byte frames must not take many times the limit
READY = b"+"
_SILENCE = b"the driver does not answer"


class Courier:
    """One container's.  Life: `begin` → `write`, `end` → `close`.

    `limit` in bytes: what may wait when the container does not, -1 when it does.
    """

    __slots__ = (
        "_connections", "_fd", "_gap", "_is_closing", "_is_over", "_loop", "_order", "_pidfd", "_queue", "_reaping",
        "_sent", "dropped", "keeps", "limit", "on_room", "pending", "pid",
    )  # fmt: skip

    def __init__(self, order: Message, loop: Loop, connections: set[object]) -> None:
        """`order`: the field `courier` of a create; `connections`: what the shim waits for before it goes."""
        limit = order.get("limit")
        self.limit = limit if isinstance(limit, int) else -1
        self.pending = 0
        self.on_room: Callable[[], None] | None = None
        self._order = order
        self._loop = loop
        self._connections = connections
        self._queue: deque[bytes] = deque()
        self._sent = 0  # of its first frame
        self._fd = -1
        self._pidfd = -1
        self._is_closing = False
        self._is_over = False
        self._reaping: _Reaping | None = None
        self._gap = 0  # what was dropped since the last frame
        self.pid = 0  # while it lives
        self.dropped = 0
        self.keeps = order.get("driver") == KEEPER

    @property
    def is_full(self) -> bool:
        """Whether the container has to wait."""
        return self.limit < 0 and self.pending >= HIGH_WATER_BYTES

    def begin(self) -> Steps[None]:
        """Start it and wait until it is connected.  Raises Internal with what its driver says."""
        report = self._fork()
        try:
            said = os.read(report, 4096) if (yield Readable(report, _START_S)) else _SILENCE
        except BaseException:
            self._drop()
            raise
        finally:
            os.close(report)
        if said != READY:
            self._drop()
            raise Internal(f"{_FAILED}: {said.decode('utf-8', 'replace') or 'the driver ended'}")
        self._loop.add(self._fd, READ, self._ready)

    def write(self, stream: int, moment_ns: int, data: bytes) -> None:
        """Output to be sent; dropped when there is no room and the container is not to wait."""
        if self.limit >= 0 and self.pending + len(data) + _FRAME_COST > self.limit and self.pending:
            self.dropped += len(data)
            self._gap += len(data)
            return
        self._tell_gap(moment_ns)
        self._put(stream, moment_ns, data)

    def end(self, stream: int, moment_ns: int) -> None:
        """The end of a stream."""
        self._tell_gap(moment_ns)
        self._put(stream, moment_ns, b"")

    def settle(self) -> Steps[None]:
        """`close`, and wait until the courier has written everything and is gone; `END_S` at most."""
        deadline = time.monotonic() + END_S
        self.close()
        while not self._is_gone and time.monotonic() < deadline:
            yield Sleep(_POLL_S)

    @property
    def _is_gone(self) -> bool:
        return self._is_over and (self._reaping is None or self._reaping.is_over)

    def close(self) -> None:
        """No more comes; what is queued is sent in the time that is left."""
        if self._is_closing:
            return
        self._is_closing = True
        if self.dropped:
            remark(f"{self.dropped} bytes of output were dropped on their way to the log")
        if not self._queue:
            self._finish()
            return
        self._connections.add(self)  # one that has died is followed by another in this time
        self._loop.call_later(END_S, self._finish)

    # The queue

    def _tell_gap(self, moment_ns: int) -> None:
        gap, self._gap = self._gap, 0
        if gap and self.keeps:
            self._put(DROPPED, moment_ns, b"%d" % gap)

    def _put(self, stream: int, moment_ns: int, data: bytes) -> None:
        frame = FRAME.pack(stream, moment_ns, len(data)) + data
        self._queue.append(frame)
        self.pending += len(data) + _FRAME_COST
        if len(self._queue) == 1 and self._fd >= 0:
            self._flush()

    def _flush(self) -> None:
        was_full = self.is_full
        self._send()
        self._tell_room(was_full)

    def _tell_room(self, was_full: bool) -> None:
        if was_full and not self.is_full and self.on_room is not None:
            self.on_room()

    def _send(self) -> None:
        while self._queue:
            frame = self._queue[0]
            try:
                self._sent += os.write(self._fd, memoryview(frame)[self._sent :])
            except BlockingIOError:
                self._loop.change(self._fd, READ | WRITE)
                break
            except OSError:  # it has died
                self._replace()
                return
            if self._sent == len(frame):
                self._forget_first()
        else:
            self._loop.change(self._fd, READ)
            if self._is_closing:
                self._finish()

    def _forget_first(self) -> None:
        self.pending -= len(self._queue.popleft()) - FRAME.size + _FRAME_COST
        self._sent = 0

    def _ready(self, events: int) -> None:
        if events & (READ | HANGUP):  # it says nothing after its start: this is its end
            self._died()
        elif events & WRITE:
            self._flush()

    # The process

    def _fork(self) -> int:
        """Start it; the descriptor on which it says that it is ready.  Raises Internal."""
        held: list[int] = []
        shim = os.getpid()
        try:
            ours, theirs = socket.socketpair()
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
            held += (ours.detach(), theirs.detach())
            held += os.pipe()
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1,))  # told its end before it can hear of it
            pid = os.fork()
            if not pid:
                _deliver(self._order, held[1], held[3], shim)
            held.append(_open(pid))
        except OSError as error:
            close_all(held)
            raise Internal(f"{_FAILED}: {error.strerror}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGUSR1,))
        self._fd, inlet, report, say, self._pidfd = held
        close_all((inlet, say))
        self.pid = pid
        os.set_blocking(self._fd, False)
        return report

    def _died(self) -> None:
        was_full = self.is_full
        self._replace()
        self._tell_room(was_full)

    def _replace(self) -> None:
        """Another one, which connects in its own time; a frame that was cut is lost with its beginning."""
        self._drop()
        if self._sent:
            self._forget_first()
        if self._is_closing and not self._queue:
            self._finish()
            return
        remark("the courier of the log has died: another one follows")
        self._loop.call_later(_AGAIN_S, self._again)

    def _again(self) -> None:
        if self._is_over or self._fd >= 0:
            return
        try:
            report = self._fork()
        except Internal as error:
            complain(error)
            self._loop.call_later(_AGAIN_S, self._again)
            return
        os.close(report)
        self._loop.add(self._fd, READ, self._ready)
        self._flush()

    def _finish(self) -> None:
        """The end of its input; it ends by itself, at the latest after `END_S`."""
        self._is_over = True
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGUSR1)
        self._drop(wait=False)
        self._connections.discard(self)

    def _drop(self, *, wait: bool = True) -> None:
        if self._fd >= 0:
            self._loop.remove(self._fd)
            os.close(self._fd)
            self._fd = -1
        self.pid = 0
        if self._pidfd >= 0:
            if wait:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                _reap(self._pidfd)
                os.close(self._pidfd)
            else:
                self._reaping = _Reaping(self._pidfd, self._loop)
            self._pidfd = -1


class _Reaping:
    """Waits for a courier at its end, as long as the shim lives."""

    __slots__ = ("_loop", "_pidfd", "is_over")

    def __init__(self, pidfd: int, loop: Loop) -> None:
        self.is_over = False
        self._pidfd = pidfd
        self._loop = loop
        loop.add(pidfd, READ, lambda events: self._ended())

    def _ended(self) -> None:
        self.is_over = True
        self._loop.remove(self._pidfd)
        _reap(self._pidfd)
        os.close(self._pidfd)


def _reap(pidfd: int) -> None:
    with contextlib.suppress(ChildProcessError):  # the shim's reaper of orphans was first
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)


_FAILED = "failed to initialize logging driver"


def _open(pid: int) -> int:
    """Its pidfd; it ends when there is none to be had."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _deliver(order: Message, inlet: int, say: int, shim: int) -> None:
    """In the child; does not return."""
    status = 1
    try:
        signal.signal(signal.SIGUSR1, lambda signum, frame: signal.alarm(END_S))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGUSR1,))
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        keep_only(inlet, say)
        prctl.set_death_signal(signal.SIGUSR1)
        if os.getppid() != shim:  # killed before that: nobody tells
            signal.alarm(END_S)
        from corten.shim import delivery

        delivery.run(order, inlet, say)
        status = 0
    except Exception as error:  # the child's outermost loop
        complain(error)
    finally:
        os._exit(status)
