"""Our side of a container's terminal: stdin and stdout on one hand, the pty's master on the other.

Source: termios(3), ioctl_tty(2).
"""

from __future__ import annotations

import fcntl
import posix
import select
import termios

from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STDIN_FD, STDOUT_FD = 0, 1
EIO = 5
WINSIZE_BYTES = 8
EOT = b"\x04"  # what a terminal in canonical mode takes for end of file

IFLAG, OFLAG, CFLAG, LFLAG, CC = 0, 1, 2, 3, 6
RAW_IFLAG_OFF = (
    termios.IGNBRK
    | termios.BRKINT
    | termios.PARMRK
    | termios.ISTRIP
    | termios.INLCR
    | termios.IGNCR
    | termios.ICRNL
    | termios.IXON
)
RAW_LFLAG_OFF = termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN


class Terminal:
    """Copies between our stdio and a pty's master, which it owns; our own terminal is raw between open and close."""

    __slots__ = ("_before", "_input_open", "_master_open", "master")

    def __init__(self, master: int) -> None:
        self.master = master
        self._before: list[Any] | None = None
        self._input_open = True
        self._master_open = True

    def open(self, poll: select.poll) -> None:
        """Makes our terminal raw, if stdin is one, gives its size to the pty, and joins the poll."""
        if posix.isatty(STDIN_FD):
            self._before = termios.tcgetattr(STDIN_FD)
            termios.tcsetattr(STDIN_FD, termios.TCSANOW, raw(self._before))
            self.resize()
        poll.register(self.master, select.POLLIN)
        poll.register(STDIN_FD, select.POLLIN)

    def resize(self) -> None:
        """Gives the size of our terminal to the pty."""
        if posix.isatty(STDIN_FD):
            size = fcntl.ioctl(STDIN_FD, termios.TIOCGWINSZ, bytes(WINSIZE_BYTES))
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)

    def copy(self, ready: set[int], poll: select.poll) -> None:
        """One round of copying for the descriptors that are ready."""
        if self.master in ready and not self._copy_output():
            poll.unregister(self.master)
        if STDIN_FD in ready and self._input_open:
            data = posix.read(STDIN_FD, files.CHUNK_BYTES)
            files.write_all(self.master, data or EOT)
            if not data:
                self._input_open = False
                poll.unregister(STDIN_FD)

    def _copy_output(self) -> bool:
        """Passes on what the process wrote; False once nobody has the terminal open any more (EIO)."""
        try:
            data = posix.read(self.master, files.CHUNK_BYTES)
        except OSError as error:
            if error.errno != EIO:
                raise
            data = b""
        if data:
            files.write_all(STDOUT_FD, data)
        else:
            self._master_open = False
        return bool(data)

    def close(self) -> None:
        """Passes on what is left, and gives our terminal back as it was."""
        posix.set_blocking(self.master, False)
        try:
            while self._master_open and self._copy_output():
                pass
        except BlockingIOError:
            pass  # somebody whom the process left behind still has the terminal open
        finally:
            posix.close(self.master)
            if self._before is not None:
                termios.tcsetattr(STDIN_FD, termios.TCSADRAIN, self._before)


def raw(attributes: list[Any]) -> list[Any]:
    """Terminal attributes as cfmakeraw(3) makes them: the container's terminal does the processing."""
    changed = list(attributes)
    changed[IFLAG] &= ~RAW_IFLAG_OFF
    changed[OFLAG] &= ~termios.OPOST
    changed[LFLAG] &= ~RAW_LFLAG_OFF
    changed[CFLAG] = changed[CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    changed[CC] = list(attributes[CC])
    changed[CC][termios.VMIN] = 1
    changed[CC][termios.VTIME] = 0
    return changed
