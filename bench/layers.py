"""Unpacking a layer beside `tar -xzf`: the same archive, each time into a new folder of the same filesystem.

Folders are removed at the end only: ext4 does not give out an inode again for some minutes after its removal, and
searches past it, so that whoever comes after a large removal pays for it.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from harness import Row, budgets, interleave, words

from corten.core.limits import DEFAULT
from corten.core.lower import LowerView
from corten.core.streams import Ahead, Hashed, chunks_of, decompressed
from corten.core.unpack import apply_layer

FILES = 10_000
BYTES = 200 << 20
SOURCES = ("/usr/share", "/usr/lib", "/usr/bin")


def rows(folder: Path, rounds: int) -> list[Row]:
    """The one row; `folder` takes the archive and what comes out of it."""
    archive = folder / "layer.tar.gz"
    names = _make(archive)
    numbers = itertools.count()

    def target() -> Path:
        path = folder / f"unpacked-{next(numbers)}"
        path.mkdir()
        return path

    def tar() -> float:
        path = target()
        started = time.perf_counter()
        subprocess.run(["tar", "-C", path, "-xzf", archive], check=True)
        return time.perf_counter() - started

    def ours() -> float:
        path = target()
        started = time.perf_counter()
        _unpack(archive, path)
        return time.perf_counter() - started

    samples = interleave({"corten": ours, "tar": tar}, rounds)
    what = f"{archive.stat().st_size >> 20} MiB, {len(names)} names"
    texts = {
        "corten": f"corten.core.unpack.apply_layer of the same archive, hashed and checked besides ({what})",
        "tar": words(["tar", "-C", "NEW-FOLDER", "-xzf", archive.name]),
    }
    return [Row("unpack a layer", "ms", samples, budgets("0.8", "tar"), texts)]


def _unpack(archive: Path, path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with archive.open("rb", buffering=0) as file:
            hashed = Hashed(decompressed(chunks_of(file), DEFAULT))
            with Ahead(hashed) as ahead:
                apply_layer(ahead, fd, lower=LowerView([]))
    finally:
        os.close(fd)


def _make(archive: Path) -> list[str]:
    """An archive of up to FILES files and BYTES bytes of this machine, in order of name, directories included.

    Its members' names.
    """
    names: dict[str, None] = {}
    left = BYTES
    for path, size in itertools.islice(_files(), FILES):
        left -= size
        if left < 0:
            break
        for parent in reversed(Path(path).parents):
            names[str(parent).lstrip("/") or "."] = None
        names[path.lstrip("/")] = None
    argv = ["tar", "-C", "/", "--no-recursion", "--null", "-T", "-", "-czf", str(archive)]
    subprocess.run(argv, check=True, input="\0".join(names).encode("utf-8", "surrogateescape"))
    return list(names)


def _files() -> Iterator[tuple[str, int]]:
    """Regular files of medium size, (path, bytes)."""
    for source in SOURCES:
        for directory, folders, files in os.walk(source):
            folders.sort()
            for name in sorted(files):
                path = os.path.join(directory, name)
                status = os.lstat(path)
                if not os.path.islink(path) and 2048 < status.st_size < 4 << 20:
                    yield path, status.st_size
