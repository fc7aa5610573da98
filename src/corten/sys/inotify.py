"""inotify(7): be told that files change, by descriptor."""

from __future__ import annotations

import os
import struct

from corten.sys.libc import fail, function

IN_MODIFY = 0x2
IN_MOVED_FROM = 0x40
IN_CREATE = 0x100
IN_DELETE_SELF = 0x400
IN_Q_OVERFLOW = 0x4000
_BUFFER_BYTES = 64 << 10
_EVENT = struct.Struct("iIII")  # wd, mask, cookie, length of the name


class Watch:
    """One watched directory; `fileno` becomes readable when something in it changed.  Owns its descriptor."""

    def __init__(self, directory: str, mask: int = IN_MODIFY | IN_CREATE | IN_MOVED_FROM | IN_DELETE_SELF) -> None:
        """Raises OSError: the directory is missing, or the user's watches are used up."""
        self._fd: int = function("inotify_init1")(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            fail()
        if function("inotify_add_watch")(self._fd, os.fsencode(directory), mask) < 0:
            os.close(self._fd)
            fail(directory)

    def fileno(self) -> int:
        """For select and asyncio's add_reader."""
        return self._fd

    def drain(self) -> list[tuple[int, bytes]]:
        """(mask, name) of what was told so far, oldest first; IN_Q_OVERFLOW where more was than the kernel keeps."""
        found: list[tuple[int, bytes]] = []
        try:
            while data := os.read(self._fd, _BUFFER_BYTES):
                found += _events(data)
        except BlockingIOError:
            pass
        return found

    def close(self) -> None:
        """Stop watching; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _events(data: bytes) -> list[tuple[int, bytes]]:
    found, place = [], 0
    while place < len(data):
        _, mask, _, length = _EVENT.unpack_from(data, place)
        place += _EVENT.size
        found.append((mask, data[place : place + length].rstrip(b"\0")))
        place += length
    return found
