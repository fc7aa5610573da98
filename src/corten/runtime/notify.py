"""sd_notify(3) for containers: with $NOTIFY_SOCKET in the runtime's environment, a container has such a socket as well.

    <root>/<id>/notify/notify.sock     bound by `start`, or by `run`; its directory is /run/notify of the container

What the process says of itself is not passed on as it is: `READY=1` is, with the pid of the process that a service
manager should watch; then the command waits until the manager has taken it (`BARRIER=1`).  All as runc does it.
"""

from __future__ import annotations

import _socket
import posix
import select

from corten.errors import Unavailable
from corten.runtime import fast
from corten.spec.runtime import Mount
from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.spec.process import Process
    from corten.spec.runtime import Config

VARIABLE = b"NOTIFY_SOCKET"
INSIDE = "/run/notify"
NAME, SOCKET = "notify", "notify.sock"
READY = b"READY="
TIMEOUT_S = 30
MESSAGE_BYTES = 4096


class Notify:
    """One container's socket, and the way to the manager's.  Owns its descriptor until `close`."""

    __slots__ = ("_host", "_stream")

    def __init__(self) -> None:
        self._host = posix.environ[VARIABLE].decode("utf-8", "surrogateescape")
        self._stream = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC, 0)

    def add(self, config: Config, process: Process, directory: str) -> None:
        """The mount and the variable for a container whose state is in `directory`."""
        options = ("bind", "nosuid", "noexec", "nodev", "ro")
        config.mounts = (*config.mounts, Mount(INSIDE, "", f"{directory}/{NAME}", options))
        process.env = (*process.env, f"{VARIABLE.decode()}={INSIDE}/{SOCKET}")

    def make_directory(self, directory: str) -> None:
        """What the mount shows; the socket comes into it before the process is executed."""
        posix.mkdir(f"{directory}/{NAME}", 0o755)

    def bind(self, directory: str) -> bool:
        """The socket, which every user may write to; False where the container was created without one."""
        try:
            place = posix.open(f"{directory}/{NAME}", posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
        except FileNotFoundError:
            return False
        before = posix.umask(0)  # and no chmod: the container shows the directory, by then it might be a link
        try:
            self._stream.bind(f"/proc/self/fd/{place}/{SOCKET}")
        except OSError as error:
            raise Unavailable(f"notify socket {directory}/{NAME}/{SOCKET}: {files.why(error)}") from error
        finally:
            posix.umask(before)
            posix.close(place)
        return True

    def fileno(self) -> int:
        """For poll."""
        return self._stream.fileno()

    def close(self) -> None:
        """Nobody is listened to any more."""
        self._stream.close()

    def take(self, pid: int) -> bool:
        """Reads one message; True once the process was ready and the manager knows, with `pid` to watch."""
        message = self._stream.recv(MESSAGE_BYTES)
        if not message.startswith(READY):
            return False
        line = next(row for row in message.split(b"\n") if row.startswith(READY))
        self._tell(line, pid)
        return True

    def wait(self, pidfd: int, pid: int) -> None:
        """Until the process `pid` is ready or has ended."""
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(self.fileno(), select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if (self.fileno() in ready and self.take(pid)) or pidfd in ready:
                return

    def _tell(self, line: bytes, pid: int) -> None:
        host = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC, 0)
        try:
            # a struct timeval: a manager that reads nothing fills its queue, and holds up nobody for longer
            host.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, TIMEOUT_S.to_bytes(8, "little") + bytes(8))
            host.connect("\0" + self._host[1:] if self._host.startswith("@") else self._host)
            host.send(line + b"\n")
            host.send(b"MAINPID=%d\n" % pid)
            reading, writing = posix.pipe()
            try:
                try:
                    fast.send_fd(host.fileno(), b"BARRIER=1", writing)
                finally:
                    posix.close(writing)
                poll = select.poll()
                poll.register(reading, 0)
                if not poll.poll(TIMEOUT_S * 1000):
                    raise Unavailable(f"notify socket {self._host}: no answer to BARRIER=1")
            finally:
                posix.close(reading)
        except OSError as error:
            raise Unavailable(f"notify socket {self._host}: {files.why(error)}") from error
        finally:
            host.close()
