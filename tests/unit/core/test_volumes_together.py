"""Several volumes of one create: two transactions however many they are, and all or none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.core.journal import VOLUME_DIR, Journal
from corten.core.metadata import Database
from corten.core.trash import Trash
from corten.core.volumes import Volume, VolumeStore
from corten.errors import InvalidArgument, Unavailable


class Counting(Database):
    """Counts transactions that are no part of another; `room` of them are left, then the disk is full."""

    begun = 0
    room = 1 << 30

    def transaction(self):  # type: ignore[no-untyped-def]
        if not self.is_in_transaction:
            self.begun += 1
            if self.begun > self.room:
                raise Unavailable("corten.db: database or disk is full")
        return super().transaction()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Counting]:
    made = Counting(str(tmp_path / "corten.db"))
    yield made
    made.close()


@pytest.fixture
def store(tmp_path: Path, database: Counting) -> VolumeStore:
    (tmp_path / "volumes").mkdir()
    store = VolumeStore(str(tmp_path / "volumes"), database, Journal(database), Trash(str(tmp_path / "trash")))
    database.begun = 0
    return store


def wanted(count: int) -> list[Volume]:
    return [Volume(name=f"v{number}", labels={"n": str(number)}) for number in range(count)]


@pytest.mark.parametrize("count", [1, 2, 300])
def test_many_volumes_take_as_many_transactions_as_one(store: VolumeStore, database: Counting, count: int) -> None:
    made = store.create_all(wanted(count))
    assert database.begun == 2
    assert sorted(one.name for one in store.all()) == sorted(one.name for one in made)
    assert {one.created_ns > 0 for one in made} == {True}
    assert all(os.path.isdir(store.mountpoint(one.name)) for one in made)
    assert store._journal.entries() == []


def test_none_take_none(store: VolumeStore, database: Counting) -> None:
    assert (store.create_all([]), database.begun) == ([], 0)


def test_one_name_that_is_none_makes_nothing(store: VolumeStore) -> None:
    with pytest.raises(InvalidArgument):
        store.create_all([*wanted(2), Volume(name="../x")])
    assert (store.all(), os.listdir(store.path), store._journal.entries()) == ([], [], [])


def test_a_directory_that_cannot_be_made_leaves_none_of_the_others(
    store: VolumeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def refuse(path: str, mode: int = 0o777) -> None:
        if path.endswith("/v1"):
            raise PermissionError(13, "Permission denied", path)
        mkdir(path, mode)

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(PermissionError) as caught:
        store.create_all(wanted(3))
    assert caught.value.filename == store.directory("v1")
    assert (store.all(), os.listdir(store.path), store._journal.entries()) == ([], [], [])


def test_a_disk_that_is_full_at_the_rows_leaves_no_directory(store: VolumeStore, database: Counting) -> None:
    database.room = 1  # for what is announced
    with pytest.raises(Unavailable):
        store.create_all(wanted(3))
    database.room = 1 << 30
    assert (store.all(), os.listdir(store.path)) == ([], [])
    assert {one.kind for one in store._journal.entries()} <= {VOLUME_DIR}
    assert store.repair() == [f"volume directory v{number}: no record: removed" for number in range(3)]
    assert store._journal.entries() == []
