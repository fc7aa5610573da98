"""Odd layers beside dockerd: what its containers show of them, and what ours do.

dockerd's vfs driver unpacks a layer in sight of those below, which is what we do.  overlay2, where the kernel does not
redirect directories, unpacks into the bare layer: the cases in which that breaks the image are listed.
"""

from __future__ import annotations

import io
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import tarballs as t
from support.dockerd import Dockerd
from support.layers import BASE, UPPER

TYPES = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
}
MADE_BY_DOCKERD = ("dev", "etc", "proc", "sys", ".dockerenv")

REFUSED_DUPLICATE = "duplicates of file paths not supported"
REFUSED_EXISTS = "file exists"
REFUSED_MISSING = "no such file or directory"

# case: what dockerd says; None when it takes the layer and shows something else
OTHERWISE: dict[str, dict[str, str | None]] = {
    "vfs": {
        "a file, then a directory, hides the directory below": REFUSED_DUPLICATE,
        "the directory, then its whiteout": REFUSED_MISSING,
        "a file and its whiteout, in both orders": None,  # removes the layer's own file, against image-spec
    },
    "overlay2": {
        "a file, then a directory, hides the directory below": REFUSED_DUPLICATE,
        "the directory, then its whiteout": REFUSED_EXISTS,
        "a file and its whiteout, in both orders": REFUSED_EXISTS,
        "an opaque directory without an entry keeps its look": None,  # 0755 root
        "whiteout, then the directory again": None,  # shows what the whiteout hides
        "whiteout, then a file in the directory": "not a directory",
        "a parent that is left out looks as below": None,  # 0755 root
        "a parent that is a link below is followed": None,  # the link is hidden
        "a whiteout through a link below": None,  # likewise
        "a directory in place of a link below that led to a file": None,  # likewise
        "another link in place of one below that led to a file": REFUSED_MISSING,
        "a whiteout of a link below that led to a file": REFUSED_EXISTS,
        "a hard link to a file below": REFUSED_MISSING,
        "a hard link's entry changes the file below": REFUSED_MISSING,
        "a hard link through a link below": REFUSED_MISSING,
        "a hard link to a link below": REFUSED_MISSING,
        "a hard link to a device below": REFUSED_MISSING,
    },
}


@pytest.fixture(scope="module", params=list(OTHERWISE))
def driver(request: pytest.FixtureRequest) -> Iterator[tuple[str, Dockerd]]:
    with Dockerd("26.1", args=["--storage-driver", request.param]) as daemon:
        yield request.param, daemon


def shown(daemon: Dockerd, archive: Path) -> dict[str, str] | str:
    """What a container of the image shows, as support.layers.describe; or dockerd's refusal."""
    done = daemon.docker("load", "-i", str(archive))
    if done.returncode:
        return done.stdout + done.stderr
    container = daemon.docker("create", "odd:1", check=True).stdout.strip()
    exported = archive.with_suffix(".exported")
    daemon.docker("export", "-o", str(exported), container, check=True)
    daemon.docker("rm", container, check=True)
    daemon.docker("rmi", "odd:1", check=True)
    return described(exported.read_bytes())


def described(data: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            name = member.name.rstrip("/")
            if name.partition("/")[0] in MADE_BY_DOCKERD:
                continue
            if member.islnk():
                found[name] = found[member.linkname]
                continue
            what = f"{stat.filemode(TYPES[member.type] | member.mode)} {member.uid}:{member.gid}"
            if member.issym():
                what += f" {member.linkname}"
            elif member.isreg():
                file = archive.extractfile(member)
                assert file is not None
                what += f" {file.read().decode()}"
            elif member.isdev():
                what += f" {member.devmajor},{member.devminor}"
            found[name] = what
    return found


@pytest.mark.parametrize("case", UPPER)
def test_dockerd_shows_the_same_or_differs_as_listed(driver: tuple[str, Dockerd], case: str, tmp_path: Path) -> None:
    name, daemon = driver
    parts, expected = UPPER[case]
    archive = tmp_path / "odd.tar"
    archive.write_bytes(t.docker_archive([t.archive(*BASE), t.archive(*parts)], ["odd:1"]))
    found = shown(daemon, archive)
    if case not in OTHERWISE[name]:
        assert found == expected
        return
    refusal = OTHERWISE[name][case]
    if refusal is None:
        assert isinstance(found, dict)
        assert found != expected
    else:
        assert isinstance(found, str)
        assert refusal in found
