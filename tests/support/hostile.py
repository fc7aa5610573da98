"""Where hostile layers are unpacked, and the unpacker without defence that the twins use."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from corten.core.limits import DEFAULT, Limits
from corten.core.lower import LowerView
from corten.core.tarheader import Entry, Kind
from corten.core.tarreader import TarReader
from corten.core.trees import remove_entry
from corten.core.unpack import apply_layer
from support import paths

UNLIMITED = Limits(
    entries=1 << 60, path=1 << 30, header=1 << 40, apparent=1 << 62, ratio=1 << 60, xattrs=1 << 30, disk_reserve=0
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an attack happens."""

    layer: Path
    outside: Path

    def untouched(self) -> bool:
        """Whether `outside` is as it was made."""
        names = sorted(os.listdir(self.outside))
        return names == ["victim"] and (self.outside / "victim").read_text() == "precious"


@contextmanager
def made_place() -> Iterator[Place]:
    """A place for one attack, removed afterwards."""
    folder = paths.scratch("attack")
    layer, outside = folder / "deep/layer", folder / "outside"
    layer.mkdir(parents=True)
    outside.mkdir()
    (outside / "victim").write_text("precious")
    yield Place(layer, outside)
    fd = os.open(folder.parent, os.O_RDONLY)
    remove_entry(fd, os.fsencode(folder.name))  # shutil's removal ends at the recursion limit
    os.close(fd)


def unpack(place: Place, data: bytes, limits: Limits = DEFAULT) -> None:
    """Unpacks an archive into the layer, as Corten does."""
    fd = os.open(place.layer, os.O_RDONLY | os.O_DIRECTORY)
    try:
        apply_layer([data], fd, lower=LowerView([]), limits=limits)
    finally:
        os.close(fd)


def naive(place: Place, data: bytes, before: Callable[[Entry], None] = lambda _: None) -> None:
    """The twin: names of the archive joined to a path and given to the kernel, as `tar -P` or an old engine did."""
    reader = TarReader([data], UNLIMITED)
    for entry in reader:
        before(entry)
        path = os.path.join(os.fsencode(place.layer), entry.name)
        folder, base = os.path.split(path)
        if base.startswith(b".wh."):
            target = os.path.join(folder, base[4:])
            shutil.rmtree(target) if os.path.isdir(target) else os.unlink(target)
        elif entry.kind is Kind.DIRECTORY:
            os.makedirs(path, exist_ok=True)
        elif entry.kind is Kind.SYMLINK:
            os.symlink(entry.link, path)
        elif entry.kind is Kind.HARD_LINK:
            os.link(os.path.join(os.fsencode(place.layer), entry.link), path)
        elif entry.kind in (Kind.CHAR, Kind.BLOCK):
            os.mknod(path, stat.S_IFCHR | entry.mode, entry.device)
        else:
            os.makedirs(folder, exist_ok=True)
            with open(path, "wb") as file:
                file.writelines(reader.data())
