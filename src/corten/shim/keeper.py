"""The zygote's care for its helper: one lives, or who calls for one is told why there is none.

    state     who calls                       becomes
    lives     waits for the helper's accept   by SIGKILL at work or after a long life: lives, the next at once
                                              by SIGKILL before it accepted anybody: the same; twice in a row: pauses
                                              by an end of its own after a long life: lives, the next at once
                                              by an end of its own at its start: pauses
    pauses    is told why, at once            lives, when the pause is over: 1 s, twice as long each time, 30 s at most

A helper that hangs (SIGSTOP) is killed, which its callers know how to live with.  It is suspected when at a look
somebody waits to be accepted; then it is called, and has two more looks to answer.  Looks are counted, not seconds, so
that a zygote that stood still itself judges nobody.  Who was accepted before and hears nothing knocks
(corten.shim.calling), and so waits to be accepted.  One that cannot accept for want of descriptors gives signs of life.

The helper's pipe to the zygote: a NUL is a sign of life, the rest is why it ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time

from corten.shim import protocol
from corten.sys import files

_BACKLOG = 1024
_SHORT_LIFE_S = 10.0  # who ends by itself before has not really started, however slow the machine is
_PAUSE_S = 1.0
_PAUSE_LIMIT_S = 30.0
_LOOK_S = 10.0
_LOOKS = 2
_REASON_BYTES = 3500  # a traceback's end; a pipe takes it whatever the limits are
_UNKNOWN = 1 << 8  # a status: exit, 1
_SIGN = b"\0"
_PIPE_BYTES = 65536  # its signs of life between two looks, too
_KEPT_OPEN = 256  # told callers, who read before they see the end
_BREATH_S = 0.05


class Keeper:
    """Owns the listening socket and what is known of the helper; forking it is the zygote's work.

    Life: `announce` → fork → `started`, in the child `forget` → `turn`s → `ended` → `is_due` → the same again.
    """

    def __init__(self, exec_root: str, epoll: select.epoll) -> None:
        self.listener = protocol.bind_listener(exec_root, protocol.HELPER_SOCKET, _BACKLOG)
        self.pid = 0
        self._exec_root = exec_root
        self._epoll = epoll
        self._reason_fd = -1
        self._words = b""  # of its pipe
        self._has_served = False
        self._began = 0.0
        self._failures = 0  # in a row
        self._was_killed = False  # the one before, before it accepted anybody
        self._next = 0.0  # when the pause is over, or the next look is due
        self._told = ""
        self._refusal = b""
        self._refused: list[socket.socket] = []
        self._call: socket.socket | None = None
        self._silent_looks = 0

    # Starting

    @property
    def is_due(self) -> bool:
        """Whether the next helper is to be forked now."""
        return not self.pid and time.monotonic() >= self._next

    def announce(self) -> int:
        """Before a fork: the descriptor for `confess`, the child's; `started` closes it here.  OSError: no room."""
        self._reason_fd, reason = os.pipe()
        for fd in (self._reason_fd, reason):
            os.set_blocking(fd, False)
        return reason

    def started(self, pid: int, reason: int) -> None:
        """It lives; callers are its own."""
        os.close(reason)
        if self._failures:
            self._let_go()
            self._epoll.unregister(self.listener.fileno())
        self.pid = pid
        self._words = b""
        self._has_served = False
        self._began = time.monotonic()
        self._next = self._began + _LOOK_S

    def not_started(self, why: str, reason: int) -> None:
        """The fork failed, or what comes before it: `reason` is -1 then."""
        for fd in (self._reason_fd, reason):
            if fd >= 0:
                os.close(fd)
        self._reason_fd = -1
        self._fail("", why)

    def forget(self) -> None:
        """In a forked child: what is the zygote's alone.  The listener is left."""
        self._let_go()
        if self._call is not None:  # the zygote, whose epoll this is, goes on waiting for it
            self._call.close()
            self._call = None
        if self._reason_fd >= 0:
            os.close(self._reason_fd)
            self._reason_fd = -1

    # The end of one

    def ended(self, status: int) -> None:
        """The helper was collected, with a status of waitpid(2)."""
        pid, self.pid = self.pid, 0
        self._hang_up()
        self._next = 0.0
        is_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        text = self._confession()
        last = text.rstrip().rpartition("\n")[2] or _how(status)
        is_short = time.monotonic() - self._began < _SHORT_LIFE_S and not (is_killed and self._has_served)
        if is_short and (self._was_killed or self._failures or not is_killed):
            self._was_killed = False
            self._fail(text, last)
            return
        self._was_killed = is_short
        self._failures = 0
        self._told = ""
        _log(f"helper (process {pid}) ended: {_how(status)}", text)

    def look_for_it(self) -> None:
        """After a rehearsal: a played shim collects what it does not know, a dead helper too."""
        if self.pid and not files.exists(f"/proc/{self.pid}"):
            self.ended(_UNKNOWN)

    def _fail(self, text: str, last: str) -> None:
        """Callers are the zygote's until the pause is over; the log has each reason once."""
        pause_s = min(_PAUSE_S * 2.0 ** min(self._failures, 10), _PAUSE_LIMIT_S)
        self._next = time.monotonic() + pause_s
        self._refusal = protocol.encode(
            {"error": {"kind": "unavailable", "text": f"the runtime's helper does not start: {last}"}}
        )
        if not self._failures or last != self._told:
            _log(f"helper does not start, it is tried again and again: {last}", text)
        self._told = last
        self._failures += 1
        with contextlib.suppress(FileExistsError):  # this time it was the fork that failed
            self._epoll.register(self.listener.fileno(), select.EPOLLIN)

    def _confession(self) -> str:
        self._hears()
        os.close(self._reason_fd)
        self._reason_fd = -1
        return self._words.decode(errors="replace")

    def _hears(self) -> bool:
        """Whether the helper gave signs of life since the last time."""
        try:
            heard = os.read(self._reason_fd, _PIPE_BYTES)
        except BlockingIOError:
            return False
        self._words += heard.replace(_SIGN, b"")
        is_sign = _SIGN in heard
        self._has_served = self._has_served or is_sign
        return is_sign

    # Meanwhile

    def patience_s(self) -> float:
        """How long `turn` and `is_due` need not be asked."""
        return max(0.0, self._next - time.monotonic())

    def turn(self, ready: dict[int, int]) -> None:
        """After a wait: callers refused, the helper looked at."""
        if not self.pid:
            if self.listener.fileno() in ready:
                self._refuse()
            return
        if self._call is not None and self._call.fileno() in ready:
            self._hang_up()
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _LOOK_S
            self._look()

    def _refuse(self) -> None:
        has_told = False
        while True:
            try:
                caller, _ = self.listener.accept()
            except BlockingIOError:
                return
            except OSError:  # out of descriptors
                if not has_told:  # else, and if nobody else waits, who was told keeps its connection to read it
                    time.sleep(_BREATH_S)
                    self._let_go()
                return
            with contextlib.suppress(OSError):
                protocol.send(caller, self._refusal)
            self._refused.append(caller)
            has_told = True
            if len(self._refused) > _KEPT_OPEN:
                self._refused.pop(0).close()

    def _look(self) -> None:
        lives = self._hears()
        if self._call is None:
            poll = select.poll()
            poll.register(self.listener.fileno(), select.POLLIN)
            if not poll.poll(0):
                self._silent_looks = 0
                return
            lives = self._call_it() or lives
        self._silent_looks = 1 if lives else self._silent_looks + 1
        if self._silent_looks > _LOOKS:
            _log(f"helper (process {self.pid}) does not answer: killed")
            os.kill(self.pid, signal.SIGKILL)
            self._hang_up()

    def _call_it(self) -> bool:
        """False where so many wait that there is no room, and it is silent for all that is known."""
        try:
            call = protocol.connect(self._exec_root, protocol.HELPER_SOCKET)
        except BlockingIOError:
            return False
        except OSError:  # out of descriptors: no fault of the helper's
            return True
        try:
            protocol.send(call, protocol.encode({"op": "ping"}))
            self._epoll.register(call.fileno(), select.EPOLLIN)
        except OSError:  # it has ended, or hung up on its own
            call.close()
        else:
            self._call = call
        return True

    def _hang_up(self) -> None:
        self._silent_looks = 0
        if self._call is not None:
            self._epoll.unregister(self._call.fileno())  # a shim just forked may have it as well
            self._call.close()
            self._call = None

    def _let_go(self) -> None:
        for caller in self._refused:
            caller.close()
        self._refused = []


def give_sign(reason: int) -> None:
    """In a helper: it lives, and is at work."""
    with contextlib.suppress(OSError):
        os.write(reason, _SIGN)


def confess(reason: int, text: str) -> None:
    """In a helper that ends: why, for the zygote to tell."""
    with contextlib.suppress(OSError):
        os.write(reason, text.encode()[-_REASON_BYTES:])


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"killed by signal {os.WTERMSIG(status)}"
    return f"exit status {os.WEXITSTATUS(status)}"


def _log(line: str, text: str = "") -> None:
    """To cortend's log, if anybody reads it."""
    with contextlib.suppress(OSError):
        os.write(2, f"corten-shim: {line}\n{text}".encode())
