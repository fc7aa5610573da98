"""Where hostile layers are unpacked, and what must not change there."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from corten.core.limits import DEFAULT, Limits
from corten.core.lower import LowerView
from corten.core.trees import remove_entry
from corten.core.unpack import apply_layer
from support import paths, weakened_corten
from support import tarballs as t
from support.weakened import Edit

UNLIMITED = Limits(
    entries=1 << 60,
    path=1 << 30,
    names=1 << 60,
    header=1 << 40,
    apparent=1 << 62,
    ratio=1 << 60,
    xattrs=1 << 30,
    disk_reserve=0,
)


NOTHING_BELOW = LowerView([])


@dataclass(frozen=True, slots=True)
class Place:
    """Where an attack happens."""

    layer: Path
    outside: Path
    before: list[object]

    def untouched(self) -> bool:
        """Whether `outside` is as it was made: names, content, links, owner, mode, times, attributes."""
        return look(self.outside) == self.before


def look(folder: Path) -> list[object]:
    """What is to be seen of a flat folder."""
    seen: list[object] = [os.listxattr(folder), folder.stat().st_mtime_ns]  # also of what came and went
    for path in sorted(folder.iterdir()):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        seen.append((path.name, content, *status[:4], *status[4:7], status.st_mtime_ns))
    return seen


@contextmanager
def made_place() -> Iterator[Place]:
    """A place for one attack, removed afterwards."""
    folder = paths.scratch("attack")
    layer, outside = folder / "deep/layer", folder / "outside"
    layer.mkdir(parents=True)
    outside.mkdir()
    (outside / "victim").write_text("precious")
    yield Place(layer, outside, look(outside))
    fd = os.open(folder.parent, os.O_RDONLY)
    remove_entry(fd, os.fsencode(folder.name))  # shutil's removal ends at the recursion limit
    os.close(fd)


def unpack(
    place: Place,
    data: bytes,
    limits: Limits = DEFAULT,
    *,
    apply: Callable[..., object] = apply_layer,
    lower: LowerView | None = NOTHING_BELOW,
) -> None:
    """Unpacks an archive into the layer, as Corten does, or with the `apply_layer` of a weakened build."""
    fd = os.open(place.layer, os.O_RDONLY | os.O_DIRECTORY)
    try:
        apply([data], fd, lower=lower, limits=limits)
    finally:
        os.close(fd)


# Ways out of the layer.


@dataclass(frozen=True, slots=True)
class Escape:
    """An archive that wants to reach a folder outside, and the step that keeps it in."""

    step: tuple[Edit, ...]
    entries: Callable[[bytes, bytes], Sequence[bytes]]
    """Of the folder's absolute path and a relative one from anywhere."""

    def archive(self, outside: Path) -> bytes:
        """The layer."""
        absolute = os.fsencode(outside)
        return t.archive(*self.entries(absolute, b"../" * 12 + absolute.lstrip(b"/")))


def far(name: bytes, kind: bytes = t.FILE, **fields: Any) -> bytes:
    """An entry with a name of any length."""
    return t.gnu_long(name) + t.entry(b"x", kind, **fields)


def linked(name: bytes, target: bytes) -> bytes:
    """A hard link to a name of any length, with an owner and a mode for both."""
    return t.gnu_long(target, b"K") + t.hard_link(name, b"x", mode=0o4755, uid=1000)


EVIL = {"data": b"evil"}
NAMES, LINKS, CREATION = weakened_corten.NAMES, weakened_corten.LINKS, weakened_corten.CREATION

ESCAPES: dict[str, Escape] = {
    "an absolute path": Escape(NAMES, lambda out, up: [far(out + b"/made", **EVIL)]),
    "dot-dot": Escape(NAMES, lambda out, up: [far(up + b"/made", **EVIL)]),
    "dot-dot behind a directory": Escape(
        NAMES, lambda out, up: [t.directory(b"a"), far(b"a/" + up + b"/made", **EVIL)]
    ),
    "dot-dot in a pax record": Escape(NAMES, lambda out, up: [t.pax({b"path": up + b"/made"}), t.entry(b"x", **EVIL)]),
    "an absolute link, then a file through it": Escape(
        LINKS, lambda out, up: [t.symlink(b"way", out), t.entry(b"way/made", **EVIL)]
    ),
    "a relative link, then a file through it": Escape(
        LINKS, lambda out, up: [t.symlink(b"way", up), t.entry(b"way/made", **EVIL)]
    ),
    "a chain of links": Escape(
        LINKS,
        lambda out, up: [t.symlink(b"one", b".."), t.symlink(b"two", b"one/" + up), t.entry(b"two/made", **EVIL)],
    ),
    "a link in place of a directory": Escape(
        LINKS,
        lambda out, up: [
            *(t.directory(b"d"), t.entry(b"d/f"), t.entry(b".wh.d")),
            *(t.symlink(b"d2", up), t.entry(b"d2/victim", **EVIL)),
        ],
    ),
    "a file through a link of its own name": Escape(
        CREATION, lambda out, up: [t.symlink(b"f", up + b"/victim"), t.entry(b"f", **EVIL)]
    ),
    "a directory through a link": Escape(LINKS, lambda out, up: [t.symlink(b"way", up), t.directory(b"way/made")]),
    "a link through a link": Escape(LINKS, lambda out, up: [t.symlink(b"way", up), t.symlink(b"way/made", b"x")]),
    "a device through a link": Escape(
        LINKS, lambda out, up: [t.symlink(b"way", up), t.entry(b"way/made", t.CHAR, device=(1, 3))]
    ),
    "a hard link to a file outside": Escape(NAMES, lambda out, up: [linked(b"h", up + b"/victim")]),
    "a hard link by absolute path": Escape(NAMES, lambda out, up: [linked(b"h", out + b"/victim")]),
    "a hard link through a link": Escape(LINKS, lambda out, up: [t.symlink(b"way", up), linked(b"h", b"way/victim")]),
    "a whiteout outside": Escape(NAMES, lambda out, up: [far(up + b"/.wh.victim"), far(up + b"/.wh.made")]),
    "a whiteout through a link": Escape(LINKS, lambda out, up: [t.symlink(b"way", up), t.entry(b"way/.wh.made")]),
    "an opaque directory outside": Escape(NAMES, lambda out, up: [far(up + b"/.wh..wh..opq")]),
    "an opaque directory through a link": Escape(
        LINKS, lambda out, up: [t.symlink(b"way", up), t.entry(b"way/.wh..wh..opq")]
    ),
}


@contextmanager
def swapping(first: Path, second: Path) -> Iterator[None]:
    """A process that exchanges two names without a pause (renameat2(2)); at every moment each is one or the other."""
    child = os.fork()
    if child == 0:
        exchange(os.fsencode(first), os.fsencode(second))
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def exchange(first: bytes, second: bytes) -> NoReturn:
    """Until it is killed."""
    rename = ctypes.CDLL(None, use_errno=True).renameat2
    at_cwd, rename_exchange = -100, 2
    while rename(at_cwd, first, at_cwd, second, rename_exchange) == 0:
        pass
    os._exit(1)
