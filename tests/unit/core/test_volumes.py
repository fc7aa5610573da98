"""Volumes on disk: made, forgotten, and what a crash between two steps leaves."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.core.journal import VOLUME_DIR, Journal
from corten.core.metadata import Database
from corten.core.trash import Trash
from corten.core.volumes import Volume, VolumeStore
from corten.errors import InvalidArgument


class Disk:
    def __init__(self, root: Path) -> None:
        self.root = root / "volumes"
        self.root.mkdir()
        self.database = Database(str(root / "corten.db"))
        self.journal = Journal(self.database)
        self.trash = Trash(str(root / "trash"))
        self.store = VolumeStore(str(self.root), self.database, self.journal, self.trash)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path)
    yield made
    made.database.close()


def test_a_volume_has_dockers_directories_and_modes(disk: Disk) -> None:
    volume = disk.store.create("v1", labels={"a": "b"}, options=None)
    assert (volume.labels, volume.options) == ({"a": "b"}, None)
    assert disk.store.get("v1") == volume
    modes = [stat.S_IMODE(os.stat(path).st_mode) for path in (disk.root / "v1", disk.root / "v1/_data")]
    assert modes == [0o701, 0o755]
    assert not disk.journal.entries()


@pytest.mark.parametrize("name", ["/etc", "a/b", "..", "", "a", "ab\n", ".hidden", "-x"])
def test_a_name_is_one_component_of_a_path(disk: Disk, name: str) -> None:
    with pytest.raises(InvalidArgument):
        disk.store.create(name)
    assert not list(disk.root.iterdir())


def test_a_removed_volume_frees_its_name_before_its_files_are_gone(disk: Disk) -> None:
    disk.store.create("v1")
    (disk.root / "v1/_data/f").write_text("x")
    taken = disk.store.remove("v1")
    assert disk.store.get("v1") is None
    disk.store.create("v1")
    assert not list((disk.root / "v1/_data").iterdir())
    disk.store.discard(taken)
    assert not disk.trash.names()
    assert not disk.journal.entries()


def test_a_directory_that_was_announced_and_not_recorded_is_removed(disk: Disk) -> None:
    disk.journal.begin(VOLUME_DIR, "half")
    (disk.root / "half/_data").mkdir(parents=True)
    assert disk.store.repair() == ["volume directory half: no record: removed"]
    assert not (disk.root / "half").exists()
    assert not disk.journal.entries()


@pytest.mark.parametrize("is_orphan", [False, True])
def test_a_volume_whose_container_was_never_made_is_removed_when_nobody_has_it(disk: Disk, is_orphan: bool) -> None:
    disk.store.create_all([Volume(name="its")], "box")
    disk.store.create("other")
    asked = []

    def look(owner: str, name: str) -> bool:
        asked.append((owner, name))
        return is_orphan

    said = ["volume its: its container was never made: removed"] if is_orphan else []
    assert disk.store.repair(look) == said
    assert asked == [("box", "its")]
    assert [one.name for one in disk.store.all()] == (["other"] if is_orphan else ["its", "other"])
    assert sorted(path.name for path in disk.root.iterdir()) == (["other"] if is_orphan else ["its", "other"])
    assert not disk.journal.entries()


def test_a_volume_whose_container_was_recorded_is_announced_no_more(disk: Disk) -> None:
    disk.store.create_all([Volume(name="its")], "box")
    disk.store.settle(["its"])
    assert disk.store.repair(lambda owner, name: True) == []
    assert [one.name for one in disk.store.all()] == ["its"]


def test_data_that_nobody_announced_become_a_volume_again(disk: Disk) -> None:
    (disk.root / "old/_data").mkdir(parents=True)
    (disk.root / "old/_data/f").write_text("precious")
    (disk.root / "lost+found").mkdir()
    assert disk.store.repair() == ["volume directory old: nobody announced it: it is a volume again"]
    assert [one.name for one in disk.store.all()] == ["old"]
    assert (disk.root / "old/_data/f").read_text() == "precious"


def test_a_volume_whose_directory_is_gone_is_empty(disk: Disk) -> None:
    disk.store.create("v1")
    (disk.root / "v1/_data").rmdir()
    assert disk.store.repair() == ["volume v1: its directory is gone: it is empty now"]
    assert (disk.root / "v1/_data").is_dir()


def test_nothing_asks_what_is_mounted_on_the_data_after_a_crash(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.store.create("v1")
    (disk.root / "old/_data").mkdir(parents=True)
    ask = os.stat

    def hangs(path: object, *args: object, **kwargs: object) -> os.stat_result:
        assert not str(path).endswith("_data"), "this never returns while the server of the mount is gone"
        return ask(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", hangs)
    monkeypatch.setattr(os, "lstat", hangs)
    assert disk.store.repair() == ["volume directory old: nobody announced it: it is a volume again"]


def test_half_a_copy_is_gone_after_a_crash_and_the_volume_is_empty(disk: Disk) -> None:
    disk.store.create("v1")
    Path(disk.store.stage("v1"), "half").write_text("x")
    assert disk.store.repair() == []
    assert sorted(path.name for path in (disk.root / "v1").iterdir()) == ["_data"]
    assert not list((disk.root / "v1/_data").iterdir())


def test_a_finished_copy_takes_the_place_of_the_empty_data_alone(disk: Disk) -> None:
    disk.store.create("v1")
    Path(disk.store.stage("v1"), "f").write_text("x")
    disk.store.adopt_staged("v1")
    assert (disk.root / "v1/_data/f").read_text() == "x"
    disk.store.stage("v1")
    with pytest.raises(OSError, match="not empty"):
        disk.store.adopt_staged("v1")
