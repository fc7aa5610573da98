"""Volumes while containers run: mounted for the first that has one, unmounted after the last; subpaths."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from corten.core.journal import Journal
from corten.core.metadata import Database
from corten.core.trash import Trash
from corten.core.volumes import VolumeStore
from corten.engine import localdriver, volumemounts
from corten.engine.mountspec import MountPoint
from corten.engine.volumemounts import VolumeMounts, open_subpath, release_places
from corten.errors import Internal, InvalidArgument, NotFound
from corten.sys import mount

OPTIONS = {"type": "tmpfs", "device": "tmpfs"}


class Parts:
    """Those that are needed; `mounted` is what the kernel would have mounted, `calls` what it was asked."""

    def __init__(self, root: Path) -> None:
        (root / "volumes").mkdir()
        self.database = Database(str(root / "corten.db"))
        journal = Journal(self.database)
        self.volumes = VolumeStore(str(root / "volumes"), self.database, journal, Trash(str(root / "trash")))
        self.tasks = SimpleNamespace(root=str(root))
        self.roster: list[Any] = []
        self.events: list[tuple[str, str, dict[str, str]]] = []
        self.bus = SimpleNamespace(publish=lambda event: self.events.append((event.action, event.id, event.attributes)))
        self.mounted: set[str] = set()
        self.calls: list[str] = []
        self.failure: Exception | None = None

    def mount(self, options: Any, target: str) -> None:
        name = Path(target).parent.name
        self.calls.append(f"mount {name}")
        if self.failure is not None and name == "bad":
            raise self.failure
        self.mounted.add(target)

    def unmount(self, target: str) -> None:
        self.calls.append(f"unmount {Path(target).parent.name}")
        self.mounted.remove(target)


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parts]:
    made = Parts(tmp_path)
    for name in ("far", "bad"):
        made.volumes.create(name, options=OPTIONS)
    made.volumes.create("near")
    monkeypatch.setattr(localdriver, "mount_volume", made.mount)
    monkeypatch.setattr(localdriver, "unmount_volume", made.unmount)
    monkeypatch.setattr(localdriver, "is_mounted", made.mounted.__contains__)
    monkeypatch.setattr(mount, "mount_points", lambda: {os.path.realpath(one) for one in made.mounted})
    yield made
    made.database.close()


@pytest.fixture
def mounts(parts: Parts) -> VolumeMounts:
    return VolumeMounts(parts)  # type: ignore[arg-type]


def container(name: str, *volumes: str, is_running: bool = True, **fields: Any) -> Any:
    points = tuple(MountPoint(kind="volume", name=one, target=f"/{one}", driver="local", **fields) for one in volumes)
    record = SimpleNamespace(effective=SimpleNamespace(mounts=points))
    return SimpleNamespace(id=name, record=record, is_running=is_running)


def points(one: Any) -> list[MountPoint]:
    found: list[MountPoint] = list(one.record.effective.mounts)
    return found


async def test_a_volume_is_mounted_for_the_first_and_unmounted_after_the_last(
    mounts: VolumeMounts, parts: Parts
) -> None:
    first, second = container("first", "far", "near"), container("second", "far")
    placed = await mounts.acquire(first, points(first))
    assert [one.source for one in placed] == [parts.volumes.mountpoint(name) for name in ("far", "near")]
    await mounts.acquire(second, points(second))
    await mounts.release(first)
    assert parts.calls == ["mount far"]
    await mounts.release(second)
    assert (parts.calls, parts.mounted) == (["mount far", "unmount far"], set())


async def test_one_that_cannot_be_mounted_lets_go_of_the_others(mounts: VolumeMounts, parts: Parts) -> None:
    parts.failure = Internal("failed to mount local volume: no such device")
    one = container("box", "far", "bad")
    with pytest.raises(Internal, match=r"error while mounting volume '.*/bad/_data': failed to mount local volume: no"):
        await mounts.acquire(one, points(one))
    assert (parts.calls, parts.mounted) == (["mount far", "mount bad", "unmount far"], set())


async def test_one_that_is_gone_is_told_and_nothing_is_held(mounts: VolumeMounts, parts: Parts) -> None:
    one = container("box", "far", "nonesuch")
    with pytest.raises(NotFound, match="get nonesuch: no such volume"):
        await mounts.acquire(one, points(one))
    assert parts.mounted == set()


async def test_a_start_that_fails_leaves_it_to_those_who_had_it_before(mounts: VolumeMounts, parts: Parts) -> None:
    runs = container("runs", "far")
    await mounts.acquire(runs, points(runs))
    parts.failure = Internal("x")
    fails = container("fails", "far", "bad")
    with pytest.raises(Internal):
        await mounts.acquire(fails, points(fails))
    assert "unmount far" not in parts.calls


async def test_a_view_of_the_same_container_holds_by_its_own_name(mounts: VolumeMounts, parts: Parts) -> None:
    one = container("box", "far")
    await mounts.acquire(one, points(one))
    await mounts.acquire(one, points(one), holder="copy")
    await mounts.release(one)
    assert parts.mounted
    await mounts.release(one, holder="copy")
    assert not parts.mounted


async def test_a_volume_twice_in_a_container_is_mounted_once_and_unmounted_once(
    mounts: VolumeMounts, parts: Parts
) -> None:
    one = container("box", "far", "far")
    await mounts.acquire(one, points(one))
    await mounts.release(one)
    assert parts.calls == ["mount far", "unmount far"]


async def test_an_unmount_that_fails_is_no_failure_of_the_end(
    mounts: VolumeMounts, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(target: str) -> None:
        raise OSError(16, "busy")

    one = container("box", "far")
    await mounts.acquire(one, points(one))
    monkeypatch.setattr(localdriver, "unmount_volume", refuse)
    await mounts.release(one)
    monkeypatch.setattr(localdriver, "unmount_volume", parts.unmount)
    mounts.unmount_unheld()  # as the next start does
    assert not parts.mounted


async def test_many_at_once_mount_one_volume_once(mounts: VolumeMounts, parts: Parts) -> None:
    boxes = [container(f"box{number}", "far") for number in range(20)]
    await asyncio.gather(*(mounts.acquire(one, points(one)) for one in boxes))
    await asyncio.gather(*(mounts.release(one) for one in boxes))
    assert parts.calls == ["mount far", "unmount far"]


async def test_nobody_begins_to_use_a_volume_that_is_being_filled(mounts: VolumeMounts, parts: Parts) -> None:
    one = container("box", "near")
    async with mounts.filling("near", "fill") as is_bound:
        assert not is_bound
        waiting = asyncio.ensure_future(mounts.acquire(one, points(one)))
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting
    async with mounts.filling("near", "fill") as is_bound:
        assert is_bound
    async with mounts.filling("far", "fill") as is_bound:
        assert is_bound  # what lies elsewhere is there already
    assert not parts.mounted


async def test_after_an_end_of_cortend_who_runs_holds(mounts: VolumeMounts, parts: Parts) -> None:
    parts.mounted |= {parts.volumes.mountpoint(name) for name in ("far", "bad")}
    parts.roster += [container("runs", "far"), container("ended", "bad", is_running=False)]
    mounts.know_holders()
    mounts.unmount_unheld()
    assert parts.mounted == {parts.volumes.mountpoint("far")}
    await mounts.release(parts.roster[0])
    assert parts.mounted == set()


def test_mounts_and_their_ends_are_told(mounts: VolumeMounts, parts: Parts) -> None:
    one = container("box", "near", read_only=True)
    mounts.tell_mount(one)
    mounts.tell_unmount(one)
    (mounted, _, attributes), (unmounted, name, _) = parts.events
    assert (mounted, unmounted, name) == ("mount", "unmount", "near")
    assert (attributes["container"], attributes["destination"], attributes["read/write"]) == ("box", "/near", "false")


# Subpaths


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "inside/deep").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (root / "out").symlink_to("../outside")
    (root / "absolute").symlink_to(tmp_path / "outside")
    (root / "in").symlink_to("inside/deep")
    (root / "loop").symlink_to("loop")
    (root / "file").write_text("x")
    return root


@pytest.mark.parametrize("subpath", ["inside", "inside/deep", "in", "file", "inside/../file", "./inside"])
def test_a_subpath_beneath_is_opened(tree: Path, subpath: str) -> None:
    fd = open_subpath(str(tree), subpath)
    try:
        assert os.path.samestat(os.fstat(fd), os.stat(tree / subpath))
    finally:
        os.close(fd)


@pytest.mark.parametrize("subpath", ["out", "absolute", "..", "../outside", "/etc", "inside/../../outside", "loop"])
def test_a_subpath_that_leads_out_is_refused(tree: Path, subpath: str) -> None:
    with pytest.raises(InvalidArgument, match="path concatenation escapes the base directory, base: "):
        open_subpath(str(tree), subpath)


def test_a_subpath_that_is_not_there_is_named(tree: Path) -> None:
    with pytest.raises(NotFound) as caught:
        open_subpath(str(tree), "inside/none")
    assert (
        caught.value.text
        == f"cannot access path {tree}/inside/none: lstat {tree}/inside/none: no such file or directory"
    )


async def test_without_subpaths_nothing_is_bound(mounts: VolumeMounts, parts: Parts) -> None:
    one = container("box", "near")
    with contextlib.ExitStack() as undo:
        assert await mounts.bind_subpaths(points(one), undo) == points(one)
    assert not os.path.exists(f"{parts.tasks.root}/{volumemounts.SUBPATHS}")


def test_places_that_a_killed_cortend_left_are_removed_and_never_their_trees(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "full/of").mkdir(parents=True)
    release_places(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["full"]
    release_places(str(tmp_path / "nonesuch"))
