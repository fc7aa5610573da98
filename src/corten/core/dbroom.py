"""The database's own room on the disk: when the disk is full, what must be recorded still can be.

    file      what it needs room for             how it has it
    -wal      frames up to a checkpoint, and     allocated at once; SQLite begins it again after each checkpoint and
              one transaction more               does not delete it at the end, for `Room` is a reader for ever
    database  pages that a checkpoint writes     allocated before the transaction that adds them is committed
              pages that a transaction adds      free ones, which SQLite takes before it adds any
    -shm      32 KiB                             allocated before SQLite maps it and not cut by it, for `Index` has it
                                                 open: the kernel kills who writes to a hole of a mapped file for which
                                                 there is no room (mmap(2), SIGBUS)

fileformat2.html, "The Freelist", "WAL File Format"; walformat.html.  It holds where writing to a place that has been
allocated needs no new one: ext4, xfs, tmpfs; not on a file system that writes everything elsewhere (btrfs, zfs).
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import struct
import time
from contextlib import suppress
from typing import Final

LOG_PAGES: Final = 1000  # wal_autocheckpoint
TRANSACTION_PAGES: Final = 256
FREE_PAGES: Final = 64
_LEAST_FREE_PAGES: Final = FREE_PAGES // 2
_LOG_HEADER_BYTES: Final = 32
_FRAME_HEADER_BYTES: Final = 24
_SHARED_MEMORY_BYTES: Final = 32768
_SHARED_FIRST: Final = 0x40000002  # os.h: bytes that every reader of the database locks
_SHARED_BYTES: Final = 510
_DEAD_MAN_SWITCH: Final = 128  # os_unix.c, UNIX_SHM_DMS: a byte of the -shm that everybody locks who has it open
_INDEX_HEADER_BYTES: Final = 136
_OPENING_S, _OPENING_LOOK_S = 5.0, 0.01  # that somebody else's opening may take: it is a few calls
_AGAIN_S: Final = 10.0  # on a full disk an allocation that fails costs a commit of the file system's journal
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)


class Index:
    """The file that SQLite maps: whole, empty and in use before SQLite comes.

    Who opens a database as the first one cuts this file to nothing and lets it grow again, page by page, which a full
    disk may refuse, or grant a part of (os_unix.c, unixLockSharedMemory).  What is in it is made from the log then.
    """

    def __init__(self, path: str) -> None:
        """Raises OSError when there is no room for it."""
        self.fd = os.open(f"{path}-shm", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._prepare()
        except BaseException:
            os.close(self.fd)
            raise

    def _prepare(self) -> None:
        """Who opens the database at this moment as the first one (`corten doctor`) has the file for himself."""
        end_s = time.monotonic() + _OPENING_S
        while True:
            try:
                return self._join()
            except (BlockingIOError, PermissionError):
                if time.monotonic() > end_s:
                    raise
            time.sleep(_OPENING_LOOK_S)

    def _join(self) -> None:
        with suppress(BlockingIOError, PermissionError):  # others have the database open, and so the file is in use
            _lock(self.fd, fcntl.F_WRLCK, _DEAD_MAN_SWITCH, 1)
            os.ftruncate(self.fd, min(os.fstat(self.fd).st_size, _SHARED_MEMORY_BYTES))
            _write_zeros(self.fd, _SHARED_MEMORY_BYTES)
        _lock(self.fd, fcntl.F_RDLCK, _DEAD_MAN_SWITCH, 1)

    def is_written_back(self) -> bool:
        """Whether a checkpoint has had every frame (walformat.html, "The WAL-Index File Format")."""
        header = os.pread(self.fd, _INDEX_HEADER_BYTES, 0)
        last_frame, written_back = (struct.unpack_from("=I", header, offset)[0] for offset in (16, 96))
        return bool(last_frame == written_back)


class Room:
    """Of one open database in WAL mode.  The caller holds the lock of the connection at every call."""

    def __init__(self, path: str, connection: sqlite3.Connection, index: Index) -> None:
        """Takes what there is; on a disk that is full already the rest later, by `top_up`."""
        self._connection = connection
        self._page_bytes = self._number("page_size")
        self._pages = self._wanted = 0  # that have their place in the file; that the transaction under way needs
        self._again_s = 0.0
        self._is_whole = False
        # POSIX locks of the whole process on a file end with any descriptor of it: `close` comes after the connection's
        self._index = index
        self._file_fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.log_fd = os.open(f"{path}-wal", os.O_RDWR | os.O_CLOEXEC)
        # As a reader of its own, who goes last: who closes a database leaves the log to him (wal.c, sqlite3WalClose)
        _lock(self._file_fd, fcntl.F_RDLCK, _SHARED_FIRST, _SHARED_BYTES)
        connection.execute(f"PRAGMA wal_autocheckpoint={LOG_PAGES}")

    def close(self) -> None:
        """Lets go of the files.  After the connection.  A log all of which is in the database is struck out.

        As SQLite removes it, so that nobody who puts an older copy of the database in place gets parts of this one.
        """
        with suppress(OSError):  # somebody reads
            _lock(self._file_fd, fcntl.F_WRLCK, _SHARED_FIRST, _SHARED_BYTES)
            if self._index.is_written_back():
                os.pwrite(self.log_fd, bytes(_LOG_HEADER_BYTES), 0)
        for fd in (self._file_fd, self.log_fd, self._index.fd):
            os.close(fd)

    def before_commit(self) -> None:
        """The pages that the transaction adds get their place in the file; OSError when there is none.

        A checkpoint that found none would let the log grow for ever.
        """
        self._wanted = self._number("page_count")
        if self._wanted > self._pages:
            _allocate(self._file_fd, self._wanted * self._page_bytes)

    def committed(self) -> None:
        """A checkpoint cuts the file behind the last page that is committed: what failed has no place there."""
        self._pages = self._wanted
        self.top_up()

    def refused(self) -> None:
        """As long as the log is not whole: the next transaction begins it again, where it has room already."""
        if not self._is_whole:
            with suppress(sqlite3.DatabaseError):
                self._connection.execute("PRAGMA wal_checkpoint")

    def top_up(self) -> None:
        """What is missing, if the disk has it.  Never an error: nobody asked for it."""
        if time.monotonic() < self._again_s:
            return
        try:
            free = self._number("freelist_count")
            log_bytes = _LOG_HEADER_BYTES + (LOG_PAGES + TRANSACTION_PAGES) * (self._page_bytes + _FRAME_HEADER_BYTES)
            if os.fstat(self.log_fd).st_size < log_bytes:  # also when somebody has cut it (wal_checkpoint(TRUNCATE))
                self._is_whole = False
            if self._is_whole and free >= _LEAST_FREE_PAGES:
                return
            _allocate(self.log_fd, log_bytes)
            self._is_whole = True
            if free < _LEAST_FREE_PAGES:  # a start writes nothing that the last one has written
                self._add_free(FREE_PAGES - free)
        except (OSError, sqlite3.DatabaseError):
            self._again_s = time.monotonic() + _AGAIN_S

    def _add_free(self, count: int) -> None:
        """A value that is large, and goes again."""
        _allocate(self._file_fd, (self._number("page_count") + count) * self._page_bytes)
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            size = (count - 1) * self._page_bytes
            self._connection.execute("INSERT INTO meta VALUES ('room', CAST(zeroblob(?) AS TEXT))", (size,))
            self._connection.execute("DELETE FROM meta WHERE key = 'room'")
            self.before_commit()
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self._pages = self._wanted

    def _number(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])


def is_no_room(error: OSError) -> bool:
    """Whether it says that the disk is full, or the owner's share of it."""
    return error.errno in _NO_ROOM


def _allocate(fd: int, size: int) -> None:
    """The file is `size` bytes long at least, without holes.

    What is there is not asked for again: xfs wants the room for all of it, also for what is allocated already.
    """
    found = os.fstat(fd)
    start = found.st_size if found.st_blocks * 512 >= found.st_size else 0
    if start < size:
        os.posix_fallocate(fd, start, size - start)


def _write_zeros(fd: int, size: int) -> None:
    """In the blocks that are there, and in new ones; raises OSError."""
    done = 0
    while done < size:
        done += os.pwrite(fd, bytes(size - done), done)


def _lock(fd: int, kind: int, start: int, size: int) -> None:
    """Of the open file description: it does not end with somebody else's descriptor (fcntl(2)).  Raises OSError."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, size, 0))
