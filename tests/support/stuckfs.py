"""A file system that does not answer: FUSE, spoken by hand (linux/fuse.h), whose lookups wait until `release`.

A lookup that it has taken holds the thread that asks even when that is killed (`D`); one that it is too deaf to take
lets go of a thread that is killed.
"""

from __future__ import annotations

import os
import select
import shutil
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from corten.sys import mount
from support.process import wait_for

_LOOKUP, _FORGET, _GETATTR, _INIT, _INTERRUPT, _BATCH_FORGET = 1, 2, 3, 26, 36, 42
_ENOENT, _ENOSYS = 2, 38
_HEADER = struct.Struct("<IIQQIIII")
_ANSWER = struct.Struct("<IiQ")
_MNT_DETACH = 2


def _attributes(inode: int) -> bytes:
    return struct.pack("<6Q10I", inode, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)


class StuckFs:
    """Mounted on a directory of its own; a context manager.

    Nothing is in it, or, where it `has_all`, a directory under every name.
    """

    def __init__(self, folder: Path, *, has_all: bool = False) -> None:
        self._has_all = has_all
        self.path = folder / "stuck"
        self.path.mkdir()
        self.asked = threading.Event()
        self._held: list[int] = []
        self._is_deaf = self._is_released = self._is_over = False
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        mount.mount("stuck", str(self.path), "fuse", 0, f"fd={self._fd},rootmode=40000,user_id=0,group_id=0")
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._is_over:
            if not select.select([self._fd], [], [], 0.05)[0]:
                continue
            if self._is_deaf:
                self.asked.set()
                time.sleep(0.01)
                continue
            try:
                request = os.read(self._fd, 1 << 18)
            except BlockingIOError:  # the request was interrupted meanwhile
                continue
            except OSError:  # unmounted
                return
            _, code, unique, *_ = _HEADER.unpack_from(request)
            if code == _LOOKUP and not self._is_released:
                self._held.append(unique)
                self.asked.set()
            elif code not in (_FORGET, _BATCH_FORGET, _INTERRUPT):
                self._answer(unique, code)

    def _answer(self, unique: int, code: int) -> None:
        error, body = -_ENOSYS, b""
        if code == _INIT:
            error, body = 0, struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 0, 0, 1 << 16, 1, 0, 0, 0)
        elif code == _GETATTR:
            error, body = 0, struct.pack("<QII", 3600, 0, 0) + _attributes(1)
        elif code == _LOOKUP and self._has_all:
            error, body = 0, struct.pack("<QQQQII", 2, 0, 0, 0, 0, 0) + _attributes(2)  # asked again every time
        elif code == _LOOKUP:
            error = -_ENOENT
        try:
            os.write(self._fd, _ANSWER.pack(_ANSWER.size + len(body), error, unique) + body)
        except OSError:  # interrupted, nobody waits
            return

    def hold(self) -> None:
        """No lookup is answered until `release`."""
        self.asked.clear()
        self._is_released = False

    def deafen(self) -> None:
        """Nothing is even taken until `release`."""
        self.asked.clear()
        self._is_deaf = True

    def release(self) -> None:
        """Every lookup is answered from now on."""
        self._is_released, self._is_deaf = True, False
        while self._held:
            self._answer(self._held.pop(), _LOOKUP)

    def __enter__(self) -> StuckFs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        mount.umount(str(self.path), _MNT_DETACH)
        self._is_over = True
        self._thread.join()
        os.close(self._fd)  # whoever has it mounted still gets an error
        wait_for(self._is_removed, f"end of {self.path}")

    def _is_removed(self) -> bool:
        """False while somebody who had waited for an answer makes in it what he wanted to make."""
        with suppress(OSError):
            shutil.rmtree(self.path)
        return not self.path.exists()
