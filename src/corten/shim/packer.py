"""Compression of rotated log files, in a child at low priority, so that output never waits for it.

    rotation ──► begin: the newest plain file is opened, a child writes PATH.PID.packing ──► settle: PATH.n → PATH.n.gz

The child renames nothing while its shim lives: it takes seconds, and meanwhile the log may be rotated again and again.
The shim finds the file that was packed by its inode, wherever rotation has put it.  The packed file's header names that
inode (the field FNAME of RFC 1952), so that a reader who holds the plain file open knows it again.

A child whose shim has ended puts the file into its place, and packs what else is plain, unless the next shim is there:
who renames holds the lock of the log's directory, a shim from its first record to its last.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal

from corten.shim.complain import complain
from corten.shim.loop import READ, Loop
from corten.sys import files

_DONE = b"1"
_LEVEL = 4  # twice as fast as 6, for a twentieth more
_OOM_SCORE_ADJ = "500"  # the log can do without; shims cannot


class Packer:
    """Packs `path`.1 … `path`.(max_files - 1), one at a time, the newest first.

    With a loop the next one follows by itself; without, `settle` must be called.
    """

    __slots__ = ("_done", "_inode", "_lock", "_loop", "_max_files", "_path", "_temporary")

    def __init__(self, path: str, max_files: int, loop: Loop | None) -> None:
        self._path = path
        self._max_files = max_files
        self._loop = loop
        self._done = -1  # the pipe on which a child says that it is done
        self._inode = 0
        self._temporary = f"{path}.{os.getpid()}.packing"  # a child of an earlier shim may still be at its own
        self._lock = _open_folder(path)
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # whoever else has it is at two renames
        _remove_others(path)
        if files.exists(f"{path}.1"):  # what an earlier shim left
            self.begin()

    def begin(self) -> None:
        """Pack the newest plain file, if there is one and no other is being packed."""
        if self._done >= 0:
            return
        for number in numbers(self._path, self._max_files):
            with contextlib.suppress(FileNotFoundError):
                source = os.open(f"{self._path}.{number}", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    self._inode = os.fstat(source).st_ino
                    self._fork(source)
                except OSError as error:  # no process left: the file stays plain, which every reader takes
                    complain(error)
                finally:
                    os.close(source)
                return

    def settle(self) -> None:
        """Put the packed file in the place of the plain one, if a child is done."""
        if self._done < 0:
            return
        os.set_blocking(self._done, False)
        try:
            said = os.read(self._done, 1)
        except BlockingIOError:
            return
        self._forget()
        try:
            if said == _DONE:
                _install(self._path, self._max_files, self._inode, self._temporary)
            else:
                _unlink(self._temporary)
        except OSError as error:
            complain(error)
            return
        if said == _DONE:
            self.begin()

    def close(self) -> None:
        """A child that is at work goes on alone."""
        self.settle()
        if self._done >= 0:
            self._forget()
        os.close(self._lock)

    def _forget(self) -> None:
        if self._loop is not None:
            self._loop.remove(self._done)
        os.close(self._done)
        self._done = -1

    def _fork(self, source: int) -> None:
        """A grandchild: nobody has to reap it."""
        done, say = os.pipe()
        try:
            child = os.fork()
        except OSError:
            os.close(done)
            os.close(say)
            raise
        if not child:
            _leave(self._path, self._max_files, self._temporary, (source, say))
        os.close(say)
        os.waitpid(child, 0)
        self._done = done
        if self._loop is not None:
            self._loop.add(done, READ, lambda events: self.settle())


def numbers(path: str, max_files: int) -> list[int]:
    """Of the rotated files that exist, plain or packed, ascending and below `max_files`, which may be a huge number."""
    folder, _, name = path.rpartition("/")
    found = set()
    for one in _entries(folder or "."):
        word = one.removeprefix(f"{name}.").removesuffix(".gz")
        if word.isascii() and word.isdigit() and 0 < int(word) < max_files:
            found.add(int(word))
    return sorted(found)


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:  # the container was removed, and its log with it
        return []


def _open_folder(path: str) -> int:
    return os.open(path.rpartition("/")[0] or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _install(path: str, max_files: int, inode: int, temporary: str) -> None:
    """The packed file in the place of the plain one with this inode; it is forgotten where there is none any more."""
    for number in numbers(path, max_files):
        plain = f"{path}.{number}"
        if _inode(plain) == inode:
            os.replace(temporary, f"{plain}.gz")
            os.unlink(plain)
            return
    _unlink(temporary)


def _remove_others(path: str) -> None:
    """What shims that were killed left."""
    folder, _, name = path.rpartition("/")
    for one in os.listdir(folder or "."):
        if one.startswith(f"{name}.") and one.endswith(".packing"):
            _unlink(f"{folder or '.'}/{one}")


def _leave(path: str, max_files: int, temporary: str, inputs: tuple[int, int]) -> None:
    """In the child; does not return.  `inputs`: the plain file, and where it says that it is done."""
    status = 1
    source, say = inputs
    try:
        signal.set_wakeup_fd(-1)
        if os.fork() == 0:
            keep_only(source, say)
            be_idle()
            be_killable()
            _pack(source, temporary)
            try:
                os.write(say, _DONE)
            except BrokenPipeError:
                _go_on_alone(path, max_files, source, temporary)
        status = 0
    except FileNotFoundError:
        status = 0  # the container was removed, and its log with it
    except Exception as error:  # the child's outermost loop
        complain(error)
    finally:
        os._exit(status)


def _go_on_alone(path: str, max_files: int, source: int, temporary: str) -> None:
    """The shim has ended: finish this file, and what else is plain, until the next shim is there."""
    while _install_alone(path, max_files, os.fstat(source).st_ino, temporary):
        os.close(source)
        found = (f"{path}.{number}" for number in numbers(path, max_files))
        plain = next((one for one in found if files.exists(one)), "")
        if not plain:
            return
        source = os.open(plain, os.O_RDONLY | os.O_CLOEXEC)
        _pack(source, temporary)


def _install_alone(path: str, max_files: int, inode: int, temporary: str) -> bool:
    """False when a shim has the log."""
    lock = _open_folder(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _install(path, max_files, inode, temporary)
    except BlockingIOError:
        _unlink(temporary)
        return False
    finally:
        os.close(lock)
    return True


def keep_only(*kept: int) -> None:
    """Close every descriptor but standard error and these: a client's connection must end when the shim says so."""
    last = 2
    for fd in sorted(kept):
        os.closerange(last + 1, fd)
        last = fd
    os.closerange(last + 1, os.sysconf("SC_OPEN_MAX"))


def be_idle() -> None:
    """Run when nobody else wants to: a log that is written at full speed must not feel it."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:
        os.nice(19)


def be_killable() -> None:
    """The first to go when memory ends."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(_OOM_SCORE_ADJ)


def _pack(source: int, target: str) -> None:
    import gzip
    import shutil

    status = os.fstat(source)
    with (
        open(source, "rb", closefd=False) as plain,
        open(target, "wb", opener=lambda path, flags: os.open(path, flags | os.O_EXCL, status.st_mode & 0o777)) as file,
        gzip.GzipFile(str(status.st_ino), "wb", _LEVEL, file, mtime=status.st_mtime) as packed,
    ):
        shutil.copyfileobj(plain, packed, 1 << 20)


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return -1
