"""The zygote: a process that has everything loaded and forks shims in about a millisecond.

cortend executes it once (never forks: it has threads) with one end of a SEQPACKET socketpair.  Requests:

    fork   {dir, tenant, id}  →  {pid} and a descriptor: a connection to the new shim, which serves it at once
    ping   {}                 →  {}

It ends at the end of the control socket; shims go on, and a new cortend starts a new zygote.

Its first child is the helper (corten.shim.helper), which has what a shim must not carry; a new one is forked when it
dies (corten.shim.keeper).  The zygote listens for it, so that a shim that calls in between waits and is not refused.

A request with `until` (seconds of CLOCK_MONOTONIC) that is read later than that is refused: who sent it has given up.
"""

from __future__ import annotations

import math
import os
import select
import signal
import socket
import time
import traceback
from types import FrameType

from corten import errors
from corten.errors import CortenError, Internal, InvalidArgument, Unavailable
from corten.runtime import hostfacts
from corten.shim import protocol, resolver, shim
from corten.shim.complain import complain
from corten.shim.keeper import Keeper, confess
from corten.shim.protocol import Message
from corten.shim.rehearsal import ROUNDS, Rehearsal
from corten.shim.request import Request
from corten.shim.rest import Rest
from corten.sys import files, prctl

OOM_SCORE_ADJ = -999
_GO_ON = signal.SIGCONT  # at the parent's death: one that was stopped sees it too, and ends


class Born(Exception):
    """Raised in a forked shim, with what `become_shim` wants: the zygote's frames would keep pages of its own."""


class BornResolver(Exception):
    """The same in a forked resolver, with its first connection."""


