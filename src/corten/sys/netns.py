"""Network namespaces, made and visited by threads that are used once.

A thread that has entered a namespace never goes back: it ends.  So nothing can be left in the wrong namespace, and
no other thread ever changes.  Only sysctls below /proc/sys/net and sockets are worth the trip: a socket made inside
stays in that namespace and can be used from everywhere afterwards.

Sources: setns(2), unshare(2), network_namespaces(7).
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from corten.sys.libc import fail, function
from corten.sys.namespace import CLONE_NEWNET, raise_loopback, unshare

T = TypeVar("T")
_setns = function("setns")


def setns(fd: int, kind: int) -> None:
    """Moves the calling thread into the namespace behind `fd`; raises OSError.  setns(2)"""
    if _setns(fd, kind) != 0:
        fail()


class _Visit(threading.Thread, Generic[T]):
    """`enter`, then one call: its value or its error."""

    def __init__(self, enter: Callable[[], None], work: Callable[[], T]) -> None:
        super().__init__(name="netns", daemon=True)
        self._enter = enter
        self._work = work
        self.value: list[T] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._enter()
            self.value.append(self._work())
        except BaseException as error:  # outermost of this thread: raised again in the caller's
            self.error = error


def inside(netns_fd: int, work: Callable[[], T]) -> T:
    """Calls `work` in a thread that is in the namespace behind `netns_fd`; returns or raises what it does."""
    return _visit(lambda: setns(netns_fd, CLONE_NEWNET), work)


def make() -> int:
    """A new namespace with `lo` up: a descriptor, the caller's, with whose last copy it ends.  Raises OSError."""
    return _visit(lambda: None, make_and_stay)


def make_and_stay() -> int:
    """As `make`, in this very thread, which is in it from then on and has to end."""
    unshare(CLONE_NEWNET)
    raise_loopback()
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _visit(enter: Callable[[], None], work: Callable[[], T]) -> T:
    visit = _Visit(enter, work)
    try:
        visit.start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, f"network namespace: {error}") from error
    visit.join()
    if visit.error is not None:
        raise visit.error
    return visit.value[0]


def identity(fd: int) -> int:
    """The inode number that names a network namespace (as in `net:[4026531840]`)."""
    return os.fstat(fd).st_ino
