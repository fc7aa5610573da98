"""`--pidfd-socket`: hands a pidfd of the new process to whoever listens on a unix socket, as runc does since 1.2.

One message on a stream: the word of the kind of launch, and the descriptor beside it (unix(7), SCM_RIGHTS).
"""

from __future__ import annotations

import posix

from corten.errors import InvalidArgument, NotFound
from corten.runtime import fast
from corten.sys import files


class PidfdSocket:
    """The caller's socket, connected before anything is made."""

    __slots__ = ("_fd", "_path")

    def __init__(self, path: str) -> None:
        """Raises NotFound when nobody listens there."""
        self._path = path
        try:
            self._fd = fast.connect_in_time(files.absolute(path))
        except OSError as error:
            raise NotFound(f"pidfd socket {path}: {files.why(error)}") from error

    def send_init(self, pidfd: int) -> None:
        """The init of a new container; raises InvalidArgument when the listener has gone."""
        self._send(b"standard", pidfd)

    def send_exec(self, pidfd: int) -> None:
        """The process of an exec; raises InvalidArgument when the listener has gone."""
        self._send(b"setns", pidfd)

    def _send(self, kind: bytes, pidfd: int) -> None:
        try:
            fast.send_fd(self._fd, kind, pidfd)
        except OSError as error:
            raise InvalidArgument(f"pidfd socket {self._path}: {files.why(error)}") from error
        finally:
            posix.close(self._fd)
