"""A tracer that knows messages: it names each one before it happens, and kills at the one that it was given.

strace(1) counts system calls of a thread.  That is exact for what one thread writes to a file.  It is not for messages:
HTTP answers go through the same calls as requests to a shim, and how often a receive finds its socket empty depends on
the pace of the machine; nor for what several worker threads do by turns.  This tracer stops its tracee at the entry of
every system call (ptrace(2), SEIZE and SYSCALL), looks at the bytes that are to be sent or that wait to be received
(MSG_PEEK on a copy of the socket, pidfd_getfd(2)), and gives them a name:

    send op fork · receive answer to fork · receive event exit · rename exit · worker pwrite64 corten.db-wal

A receive that finds nothing, or the end of the stream, is no message.  A call that is entered when SIGKILL comes is not
executed.  It runs as a program of its own, because stops of a tracee are told to whoever in a process waits first:

    python3 -m support.messagetrace PID LOG [--threads] [--forks] [--late] [--file PATH]… [--kill|--stop NUMBER NAME]

The log has one line per message, rename, or write to and sync of a file (`number name`, the how-manieth of that name),
with a `!` where the tracee was killed or stands still; what children do begins with `child`.  SIGTERM makes the tracer
let go of each tracee at a stop, and end; the tracee goes on.  (One that dies behind a wait takes a signal with it, a
SIGCHLD for one; one that dies before a wait may give a tracee a SIGTRAP.)
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import signal
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

_SEIZE, _INTERRUPT, _LISTEN, _SYSCALL, _DETACH, _GET_SYSCALL_INFO = 0x4206, 0x4207, 0x4208, 24, 17, 0x420E
_O_TRACESYSGOOD, _O_TRACEFORKS, _O_TRACECLONE = 1, 2 | 4, 8
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_EVENT_STOP = 128
_ENTRY, _EXIT = 1, 2  # ptrace_syscall_info.op
_WALL = 0x40000000
_WAKING = (signal.SIGCHLD, signal.SIGTERM)
_PIDFD_GETFD = 438  # the same on every machine
_NUMBERS = {
    "x86_64": {
        **{44: "sendto", 46: "sendmsg", 47: "recvmsg", 82: "rename", 264: "renameat", 316: "renameat2"},
        **{18: "pwrite64", 74: "fsync", 75: "fdatasync"},
    },
    "aarch64": {
        **{206: "sendto", 211: "sendmsg", 212: "recvmsg", 38: "renameat", 276: "renameat2"},
        **{68: "pwrite64", 82: "fsync", 83: "fdatasync"},
    },
}[platform.machine()]
_WRITES = frozenset({"pwrite64", "fsync", "fdatasync"})
_TARGET = {"rename": 1, "renameat": 3, "renameat2": 3}  # which argument is the new name
_ROOM = 1 << 17
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> int:
    done: int = _libc.ptrace(request, pid, address, data)
    if done < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return done


class Tracer:
    """One process: its first thread; with `threads` all that it has and begins; with `forks` its children as well."""

    def __init__(
        self, pid: int, log: int, kill: tuple[int, str] | None, *, threads: bool, forks: bool, files: Sequence[str]
    ) -> None:
        self._pid = pid
        self._log = log
        self._kill = kill
        self._threads = threads
        self._forks = forks
        self._files = frozenset(files)
        self._signal = signal.SIGKILL
        self._late = False
        self._is_leaving = False
        self._tracees: set[int] = set()
        self._counts: Counter[str] = Counter()
        self._asked: dict[tuple[str, object], str] = {}  # (socket, seq) → op, of requests that have no answer yet
        self._empty: dict[int, Sequence[int]] = {}  # thread → arguments of its receive that had nothing to find
        self._buffer = ctypes.create_string_buffer(128)

    def stop_instead(self) -> None:
        """SIGSTOP at the point, which is then carried out, and nothing behind it."""
        self._signal = signal.SIGSTOP

    def kill_late(self) -> None:
        """Also when a message came while its receive had begun: then behind the call; nothing is done about it yet."""
        self._late = True

    def run(self) -> None:
        """Until the tracee ends, or SIGTERM."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _WAKING)
        options = _O_TRACESYSGOOD | (_O_TRACECLONE if self._threads else 0) | (_O_TRACEFORKS if self._forks else 0)
        threads = [int(name) for name in os.listdir(f"/proc/{self._pid}/task")] if self._threads else [self._pid]
        for thread in threads:
            _ptrace(_SEIZE, thread, 0, options)
            _ptrace(_INTERRUPT, thread)
        fresh = set(threads)
        self._tracees.update(threads)
        while True:
            if signal.sigwait(_WAKING) == signal.SIGTERM:
                self._let_go()
            try:
                self._answer_stops(fresh)
            except ChildProcessError:  # none is left
                return

    def _let_go(self) -> None:
        self._is_leaving = True
        for thread in self._tracees:
            with suppress(ProcessLookupError):
                _ptrace(_INTERRUPT, thread)

    def _answer_stops(self, fresh: set[int]) -> None:
        """All that there are; ChildProcessError when no tracee is left."""
        while True:
            thread, status = os.waitpid(-1, _WALL | os.WNOHANG)
            if thread == 0:
                return
            if os.WIFSTOPPED(status):
                self._tracees.add(thread)
                self._stopped(thread, os.WSTOPSIG(status), status >> 16)
            else:
                self._tracees.discard(thread)
            if thread in fresh:
                fresh.discard(thread)
                if not fresh:
                    print("attached", flush=True)

    def _stopped(self, thread: int, number: int, event: int) -> None:
        request, given = _SYSCALL, 0
        if number == _SYSCALL_STOP:
            with suppress(ProcessLookupError, FileNotFoundError):  # killed while it stood still, or the file is closed
                self._at_call(thread)
        elif event == _EVENT_STOP:
            request = _LISTEN if number in (signal.SIGSTOP, signal.SIGTSTP) else _SYSCALL
            if request == _LISTEN and self._signal == signal.SIGSTOP:
                os.write(self._log, b"1 stopped!\n")
        elif number != signal.SIGTRAP:
            given = number
        if self._is_leaving:
            request = _DETACH
            self._tracees.discard(thread)
        with suppress(ProcessLookupError):  # killed: the next wait says so
            _ptrace(request, thread, 0, given)

    def _at_call(self, thread: int) -> None:
        _ptrace(_GET_SYSCALL_INFO, thread, len(self._buffer), ctypes.addressof(self._buffer))
        kind = self._buffer.raw[0]
        if kind == _ENTRY:
            self._entered(thread, *struct.unpack_from("7Q", self._buffer.raw, 24))
        elif kind == _EXIT and thread in self._empty:
            self._left(thread, self._empty.pop(thread), *struct.unpack_from("q", self._buffer.raw, 24))

    def _entered(self, thread: int, number: int, *arguments: int) -> None:
        name = _NUMBERS.get(number, "")
        if name in _TARGET:
            label = self._renamed(thread, name, arguments)
        elif name in _WRITES:
            label = self._written(thread, name, arguments)
        else:
            label = self._message(thread, name, arguments) if name else ""
        if label:
            self._note(thread, label)

    def _left(self, thread: int, arguments: Sequence[int], size: int) -> None:
        """A message that came while its receive had begun is counted; it is too late to kill before it."""
        if size > 0:
            link = os.readlink(f"/proc/{thread}/fd/{arguments[0]}")
            label = f"receive {self._named(link, _vector(thread, arguments[1], size))}"
            self._note(thread, label, is_over=not self._late)

    def _note(self, thread: int, label: str, *, is_over: bool = False) -> None:
        if self._forks and thread != self._pid:
            label = f"child {label}"
        self._counts[label] += 1
        here = (self._counts[label], label)
        is_the_one = here == self._kill and not is_over
        mark = "!" if is_the_one and self._signal == signal.SIGKILL else ""
        os.write(self._log, f"{here[0]} {label}{mark}\n".encode())
        if is_the_one:
            os.kill(self._process_of(thread), self._signal)

    def _process_of(self, thread: int) -> int:
        return self._pid if self._threads else thread

    def _renamed(self, thread: int, name: str, arguments: Sequence[int]) -> str:
        text = _memory(thread, arguments[_TARGET[name]], 4096).partition(b"\0")[0]
        return f"rename {os.path.basename(text.decode(errors='replace'))}"

    def _written(self, thread: int, name: str, arguments: Sequence[int]) -> str:
        path = os.readlink(f"/proc/{thread}/fd/{arguments[0]}")
        if path not in self._files:
            return ""
        return f"{'loop' if thread == self._pid else 'worker'} {name} {os.path.basename(path)}"

    def _message(self, thread: int, name: str, arguments: Sequence[int]) -> str:
        """What goes through a unix socket of packets, '' for all else."""
        link = os.readlink(f"/proc/{thread}/fd/{arguments[0]}")
        if not link.startswith("socket:"):
            return ""
        with _copy(self._process_of(thread), arguments[0]) as sock:
            if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_SEQPACKET:
                return ""
            body = _waiting(sock) if name == "recvmsg" else _sent(thread, name, arguments)
        if body:
            return f"{'receive' if name == 'recvmsg' else 'send'} {self._named(link, body)}"
        if name == "recvmsg":
            self._empty[thread] = arguments
        return ""

    def _named(self, link: str, body: bytes) -> str:
        """`op …`, `event …`, `answer to …`."""
        try:
            message = json.loads(body)
        except ValueError:
            return "large" if body == b"m" else "bytes"
        if "op" in message:
            self._asked[link, message.get("seq")] = message["op"]
            return f"op {message['op']}"
        if "event" in message:
            return f"event {message['event']}"
        if "do" in message:
            return f"do {message['do']}"
        if message.keys() == {"pid"}:
            return "answer to do"
        return f"answer to {self._asked.pop((link, message.get('seq')), 'an earlier op')}"


