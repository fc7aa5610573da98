"""`docker cp`: what is at a path of a container, out of it as an archive, an archive into it.

Docker API ContainerArchiveInfo, ContainerArchive, PutContainerArchive; texts and kinds of errors are dockerd's.  The
container may run or not; its files are a tree of mounts (`views`), and all paths are looked up inside (`core.inside`).
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import msgspec

from corten.core import copyin, copyout
from corten.core.copyout import PathStat
from corten.core.inside import Trail
from corten.engine import mapped
from corten.engine.archives import require_whole
from corten.engine.container import Container
from corten.engine.events import container_event
from corten.engine.inflow import Chunks
from corten.engine.outflow import from_thread
from corten.engine.parts import Parts
from corten.engine.threads import NoThread, in_own_thread
from corten.engine.times import SECOND_NS, rfc3339
from corten.engine.users import Accounts, lookup, read_accounts
from corten.engine.views import View
from corten.errors import CortenError, Internal, InvalidArgument, NotFound

Json = dict[str, Any]
T = TypeVar("T")

_LAST_NS: Final = 253402300799 * SECOND_NS  # of the year 9999, the last that JSON has in Go
_EPOCH: Final = "1970-01-01T00:00:00Z"


class Copies:
    """Copies of one engine's containers."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def stat(self, ref: str, path: str) -> Json:
        """The object of `X-Docker-Container-Path-Stat`.  Raises NotFound, Conflict, Internal."""
        container = self._find(ref)
        view = await self._parts.views.open(container)
        found, trail = await _with(view, "stat", functools.partial(_looked, view, path, ref), late=_drop)
        trail.close()
        return _shown(found)

    async def archive(self, ref: str, path: str) -> AsyncIterator[bytes]:
        """The first piece is the stat as JSON, then come those of the archive.  Raises as `stat`, before the first."""
        container = self._find(ref)
        whole = copyout.absolute(path)
        view = await self._parts.views.open(container)
        try:
            view.hold()
            looked = functools.partial(_looked, view, whole, ref, shown=path)
            found, trail = await _with(view, "stat", looked, late=_drop)
            with trail:
                yield msgspec.json.encode(_shown(found))
                id_map = container.record.effective.id_map
                inside = id_map.inside if id_map is not None else None
                client = asyncio.current_task()  # the client's from here on, no longer that of the first piece
                assert client is not None
                with view.cutting(client.cancel):
                    self._parts.bus.publish(container_event(container.record, "archive-path"))
                    pieces = from_thread("archive", functools.partial(_archived, view, trail, whole, inside))
                    async with aclosing(pieces):  # its thread ends before the trail does
                        async for piece in pieces:
                            yield piece
        finally:
            view.release()

    async def extract(
        self, ref: str, path: str, body: AsyncIterator[bytes], *, keeps_kinds: bool, copies_owner: bool
    ) -> None:
        """Unpacks the archive in `body` at `path`.

        keeps_kinds: noOverwriteDirNonDir; copies_owner: copyUIDGID, everything is to be the container's user's.
        Raises NotFound, InvalidArgument, Conflict, Internal.
        """
        container = self._find(ref)
        view = await self._parts.views.open(container)
        source = Chunks(body, self._parts.loop)
        wanted = _Wanted(container, ref, path, keeps_kinds, copies_owner)
        try:
            with view.cutting(source.close):
                await _with(view, "extract", lambda: _extracted(view, wanted, iter(source)))
        finally:
            source.close()
        self._parts.bus.publish(container_event(container.record, "extract-to-dir"))

    def _find(self, ref: str) -> Container:
        container = self._parts.roster.find(ref)
        require_whole(container, "copy")
        return container


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a client wants to be unpacked."""

    container: Container
    ref: str
    path: str
    keeps_kinds: bool
    copies_owner: bool


async def _with(view: View, name: str, work: Callable[[], T], *, late: Callable[[T], None] | None = None) -> T:
    """`work()` in a thread of its own, which releases the view; `late` gets what nobody waits for any more."""
    try:
        return await in_own_thread(name, work, late=late)
    except NoThread:
        view.release()
        raise


def _extracted(view: View, wanted: _Wanted, chunks: Iterator[bytes]) -> None:
    """Blocks."""
    container, path = wanted.container, wanted.path
    with view, _told(path, wanted.ref, view), copyin.destination(view.fd, path) as trail:
        _check_writable(container, os.fsdecode(trail.path))
        owner = _owner(container, view.fd) if wanted.copies_owner else None
        rules = copyin.Rules(keeps_kinds=wanted.keeps_kinds, owner=owner)
        id_map = container.record.effective.id_map
        if id_map is not None:
            rules = replace(rules, outside=id_map.outside, maker=id_map.root[0])
        with mapped.acting(id_map):
            copyin.extract(_checked(view, chunks), view.fd, trail, rules)


def _check_writable(container: Container, path: str) -> None:
    """Raises InvalidArgument for a read-only volume or root, before anything is read of the archive."""
    points = [point for point in container.record.effective.mounts if _is_below(path, point.target)]
    point = max(points, key=lambda one: len(one.target), default=None)
    if point is not None and point.read_only:
        raise InvalidArgument("mounted volume is marked read-only")
    if point is None and container.record.effective.host.readonly_rootfs:
        raise InvalidArgument("container rootfs is marked read-only")


def _drop(found: tuple[PathStat, Trail]) -> None:
    found[1].close()


def _looked(view: View, path: str, ref: str, *, shown: str = "") -> tuple[PathStat, Trail]:
    with view, _told(shown or path, ref, view):
        try:
            return copyout.look(view.fd, path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Internal(f"lstat {path}: {(error.strerror or '').lower()}") from error


@contextmanager
def _archived(view: View, trail: Trail, path: str, inside: copyout.Inside | None) -> Iterator[Iterator[bytes]]:
    """For a thread; who has asked for it holds the view and the trail until it ends."""
    with closing(copyout.archive(trail, path, inside=inside)) as chunks:
        yield _checked(view, chunks)


def _checked(view: View, chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        view.check()
        yield chunk


@contextmanager
def _told(path: str, ref: str, view: View) -> Iterator[None]:
    """Errors of the file system in dockerd's words."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"Could not find the file {path} in container {ref}") from error
    except ConnectionError:
        view.check()  # it was cut, and is told why
        raise
    except OSError as error:
        raise copyin.told(error, path) from error


def _owner(container: Container, root_fd: int) -> tuple[int, int] | None:
    """uid and gid of the container's user; None for root, whose archives keep their owners."""
    spec = container.record.effective.config.user
    if not spec:
        return None
    accounts: Accounts = read_accounts(root_fd)
    try:
        user = lookup(spec, accounts)
    except CortenError as error:
        raise Internal(error.text) from error
    return user.uid, user.gid


def _is_below(path: str, target: str) -> bool:
    return path == target or path.startswith(target.rstrip("/") + "/")


def _shown(found: PathStat) -> Json:
    return {
        "name": found.name,
        "size": found.size,
        "mode": found.mode,
        "mtime": rfc3339(min(max(found.mtime_ns, 1 - _LAST_NS // 8), _LAST_NS)) if found.mtime_ns else _EPOCH,
        "linkTarget": found.link_target,
    }
