"""A shim's conversation with the helper (corten.shim.helper, corten.shim.remote)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import sys
import time

from corten.errors import Unavailable
from corten.shim import protocol
from corten.shim.backend import Steps
from corten.shim.loop import Readable, Sleep
from corten.shim.protocol import HELPER_SOCKET, Message

F_ADD_SEALS = 1033
SEALS = 0x1 | 0x2 | 0x4 | 0x8  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE
_CONNECT_S = 5.0  # a zygote that died is replaced in some 100 ms
_CONNECT_PAUSE_S = 0.01
_SILENCE_S = 10.0  # then the helper is knocked at: the zygote sees whether it opens (corten.shim.keeper)
_SHUT_WR = int(socket.SHUT_WR)
_PEEK = int(socket.MSG_PEEK)


class HelperLost(Exception):
    """It died, or ended, before it answered."""


class Call:
    """One session; its socket may be handed back to `run` for the next op."""

    __slots__ = ("_directory", "_given_up", "_knock", "_socket", "has_spawned")

    def __init__(self, directory: str) -> None:
        """`directory`: where the helper's socket lies."""
        self._directory = directory
        self._socket: socket.socket | None = None
        self._knock: socket.socket | None = None
        self._given_up = False
        self.has_spawned = False  # since when an op cannot be tried again

    @property
    def is_open(self) -> bool:
        """Whether there is a helper at the other end that knows of an earlier op."""
        if self._socket is None:
            return False
        try:
            return bool(self._socket.recv(1, _PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def run(
        self, message: bytes, fds: tuple[int, ...], stdio: tuple[int, int, int]
    ) -> Steps[tuple[Message, list[int]]]:
        """One op: (the value of `ok`, descriptors).  Raises the helper's error, Unavailable without one, HelperLost."""
        if self._socket is None:
            self._socket = yield from self._connect()
        sock = self._socket
        try:
            protocol.send(sock, message, fds)
        except OSError:
            raise HelperLost from None
        while True:
            while not (yield Readable(sock.fileno(), _SILENCE_S)):
                self._knock_again()
            self._end_knock()
            try:
                body, received = protocol.receive(sock)
            except BlockingIOError:
                continue
            except OSError:
                body, received = b"", []
            if not body:
                raise HelperLost
            answer = protocol.decode(body)
            for pid in answer.get("reap", ()):
                with contextlib.suppress(ChildProcessError):  # another call that has lost the helper was here before
                    os.waitpid(pid, 0)  # a zombie: the helper has seen it die
            if "do" in answer:
                self._do(answer, received, stdio)
                continue
            if "error" in answer:
                protocol.close_all(received)
                protocol.raise_failure(answer["error"])
            return answer["ok"], received

    def ended(self) -> Steps[None]:
        """Waits for the helper's end of the session."""
        if self._socket is not None:
            yield Readable(self._socket.fileno())

    def wait_ended(self, timeout_ms: int) -> None:
        """The same, blocking."""
        if self._socket is not None:
            poll = select.poll()
            poll.register(self._socket.fileno(), select.POLLIN)
            poll.poll(timeout_ms)

    def give_up(self) -> None:
        """The helper kills and undoes what it is at, and says so."""
        self._given_up = True
        if self._socket is not None:
            self._socket.shutdown(_SHUT_WR)

    def close(self) -> None:
        """A second call does nothing."""
        self._end_knock()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _knock_again(self) -> None:
        self._end_knock()
        try:
            self._knock = protocol.connect(self._directory, HELPER_SOCKET)
        except OSError:  # nobody listens, or too many knock
            return

    def _end_knock(self) -> None:
        if self._knock is not None:
            self._knock.close()
            self._knock = None

    def _connect(self) -> Steps[socket.socket]:
        until = time.monotonic() + _CONNECT_S
        while not self._given_up:  # a helper that is asked then would wait for a launcher that nobody spawns
            try:
                return protocol.connect(self._directory, HELPER_SOCKET)
            except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
                if time.monotonic() > until:
                    break
                yield Sleep(_CONNECT_PAUSE_S)
        raise Unavailable("the runtime's helper does not answer")

    def _do(self, message: Message, fds: list[int], stdio: tuple[int, int, int]) -> None:
        assert self._socket is not None
        try:
            if self._given_up:
                return  # the helper sees the end of its input
            self.has_spawned = True
            answer: Message = {"pid": spawn(message["offsets"], fds, stdio)}
        except OSError as error:
            answer = {"error": {"kind": "internal", "text": f"spawn of the launcher: {os.strerror(error.errno or 0)}"}}
        finally:
            protocol.close_all(fds)
        try:
            protocol.send(self._socket, protocol.encode(answer))
        except OSError:  # seen again by the next receive
            return


def spawn(offsets: list[int], fds: list[int], stdio: tuple[int, int, int]) -> int:
    """Execute the launcher: `fds` are its program, the plan, and what the plan has at `offsets`."""
    program_fd, plan_fd, *inputs = fds
    for offset, fd in zip(offsets, inputs, strict=True):
        os.pwrite(plan_fd, fd.to_bytes(4, sys.byteorder), offset)
    fcntl.fcntl(plan_fd, F_ADD_SEALS, SEALS)
    actions = [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(stdio)]
    # dup2 of a descriptor onto itself clears its close-on-exec flag in the child alone
    actions += [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in (plan_fd, *inputs)]
    argv = ["corten-launch", str(plan_fd)]
    return os.posix_spawn(f"/proc/self/fd/{program_fd}", argv, {}, file_actions=actions, setsigmask=())
