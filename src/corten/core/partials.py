"""Blobs on their way: files that are read while they grow, and that outlive failed pulls and a killed cortend.

    content/partial/<boot id>/<hex>-<source>    what came so far of the blob sha256:<hex>, from its first byte on

A registry that lies spoils no other's blobs: each source, with the size that it says, has files of its own.  Nothing
here is synced before the blob is whole: what another boot left may have holes, so it is thrown away.  What this boot
left is hashed anew before anything is added to it.  One writer, any number of readers.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from corten.core.limits import DEFAULT, Limits
from corten.errors import InvalidArgument, Unavailable
from corten.spec.reference import Digest, parse_digest

READ_BYTES = 256 << 10
_KEPT_S = 24 * 3600  # who comes back to a pull does so on the same day
_SPACE_EVERY = 64 << 20
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Partial:
    """One blob that grows.  `restore`, `write` and `verify` or `fail` are one thread's, `chunks` anybody's."""

    def __init__(self, path: str, digest: Digest, size: int, limits: Limits = DEFAULT) -> None:
        self.path = path
        self.digest = digest
        self.size = size
        self._limits = limits
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        self._hash = hashlib.sha256()
        self._condition = threading.Condition()
        self._have = 0
        self._until_space_check = 0
        self._is_restored = False
        self._is_whole = False
        self._is_spoiled = False
        self._error: BaseException | None = None

    @property
    def have(self) -> int:
        """Bytes that readers can have by now."""
        return self._have

    @property
    def error(self) -> BaseException | None:
        """What `fail` was given."""
        return self._error

    @property
    def is_doubtful(self) -> bool:
        """Whether bytes of an earlier attempt are in it, and nobody knows yet that it has the right ones."""
        return self._is_restored and not self._is_whole

    def restore(self, check: Callable[[], None] = lambda: None) -> None:
        """Takes up what an earlier attempt left, byte by byte into the hash; `check` may raise between pieces."""
        left = os.fstat(self._fd).st_size
        if left > self.size:
            os.ftruncate(self._fd, 0)
            return
        self._is_restored = left > 0
        while self._have < left:
            check()
            self._grow(os.pread(self._fd, READ_BYTES, self._have))

    def write(self, chunk: bytes) -> None:
        """Appends.  Raises InvalidArgument beyond the size, Unavailable when the disk is about to be full."""
        if self._have + len(chunk) > self.size:
            raise InvalidArgument(f"content of {self.digest} has more than the {self.size} bytes it should have")
        self._check_space(len(chunk))
        view, offset = memoryview(chunk), self._have
        while view:
            written = os.pwrite(self._fd, view, offset)
            view, offset = view[written:], offset + written
        self._grow(chunk)

    def verify(self) -> None:
        """Ends the writing.  Raises InvalidArgument, and throws away what came, when it is not what was promised."""
        found = f"sha256:{self._hash.hexdigest()}"
        if (found, self._have) == (self.digest, self.size):
            with self._condition:
                self._is_whole = True
                self._condition.notify_all()
            return
        self.remove()
        raise InvalidArgument(f"filesystem layer verification failed for digest {self.digest}")

    def fail(self, error: BaseException) -> None:
        """Nothing more will come: readers raise `error`."""
        with self._condition:
            self._error = error
            self._condition.notify_all()

    def wake(self) -> None:
        """Has waiting readers run their checks."""
        with self._condition:
            self._condition.notify_all()

    def chunks(self, check: Callable[[], None] = lambda: None) -> Iterator[bytes]:
        """The blob from its start, as it comes.  Its end comes only when all of it was verified.

        `check` may raise, between pieces and whenever `wake` was called.  Raises what `fail` was given.
        """
        offset = 0
        while offset < self.size:
            self._wait(lambda: self._have > offset, check)  # noqa: B023 - called before the next round
            chunk = os.pread(self._fd, min(READ_BYTES, self._have - offset), offset)
            if not chunk:
                raise InvalidArgument(f"content {self.digest}: cut off on disk")
            offset += len(chunk)
            yield chunk
        self.wait(check)

    def wait(self, check: Callable[[], None] = lambda: None) -> None:
        """Returns when all of it is there and verified; raises as `chunks`."""
        self._wait(lambda: self._is_whole, check)

    def remove(self) -> None:
        """The file goes: the blob came another way."""
        with suppress(FileNotFoundError):
            os.unlink(self.path)

    def spoil(self) -> None:
        """What came is of no use to a later pull: the file goes when the last one lets go of it."""
        self._is_spoiled = True

    def close(self, *, is_last: bool = True) -> None:
        """Lets go of the file; one without content, or with content that nobody can use, is removed.

        Unless it is not `is_last`: then somebody has opened the file anew.
        """
        if is_last and (self._is_spoiled or (not os.fstat(self._fd).st_size and not self._is_whole)):
            self.remove()
        os.close(self._fd)

    def _wait(self, is_ready: Callable[[], bool], check: Callable[[], None]) -> None:
        with self._condition:  # before the check: a `wake` after it finds somebody who waits
            check()
            while not is_ready():
                if self._error is not None:
                    raise self._error
                self._condition.wait()
                check()

    def _grow(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        with self._condition:
            self._have += len(chunk)
            self._condition.notify_all()

    def _check_space(self, count: int) -> None:
        self._until_space_check -= count
        if self._until_space_check > 0:
            return
        self._until_space_check = _SPACE_EVERY
        space = os.fstatvfs(self._fd)
        if space.f_bavail * space.f_frsize < self._limits.disk_reserve:
            raise Unavailable(f"no space left for layers: less than {self._limits.disk_reserve} bytes are free")


class Partials:
    """The blobs on their way of one content store."""

    def __init__(self, root: str, boot_id: str = "") -> None:
        """Opens or makes it; what is of another boot, or old, goes."""
        boot_id = boot_id or _read_boot_id()
        self._folder = os.path.join(root, boot_id)
        os.makedirs(self._folder, 0o700, exist_ok=True)
        for name in os.listdir(root):
            if name != boot_id:
                shutil.rmtree(os.path.join(root, name), ignore_errors=True)
        self.prune(older_than_s=_KEPT_S)

    def open(self, digest: str, size: int, source: str, limits: Limits = DEFAULT) -> Partial:
        """The blob's file, made when there is none.  Nobody else may have it open: the caller keeps a table."""
        return Partial(self._path(parse_digest(digest), f"{source} {size}"), Digest(digest), size, limits)

    def sizes(self) -> dict[str, int]:
        """Bytes of every blob that is on its way or was given up, by digest."""
        found: dict[str, int] = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                digest = f"sha256:{_hex(entry.name)}"
                with suppress(FileNotFoundError):
                    found[digest] = found.get(digest, 0) + entry.stat().st_size
        return found

    def prune(self, used: Iterable[str] = (), *, older_than_s: float = 0) -> int:
        """Removes those that are not `used` (digests) and old enough; the bytes that were theirs."""
        kept = {digest.removeprefix("sha256:") for digest in used}
        oldest, freed = time.time() - older_than_s, 0
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if _hex(entry.name) not in kept and status.st_mtime <= oldest:
                        os.unlink(entry.path)
                        freed += status.st_size
        return freed

    def _path(self, digest: Digest, source: str) -> str:
        algorithm, _, encoded = digest.partition(":")
        if algorithm != "sha256":
            raise InvalidArgument(f"content {digest}: digests of {algorithm} are not stored")
        return os.path.join(self._folder, f"{encoded}-{hashlib.sha256(source.encode()).hexdigest()[:16]}")


def _hex(name: str) -> str:
    return name.partition("-")[0]


def _read_boot_id() -> str:
    with open(_BOOT_ID, encoding="ascii") as file:
        return file.read().strip()
