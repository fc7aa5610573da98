"""The data root: its directories, the id of the engine that owns it, and the lock that keeps a second engine out.

    content/  snapshots/  containers/  volumes/  corten.db  engine-id  lock

Modes as Docker's: what is inside must not be reachable for users of the host (CVE-2021-41091, CVE-2021-41103).
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from dataclasses import dataclass

from corten.errors import Conflict, Internal

LOCK_NAME = "lock"
_ENGINE_ID = re.compile("[0-9a-f]{8}")
_DIRECTORIES = (("content", 0o700), ("snapshots", 0o710), ("containers", 0o710), ("volumes", 0o701))


@dataclass(frozen=True, slots=True)
class DataRoot:
    """An open data root.  Holds the lock until `close`."""

    path: str
    engine_id: str
    lock_fd: int

    def join(self, *names: str) -> str:
        """A path below it."""
        return os.path.join(self.path, *names)

    def close(self) -> None:
        """Lets go of the lock."""
        os.close(self.lock_fd)


def open_data_root(path: str) -> DataRoot:
    """Makes what is missing and takes the lock.

    Raises:
        Conflict: another process holds the lock; the text names it.
        Internal: the engine-id file says nonsense.
        OSError: of the filesystem.
    """
    path = os.path.abspath(path)
    os.makedirs(path, 0o710, exist_ok=True)
    os.chmod(path, 0o710)
    lock_fd = lock(path)
    try:
        for name, mode in _DIRECTORIES:
            os.makedirs(os.path.join(path, name), mode, exist_ok=True)
            os.chmod(os.path.join(path, name), mode)
        return DataRoot(path, _engine_id(os.path.join(path, "engine-id")), lock_fd)
    except BaseException:
        os.close(lock_fd)
        raise


def lock(path: str) -> int:
    """The descriptor that holds `<path>/lock` exclusively, for as long as it is open (flock(2)).

    Raises Conflict, naming the holder.
    """
    fd = os.open(os.path.join(path, LOCK_NAME), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(fd)
        os.close(fd)
        raise Conflict(f"data root {path} is in use by {holder}") from None
    os.ftruncate(fd, os.pwrite(fd, f"{os.getpid()}\n".encode(), 0))  # in the block that is there: the disk may be full
    return fd


def _holder(fd: int) -> str:
    text = os.pread(fd, 64, 0).decode("ascii", "replace").strip()
    if not text.isdigit():
        return "another process"
    try:
        with open(f"/proc/{text}/comm", encoding="utf-8", errors="replace") as file:
            return f"{file.read().strip()} (pid {text})"
    except OSError:
        return f"pid {text}"


def _engine_id(path: str) -> str:
    """8 hexadecimal digits, made once: every object of this engine carries them in its name."""
    try:
        with open(path, encoding="ascii") as file:
            found = file.read().strip()
    except FileNotFoundError:
        found = secrets.token_hex(4)
        write_durably(path, f"{found}\n".encode())
    if not _ENGINE_ID.fullmatch(found):
        raise Internal(f"{path}: not an engine id: {found[:40]!r}")
    return found


def write_durably(path: str, data: bytes, mode: int = 0o644) -> None:
    """Replaces a file so that, whatever happens, the old or the new content is there, and the new one after this."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.{secrets.token_hex(4)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        os.write(fd, data)
        os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)
    sync_directory(folder)


def sync_directory(path: str) -> None:
    """The names in a directory reach the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