class Zygote:
    """Owns the control socket and the helper's keeper."""

    def __init__(self, control: socket.socket, exec_root: str) -> None:
        self._control = control
        self._exec_root = exec_root
        self.facts = hostfacts.gather()
        self.rest = Rest()
        self._epoll = select.epoll()
        self._keeper = Keeper(exec_root, self._epoll)
        self._life_read, self._life = os.pipe()  # ends with this process alone
        self._title = prctl.Title()
        self._wakeup, send = os.pipe()
        for fd in (self._wakeup, send):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(send, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _nothing)
        self._wakeup_send = send

    def run(self) -> None:
        """Until the control socket ends."""
        self._epoll.register(self._control.fileno(), select.EPOLLIN)
        self._epoll.register(self._wakeup, select.EPOLLIN)
        while True:
            ready = dict(self.rest.poll(self._epoll, self._keeper.patience_s()))
            if self._wakeup in ready:
                os.read(self._wakeup, 4096)
            self._collect()  # in any case: a debugger that lets go may have kept the signal
            self._keeper.turn(ready)
            if self._keeper.is_due:
                self.start_helper()
            if self._control.fileno() in ready and not self._serve():
                return  # the helper may stay, and be found

    def start_helper(self, rehearsal: Rehearsal | None = None) -> None:
        """Fork the helper; its imports and its play take place in it."""
        reason = -1
        try:
            reason = self._keeper.announce()
            pid = os.fork()
        except OSError as error:
            self._keeper.not_started(f"fork: {files.why(error)}", reason)
            return
        if pid:
            self._keeper.started(pid, reason)
            return
        status = 1
        try:
            self._forget()
            self.rest.forget()
            os.close(self._life)
            self._title.write(f"corten-shim helper {self._exec_root}")
            prctl.set_death_signal(_GO_ON)
            if rehearsal is not None:
                rehearsal.leave()
            from corten.shim import warmup

            warmup.run(self._keeper.listener, self._life_read, reason, self.facts, rehearsal, exec_root=self._exec_root)
            status = 0
        except Exception:  # the child's outermost loop
            confess(reason, traceback.format_exc())
        finally:
            os._exit(status)

    def prepare(self) -> None:
        """Helper, rehearsal, and the heap as it is shared from then on."""
        rehearsal = Rehearsal(self.facts)
        self.start_helper(rehearsal)
        rehearsal.play()
        self._keeper.look_for_it()
        self._play(rehearsal.directory)
        rehearsal.leave()
        rehearsal.close()
        self.rest.take_base()

    def _play(self, directory: str) -> None:
        """Fork shims that are let go at once, for the sake of what they share: see corten.shim.rehearsal."""
        control = self._control
        peer, self._control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with peer, self._control:
            for _ in range(ROUNDS):
                protocol.send(
                    peer, protocol.encode({"op": "fork", "seq": 1, "dir": directory, "tenant": "-", "id": "-"})
                )
                self._serve()
                body, fds = protocol.receive(peer)
                protocol.close_all(fds)
                os.waitpid(protocol.decode(body)["ok"]["pid"], 0)
        self._control = control

    def _serve(self) -> bool:
        """One request; False at the end of the socket."""
        try:
            body, fds = protocol.receive(self._control)
        except InvalidArgument as error:
            self._answer(None, {"error": protocol.failure(error)})
            return True
        except OSError:
            return False
        protocol.close_all(fds)
        if not body:
            return False
        seq: object = None
        try:
            message = protocol.decode(body)
            seq = message.get("seq")
            if time.monotonic() > message.get("until", math.inf):
                raise Unavailable("nobody waits for it")
            self._handle(Request(message, []))
        except CortenError as error:
            self._answer(seq, {"error": protocol.failure(error)})
        except OSError as error:
            self._answer(seq, {"error": protocol.failure(Internal(files.why(error)))})
        return True

    def _handle(self, request: Request) -> None:
        if request.op == "fork":
            self._fork(request)
        elif request.op == "names":
            self._fork_resolver(request)
        elif request.op == "ping":
            self._answer(request.seq, {"ok": {}})
        else:
            raise errors.NotImplemented(f"unknown op {request.op!r}")

    def _fork(self, request: Request) -> None:
        directory = request.string("dir")
        tenant, id = request.string("tenant"), request.string("id")
        if not files.is_directory(directory):
            raise InvalidArgument(f"dir: {directory!r} is not a directory")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            pid = os.fork()
            if pid == 0:
                raise Born(directory, tenant, id, socket.socket(fileno=theirs.detach()))
            self._answer(request.seq, {"ok": {"pid": pid}}, (ours.fileno(),))

    def _fork_resolver(self, request: Request) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            pid = os.fork()
            if pid == 0:
                raise BornResolver(socket.socket(fileno=theirs.detach()))
            self._answer(request.seq, {"ok": {"pid": pid}}, (ours.fileno(),))

    def become_resolver(self, first: socket.socket) -> None:
        """In the child; does not return."""
        status = 1
        try:
            self._forget()
            self._keeper.listener.close()
            os.close(self._life)
            os.close(self._life_read)
            os.setsid()
            self._title.write(f"{resolver.TITLE} {self._exec_root}")
            resolver.run(self._exec_root, first, self.rest)
            status = 0
        except Exception as error:  # the child's outermost loop
            complain(error)
        finally:
            os._exit(status)

    def become_shim(self, directory: str, tenant: str, id: str, first: socket.socket) -> None:
        """In the child; does not return."""
        status = 1
        try:
            self._forget()
            self._keeper.listener.close()
            os.close(self._life)
            os.close(self._life_read)
            shim.run(directory, tenant, id, self.facts, self._exec_root, first, self._title, self.rest)
            status = 0
        except Exception as error:  # the child's outermost loop
            complain(error)
        finally:
            os._exit(status)

    def _forget(self) -> None:
        """Drop what a forked child must not keep."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._control.close()
        self._keeper.forget()
        self._epoll.close()
        os.close(self._wakeup)
        os.close(self._wakeup_send)

    def _collect(self) -> None:
        """Reap dead shims, and the helper."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._keeper.pid:
                self._keeper.ended(status)

    def _answer(self, seq: object, answer: Message, fds: tuple[int, ...] = ()) -> None:
        protocol.send(self._control, protocol.encode({"seq": seq, **answer}), fds)


def run(control_fd: int, exec_root: str) -> int:
    """The program `corten-shim --zygote`; returns its exit status."""
    protect_from_oom()
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(signum, _nothing)  # cortend's end ends the zygote, a container's end its shim, and nothing else
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    prctl.set_name("corten-shim")
    prctl.set_death_signal(_GO_ON)
    control = socket.socket(fileno=control_fd)
    os.set_inheritable(control_fd, False)
    zygote = Zygote(control, exec_root)
    life: tuple[str, str, str, socket.socket] | None = None
    first: socket.socket | None = None
    try:
        zygote.prepare()
        zygote.run()
    except BrokenPipeError:  # cortend died before it read an answer
        return 0
    except Born as born:
        life = born.args
    except BornResolver as born:
        (first,) = born.args
    if first is not None:
        zygote.become_resolver(first)
    if life is not None:
        zygote.become_shim(*life)
    return 0


def protect_from_oom() -> None:
    """Shims go last; without the right to lower the score (CAP_SYS_RESOURCE) it stays as it is."""
    try:
        files.write("/proc/self/oom_score_adj", str(OOM_SCORE_ADJ))
    except PermissionError:
        return


def _nothing(signum: int, frame: FrameType | None) -> None:
    """Not SIG_IGN, which would be inherited by what is launched."""
