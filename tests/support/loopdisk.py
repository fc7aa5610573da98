"""An ext4 of its own, on a file: of a size that can be filled, and with a journal.

A file system without one, which a test machine may have, searches past every inode that was removed in the last
minutes: whoever unpacks after a large removal pays for it.
"""

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType

from support import paths, process

MIB = 1 << 20
_OPTIONS = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
_OVERHEAD = 1 << 20  # of a file that is nearly as large as the disk


class LoopDisk:
    """Mounted at `path`, which is short (unix(7): engines bind sockets below it); a context manager that removes it."""

    def __init__(self, size_mib: int, *, number: int = 0, block_bytes: int = 4096) -> None:
        """`number` tells apart those that one process has at a time."""
        self.path = Path(f"/tmp/{paths.mark()}d{number}")
        self._file = self.path.with_suffix(".img")
        self._ballast = self.path / "ballast"
        self.path.mkdir(mode=0o755)
        try:
            with self._file.open("wb") as file:
                file.truncate(size_mib * MIB)
            subprocess.run(
                ["mkfs.ext4", "-q", "-b", str(block_bytes), "-E", _OPTIONS, "-m", "0", self._file], check=True
            )
            subprocess.run(["mount", "-o", "loop", self._file, self.path], check=True)
        except subprocess.CalledProcessError:
            self._remove()
            raise

    @property
    def used(self) -> int:
        """Bytes in use."""
        found = os.statvfs(self.path)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Takes all the room there is but about `leave` bytes, in a file that `empty` removes."""
        found = os.statvfs(self.path)
        wanted = found.f_bavail * found.f_frsize - leave - _OVERHEAD
        with self._ballast.open("ab", buffering=0) as file:
            _allocate(file, wanted)
            if not leave:
                _write_to_the_end(file)

    def empty(self) -> None:
        """Gives the room back."""
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Unmounts and removes it; raises CalledProcessError when somebody still uses it."""
        process.unmount_below(self.path)
        self._remove()

    def _remove(self) -> None:
        self._file.unlink(missing_ok=True)
        self.path.rmdir()

    def __enter__(self) -> LoopDisk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _allocate(file: FileIO, wanted: int) -> None:
    """`wanted` bytes, or what others leave of them, who write what they wrote before or go on writing meanwhile."""
    while wanted > 0:
        try:
            os.posix_fallocate(file.fileno(), 0, wanted)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            wanted -= MIB
        else:
            return


def _write_to_the_end(file: FileIO) -> None:
    file.seek(0, os.SEEK_END)
    for size in (1 << 16, 1 << 12, 1 << 10):
        with suppress(OSError):
            while True:
                file.write(bytes(size))
