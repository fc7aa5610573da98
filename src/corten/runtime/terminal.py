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
    from collections.abc import Mapping
    from typing import Any

STDIN_FD, STDOUT_FD = 0, 1
EIO = 5
WINSIZE_BYTES = 8
PIECE_BYTES = 1024  # given to the terminal between two looks at its output: it drops echo that nobody fetches
# what is fetched after the process's end, so that this ends whatever somebody whom the process left behind goes on
# writing; no pty holds as much (drivers/tty/pty.c: 8192 bytes; measured with those on their way: up to 20512)
LEFT_BYTES = 1 << 17
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
    """Copies between our stdio and a pty's master, which it owns; our own terminal is raw between open and close.

    Nothing blocks before `close`, so that signals are passed on: each way waits until what was read has been taken.

    stdin   → _input  → master    no more is read once nobody has the terminal open; a file's waits for its echo
    master  → _output → stdout    goes nowhere once nobody takes it, so that the process is not held up for ever
    """

    __slots__ = (
        *("_before", "_input", "_input_open", "_master_open", "_output", "_output_taken", "_typed", "_watched"),
        "master",
    )

    def __init__(self, master: int) -> None:
        self.master = master
        self._before: list[Any] | None = None
        self._input = self._output = b""
        self._input_open = self._master_open = self._output_taken = True
        self._typed = False
        self._watched: dict[int, int] = {}

    def open(self, poll: select.poll) -> None:
        """Makes our terminal raw, if stdin is one, gives its size to the pty, and joins the poll."""
        posix.set_blocking(self.master, False)
        self._typed = posix.isatty(STDIN_FD)
        if self._typed:
            self._before = termios.tcgetattr(STDIN_FD)
            termios.tcsetattr(STDIN_FD, termios.TCSANOW, raw(self._before))
            self.resize()
        self._watch(poll)

    def resize(self) -> None:
        """Gives the size of our terminal to the pty."""
        if posix.isatty(STDIN_FD):
            size = fcntl.ioctl(STDIN_FD, termios.TIOCGWINSZ, bytes(WINSIZE_BYTES))
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)

    def copy(self, ready: Mapping[int, int], poll: select.poll) -> None:
        """One round of copying for the descriptors that are ready, each with its events."""
        events = ready.get(self.master, 0)
        if events & select.POLLHUP:
            self._input, self._input_open = b"", False
        if events and self._master_open and not self._output:
            self._read_output()
        if STDOUT_FD in ready:
            self._write_output(select.PIPE_BUF)  # which a pipe that is ready takes at once
        if STDIN_FD in ready and self._input_open:
            self._read_input()
        if self._takes_input():
            self._write_input()
        self._watch(poll)

    def _watch(self, poll: select.poll) -> None:
        """Asks for what can be gone on with, and for nothing else: a hang-up that cannot be helped is no event."""
        reads = self._master_open and not self._output
        wanted = {
            self.master: (select.POLLIN if reads else 0) | (select.POLLOUT if self._takes_input() else 0),
            STDIN_FD: select.POLLIN if self._input_open and not self._input else 0,
            STDOUT_FD: select.POLLOUT if self._output else 0,
        }
        for fd, events in wanted.items():
            if events != self._watched.get(fd, 0):
                if events:
                    poll.register(fd, events)
                else:
                    poll.unregister(fd)
        self._watched = wanted

    def _takes_input(self) -> bool:
        """Whether the terminal gets more now: not from a file while its echo waits; what somebody types always does."""
        return bool(self._input) and (not self._output or self._typed)

    def _read_input(self) -> None:
        try:
            data = posix.read(STDIN_FD, files.CHUNK_BYTES)
        except OSError:
            data = b""  # a terminal that was hung up
        self._input = data or EOT
        self._input_open = bool(data)

    def _write_input(self) -> None:
        try:
            self._input = self._input[posix.write(self.master, self._input[:PIECE_BYTES]) :]
        except BlockingIOError:
            return  # the process has not read what is there

    def _read_output(self) -> int:
        """Takes what the process wrote; how much, 0 when there is nothing, or nobody with the terminal open (EIO)."""
        try:
            data = posix.read(self.master, files.CHUNK_BYTES)
        except BlockingIOError:
            return 0  # somebody whom the process left behind may have it open
        except OSError as error:
            if error.errno != EIO:
                raise
            self._master_open = False
            return 0
        self._output = data if self._output_taken else b""
        return len(data)

    def _write_output(self, most: int) -> None:
        try:
            self._output = self._output[posix.write(STDOUT_FD, self._output[:most]) :]
        except BlockingIOError:
            pass  # the caller's stdout is a non-blocking one, and full
        except OSError:
            self._output, self._output_taken = b"", False

    def close(self) -> None:
        """Passes on what is left, and gives our terminal back as it was."""
        poll = select.poll()
        poll.register(STDOUT_FD, select.POLLOUT)
        left = LEFT_BYTES
        try:
            while self._output or left > 0:
                if self._output:
                    poll.poll()
                    self._write_output(files.CHUNK_BYTES)
                else:
                    left -= self._read_output() or left  # nothing there is the end
        finally:
            posix.close(self.master)
            if self._before is not None:
                _give_back(self._before)


def _give_back(before: list[Any]) -> None:
    try:
        termios.tcsetattr(STDIN_FD, termios.TCSADRAIN, before)
    except termios.error:
        return  # it was hung up


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
