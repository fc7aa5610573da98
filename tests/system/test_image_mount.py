"""`corten image mount`: what is seen there, who may remove what meanwhile, and that nothing of it is left."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.sys.mount import mount_points
from support import images
from support.engine import CortenEngine

LOWER = images.layer(
    [
        images.directory("d"),
        images.Entry("d/gone", b"gone"),
        images.Entry("d/kept", b"kept"),
        images.Entry("suid", b"#!/bin/sh\n", mode=0o4755),
    ]
)
UPPER = images.layer([images.directory("d"), images.Entry("d/.wh.gone"), images.Entry("new", b"new")])


@pytest.fixture(scope="module")
def engine() -> Iterator[CortenEngine]:
    """An engine that this file stops and starts."""
    with CortenEngine() as started:
        yield started


@pytest.fixture
def image(engine: CortenEngine) -> Iterator[str]:
    """Two layers, the upper one with a whiteout."""
    engine.docker("load", stdin=images.docker_archive(["look:1"], [LOWER, UPPER], {"Cmd": ["x"]}), check=True)
    yield "look:1"
    engine.docker("rmi", "-f", "look:1")


def snapshots(engine: CortenEngine) -> set[str]:
    return {name for name in os.listdir(engine.data_root / "snapshots") if name.isdigit()}


def mounted(engine: CortenEngine) -> list[str]:
    return [line.split()[1] for line in engine.corten("image", "mount", check=True).stdout.splitlines()[1:]]


def inside(engine: CortenEngine, *argv: str) -> subprocess.CompletedProcess[str]:
    """In the mount namespace of the engine, which may be its own."""
    enter = ["nsenter", "--mount", "--target", str(engine.pid), "--"]
    return subprocess.run([*enter, *argv], capture_output=True, text=True, timeout=60, check=False)


def test_the_files_of_all_layers_are_there_and_cannot_be_changed(engine: CortenEngine, image: str) -> None:
    path = engine.corten("image", "mount", image, check=True).stdout.strip()
    assert Path(path).parent == engine.exec_root / "images"
    found = inside(engine, "find", path, "-type", "f", "-printf", "%P ").stdout
    assert set(found.split()) == {"d/kept", "suid", "new"}
    assert "Read-only file system" in inside(engine, "touch", f"{path}/x").stderr
    options = inside(engine, "findmnt", "-no", "OPTIONS", path).stdout
    assert {"ro", "nosuid", "nodev"} <= set(options.strip().split(","))
    assert mounted(engine) == [path]
    assert engine.corten("image", "unmount", image, check=True).stdout == f"{path}\n"
    assert (mounted(engine), os.path.exists(path)) == ([], False)


def test_layers_stay_while_they_are_mounted_though_the_image_goes(
    engine: CortenEngine, image: str, tmp_path: Path
) -> None:
    before = snapshots(engine)
    assert len(before) == 2
    engine.corten("image", "mount", image, str(tmp_path), check=True)
    assert "Deleted: sha256" in engine.docker("rmi", image, check=True).stdout
    assert snapshots(engine) == before
    assert inside(engine, "cat", f"{tmp_path}/new").stdout == "new"
    engine.corten("image", "umount", str(tmp_path), check=True)
    assert snapshots(engine) == set()
    assert tmp_path.is_dir()


def test_mounts_outlive_the_engine_and_what_is_none_any_more_is_forgotten(
    engine: CortenEngine, image: str, tmp_path: Path
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    for name in ("one", "two"):
        engine.corten("image", "mount", image, str(tmp_path / name), check=True)
    engine.kill9()
    engine.start()
    assert mounted(engine) == [str(tmp_path / "one"), str(tmp_path / "two")]
    assert inside(engine, "umount", str(tmp_path / "two")).returncode == 0
    assert mounted(engine) == [str(tmp_path / "one")]
    engine.corten("image", "unmount", image, check=True)
    assert mounted(engine) == []


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("nope:1",), "No such image: nope:1"),
        (("{image}", "/nonexistent"), "no such directory"),
        (("{image}", "relative"), "must be an absolute path"),
        (("--platform", "linux/s390x", "{image}"), "does not match the specified platform"),
        (("{image}", "{path}", "x"), "image mount"),
    ],
)
def test_what_cannot_be_mounted_is_said_and_leaves_nothing(
    engine: CortenEngine, image: str, tmp_path: Path, args: tuple[str, ...], words: str
) -> None:
    done = engine.corten("image", "mount", *(one.format(image=image, path=tmp_path) for one in args))
    assert done.returncode == 1
    assert words in done.stderr
    assert mounted(engine) == []
    folder = engine.exec_root / "images"
    assert not folder.is_dir() or not list(folder.iterdir())


def test_one_in_use_stays_and_a_second_at_the_same_place_is_refused(
    engine: CortenEngine, image: str, tmp_path: Path
) -> None:
    engine.corten("image", "mount", image, str(tmp_path), check=True)
    again = engine.corten("image", "mount", image, str(tmp_path))
    assert (again.returncode, "is mounted at" in again.stderr) == (1, True)
    enter = ["nsenter", "--mount", "--target", str(engine.pid), "--", "sh", "-c", f"cd {tmp_path} && exec sleep 100"]
    with subprocess.Popen(enter) as holder:
        while os.path.basename(os.readlink(f"/proc/{holder.pid}/cwd")) != tmp_path.name:
            pass
        busy = engine.corten("image", "unmount", str(tmp_path))
        holder.kill()
    assert (busy.returncode, "is in use" in busy.stderr) == (1, True)
    engine.corten("image", "unmount", str(tmp_path), check=True)
    assert "no image is mounted" in engine.corten("image", "unmount", str(tmp_path)).stderr


def test_destroy_unmounts_what_is_mounted(tmp_path: Path) -> None:
    with CortenEngine() as engine:
        engine.docker("load", stdin=images.docker_archive(["look:1"], [LOWER, UPPER], {"Cmd": ["x"]}), check=True)
        path = engine.corten("image", "mount", "look:1", check=True).stdout.strip()
        engine.corten("image", "mount", "look:1", str(tmp_path), check=True)
    assert not {path, str(tmp_path)} & set(mount_points())
    assert not os.path.exists(path)
