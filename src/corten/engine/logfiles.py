"""The files of a log, read as one: `PATH.n[.gz]` … `PATH.1`, `PATH`, oldest first, while a shim rotates them.

They are opened together and looked at again, so that the list is of one moment.  A file that is being read is told by
its inode wherever rotation puts it, and also once it is packed: the header names the inode of the plain file
(`shim/packer`).  The inode of a file that is open here is nobody else's, and of several packed files that name it the
newest is meant.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import IO, Final

from corten.engine.logformats import BLOCK_BYTES, Format

_OPEN_ATTEMPTS: Final = 100  # against a writer that rotates all the time
_NUMBERED: Final = re.compile(r"\.([1-9]\d{0,8})(\.gz)?")
_FNAME: Final = 8  # the flag; RFC 1952, 2.3.1
_HEADER_BYTES: Final = 64
# What a reader that is slower than its log keeps open beyond the log's own files, so that it loses nothing.
_KEPT_FILES: Final = 64
_KEPT_BYTES: Final = 256 << 20
_STABLE_ATTEMPTS: Final = 3
_UNBOUNDED: Final = -1
UNKNOWN: Final = -1


def rotated_files(path: str) -> list[str]:
    """The files of a log that exist, oldest first, the current one last.  Of a plain and a packed one the plain."""
    folder, base = os.path.split(path)
    numbers: dict[int, str] = {}
    try:
        names = os.listdir(folder or ".")
    except FileNotFoundError:
        return []
    for name in names:
        if name.startswith(base) and (found := _NUMBERED.fullmatch(name, len(base))):
            number = int(found[1])
            if number not in numbers or not found[2]:
                numbers[number] = os.path.join(folder, name)
    out = [numbers[number] for number in sorted(numbers, reverse=True)]
    return [*out, path] if base in names else out


def size_of(path: str) -> int:
    """Bytes on disk of all files of a log."""
    total = 0
    for name in rotated_files(path):
        try:
            total += os.stat(name).st_blocks * 512
        except FileNotFoundError:
            continue
    return total


class LogPart:
    """One file, open.  `identity` is the inode of the plain file, 0 for a packed one that does not say.

    `missed`: bytes of files that were lost to the reader just before this one, UNKNOWN for a number not known.
    """

    __slots__ = ("_raw", "file", "identity", "inode", "is_packed", "missed")

    def __init__(self, path: str) -> None:
        self.missed = 0
        raw = open(path, "rb", buffering=0)  # noqa: SIM115  # `close` closes it
        self.inode = self.identity = os.fstat(raw.fileno()).st_ino
        self.is_packed = path.endswith(".gz")
        self.file: IO[bytes] = raw
        if self.is_packed:
            self.identity = _named_inode(raw.read(_HEADER_BYTES) or b"")
            raw.seek(0)
            self.file = io.BufferedReader(gzip.GzipFile(fileobj=raw), BLOCK_BYTES)
        self._raw = raw

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return os.fstat(self._raw.fileno()).st_size

    def close(self) -> None:
        self.file.close()
        self._raw.close()


def _named_inode(header: bytes) -> int:
    """FNAME of a gzip header without other fields; 0 where it is not a number."""
    if len(header) < 11 or header[3] != _FNAME:
        return 0
    name = header[10:].partition(b"\0")[0]
    return int(name) if name.isdigit() else 0


def open_parts(path: str) -> list[LogPart]:
    """The files of a log, oldest first: all of one moment, though they are renamed while they are opened."""
    for _ in range(_OPEN_ATTEMPTS):
        parts: list[LogPart] = []
        try:
            names = rotated_files(path)
            for name in names:
                parts.append(LogPart(name))
            if rotated_files(path) == names and [_inode(name) for name in names] == [part.inode for part in parts]:
                return parts
        except FileNotFoundError:
            pass  # renamed between its listing and its opening
        _close_all(parts)
    return []


def _close_all(parts: Iterable[LogPart]) -> None:
    for part in parts:
        part.close()


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return -1


class Reader:
    """Blocks of whole records, from the first wanted to the end of the current file, then on as it grows.

    Every file is held open from the beginning, and each new one from when it is seen: what is rotated away while a
    client reads slowly is still read, once, up to `_KEPT_FILES` and `_KEPT_BYTES`; what is lost beyond that is told
    by `missed`.
    """

    def __init__(self, path: str, format: Format, tail: int = -1, *, follows: bool = True) -> None:
        """Blocks, for packed files for long: they are read to count lines from the end.

        One that does not follow ends where the log ends now, however fast that grows.
        """
        self._path = path
        self._follows = follows
        self._format = format
        self._rest = b""
        self._missed = 0
        self._counter: Callable[[], int] | None = None
        self._newest_at = UNKNOWN  # how many rotations there had been when the newest file was made
        self._lock = threading.Lock()
        self._parts = deque(_from_tail(open_parts(path), format, tail))
        self._left = _UNBOUNDED  # of the last file
        if not follows and self._parts and not self._parts[-1].is_packed:
            self._left = self._parts[-1].size - self._parts[-1].file.tell()

    @property
    def is_slow(self) -> bool:
        """Whether the next `read` unpacks."""
        return bool(self._parts) and self._parts[0].is_packed

    def missed(self) -> int:
        """Bytes of files that were rotated away unread before what `read` gave last, UNKNOWN for a number not known.

        Told once."""
        missed, self._missed = self._missed, 0
        return missed

    def close(self) -> None:
        """Close what is open."""
        _close_all(self._parts)
        self._parts.clear()

    def count(self, counter: Callable[[], int]) -> None:
        """`counter` says how many rotations there have been, since whenever, also in another thread.

        Only who counts knows that a file is missing whose successor is gone as well.
        """
        with self._lock:
            self._counter = counter
            for _ in range(_STABLE_ATTEMPTS):
                before = counter()
                is_current = bool(self._parts) and _inode(self._path) == self._parts[-1].inode
                if is_current and counter() == before:
                    self._newest_at = before
                    return
                self._find_newer()

    def look(self) -> None:
        """Open what is new now, while a client takes its time; nothing while another thread reads."""
        if self._parts and self._follows and self._lock.acquire(blocking=False):
            try:
                self._find_newer()
            finally:
                self._lock.release()

    def read(self) -> bytes:
        """The next block of whole records; empty when there is nothing more now."""
        with self._lock:
            return self._read()

    def _read(self) -> bytes:
        while True:
            if self._follows:
                self._find_newer()
            if not self._parts:
                return b""
            data = self._piece()
            if data:
                data = self._rest + data if self._rest else data
                end = self._format.end_of_whole(data)
                self._rest = data[end:]
                if end:
                    return data[:end]
            elif len(self._parts) > 1:
                self._parts.popleft().close()
                self._rest = b""
                self._missed = _sum(self._missed, self._parts[0].missed)
            elif not self._follows or not self._find_newer():
                return b""

    def _piece(self) -> bytes:
        if len(self._parts) > 1 or self._left == _UNBOUNDED:
            return self._parts[0].file.read(BLOCK_BYTES)
        data = self._parts[0].file.read(min(BLOCK_BYTES, self._left))
        self._left -= len(data)
        return data

    def _find_newer(self) -> bool:
        """Open what came since the newest open file was rotated away; whether there was anything.

        The file itself stays: it may have grown between the last look and its rotation.
        """
        if not self._parts:
            self._parts.extend(open_parts(self._path))
            return bool(self._parts)
        newest = self._parts[-1]
        if _inode(self._path) in (newest.inode, -1):
            return False
        parts, at = self._listed()
        own = max((place for place, part in enumerate(parts) if part.identity == newest.identity), default=-1)
        _close_all(parts[: own + 1])
        newer = parts[own + 1 :]
        if own < 0 and newer and self._is_missing(at, len(newer)):
            newer[0].missed = UNKNOWN
        if newer:
            self._newest_at = at
        self._parts.extend(newer)
        self._forget_oldest()
        return bool(newer)

    def _is_missing(self, at: int, newer: int) -> bool:
        """Whether not only the newest file of then is gone.  When all went too fast to be counted, it is: a reader that
        keeps up, if only just, is told a gap that is none at worst."""
        if self._counter is None:
            return False
        return UNKNOWN in (at, self._newest_at) or self._newest_at < at - newer

    def _listed(self) -> tuple[list[LogPart], int]:
        """The files, and after how many rotations that was; UNKNOWN if nobody counts, or they come too fast to say."""
        if (counter := self._counter) is not None:
            for _ in range(_STABLE_ATTEMPTS):
                before = counter()
                parts = open_parts(self._path)
                if counter() == before:
                    return parts, before
                _close_all(parts)
        return open_parts(self._path), UNKNOWN

    def _forget_oldest(self) -> None:
        """The first is being read; what follows it goes when too much disk is held."""
        while len(self._parts) > 2 and (
            len(self._parts) > _KEPT_FILES or sum(part.size for part in self._parts) > _KEPT_BYTES
        ):
            lost = self._parts[1]
            size = UNKNOWN if lost.is_packed else lost.size
            self._parts[2].missed = _sum(self._parts[2].missed, _sum(lost.missed, size))
            lost.close()
            del self._parts[1]


def _sum(one: int, other: int) -> int:
    return UNKNOWN if UNKNOWN in (one, other) else one + other


def _from_tail(parts: list[LogPart], format: Format, tail: int) -> list[LogPart]:
    """The files from the one on in which the last `tail` records begin, that one at its place; -1 for all records."""
    if tail < 0:
        return parts
    wanted = tail
    for number in range(len(parts) - 1, -1, -1):
        part = parts[number]
        if part.is_packed:
            found = _seek_packed(part.file, format, wanted)
        else:
            offset, found = format.tail_offset(part.file, part.size, wanted)
            part.file.seek(offset)
        wanted -= found
        if wanted <= 0:
            _close_all(parts[:number])
            return parts[number:]
    return parts


def _seek_packed(file: IO[bytes], format: Format, wanted: int) -> int:
    """Put a packed file, which has no way but from its beginning, at its last `wanted` records; how many there are."""
    total = sum(format.count(block) for block in _blocks(file, format))
    file.seek(0)
    skip = total - wanted
    if skip > 0:
        offset = 0
        for block in _blocks(file, format):
            count = format.count(block)
            if count >= skip:
                offset += format.skip(block, skip)
                break
            offset += len(block)
            skip -= count
        file.seek(offset)
    return min(total, wanted)


def _blocks(file: IO[bytes], format: Format) -> Iterable[bytes]:
    rest = b""
    while data := file.read(BLOCK_BYTES):
        data = rest + data
        end = format.end_of_whole(data)
        rest = data[end:]
        if end:
            yield data[:end]
