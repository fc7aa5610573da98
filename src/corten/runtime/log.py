"""Where the command's one error goes: runc's log file and formats, and stderr.

Callers read the last line of the log whose level is error and show it to their user (containerd's go-runc,
conmon); people read stderr.  With `--log` the text stands in both, as runc does it.
"""

from __future__ import annotations

import posix

from corten.runtime import fast
from corten.sys import files

STDERR_FD = 2


class Log:
    """A log of one invocation.

    Its file is opened, and made, before the verb does anything, as runc does it: raises OSError.
    """

    __slots__ = ("debug_wanted", "fd", "format", "path")

    def __init__(self, path: str, format: str, *, debug_wanted: bool) -> None:
        self.path = path
        self.format = format
        self.debug_wanted = debug_wanted
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND | posix.O_CLOEXEC
        self.fd = posix.open(path, flags, 0o644) if path else STDERR_FD

    def error(self, text: str) -> None:
        """The invocation's last words."""
        self._write("error", text)
        if self.path:
            _write(STDERR_FD, f"{text}\n")

    def warning(self, text: str) -> None:
        """Something that failed and does not fail the verb."""
        self._write("warning", text)

    def debug(self, text: str) -> None:
        """One line for `--debug`."""
        if self.debug_wanted:
            self._write("debug", text)

    def _write(self, level: str, text: str) -> None:
        _write(self.fd, render(level, text, self.format))


def _write(fd: int, text: str) -> None:
    """Text to a descriptor; one that takes nothing more changes neither what is done nor the exit status."""
    try:
        files.write_all(fd, text.encode("utf-8", "surrogateescape"))
    except OSError:
        return  # there is no other place to tell it


def render(level: str, text: str, format: str) -> str:
    """One line as logrus writes it: `json`, or `text` with keys."""
    stamp = fast.rfc3339(nanoseconds=False)
    if format == "json":
        return fast.dumps({"level": level, "msg": text, "time": stamp}) + "\n"
    return f'time="{stamp}" level={level} msg={fast.dumps(text)}\n'