def _memory(thread: int, address: int, size: int) -> bytes:
    """What the tracee has there; ProcessLookupError when it is dead."""
    fd = os.open(f"/proc/{thread}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = os.pread(fd, size, address)
    finally:
        os.close(fd)
    if not found and size:
        raise ProcessLookupError(thread)
    return found


def _sent(thread: int, name: str, arguments: Sequence[int]) -> bytes:
    return _vector(thread, arguments[1]) if name == "sendmsg" else _memory(thread, arguments[1], arguments[2])


def _vector(thread: int, header: int, size: int | None = None) -> bytes:
    """Of a struct msghdr (name, its length, iovec, their number, …) what the first vector has; recvmsg(2)."""
    (vector,) = struct.unpack_from("Q", _memory(thread, header, 32), 16)
    address, length = struct.unpack("QQ", _memory(thread, vector, 16))
    return _memory(thread, address, length if size is None else size)


def _copy(pid: int, number: int) -> socket.socket:
    """A descriptor of another process, as one of our own."""
    pidfd = os.pidfd_open(pid)
    try:
        fd = _libc.syscall(_PIDFD_GETFD, pidfd, number, 0)
    finally:
        os.close(pidfd)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return socket.socket(fileno=fd)


def _waiting(sock: socket.socket) -> bytes:
    try:
        return sock.recv(_ROOM, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except (BlockingIOError, ConnectionResetError):
        return b""


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pid", type=int)
    parser.add_argument("log")
    parser.add_argument("--threads", action="store_true")
    parser.add_argument("--forks", action="store_true")
    parser.add_argument("--late", action="store_true")
    parser.add_argument("--file", action="append", default=[])
    parser.add_argument("--kill", nargs=2, metavar=("NUMBER", "NAME"))
    parser.add_argument("--stop", nargs=2, metavar=("NUMBER", "NAME"))
    asked = parser.parse_args()
    log = os.open(asked.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    point = asked.kill or asked.stop
    named = (int(point[0]), point[1]) if point else None
    tracer = Tracer(asked.pid, log, named, threads=asked.threads, forks=asked.forks, files=asked.file)
    if asked.stop:
        tracer.stop_instead()
    if asked.late:
        tracer.kill_late()
    tracer.run()


if __name__ == "__main__":
    main()
