"""Overlay snapshots: life cycle, mounts, staging."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest

from corten.core.journal import Journal
from corten.core.metadata import Database
from corten.core.snapshots import ALLOWED, Adoption, Kind, Overlay, Verb
from corten.core.trees import Usage
from corten.errors import AlreadyExists, FailedPrecondition, NotFound


def committed(overlay: Overlay, key: str, parent: str = "") -> None:
    overlay.prepare(f"{key}-making", parent)
    overlay.commit(f"{key}-making", key)


def test_a_snapshot_over_nothing_is_a_directory(overlay: Overlay) -> None:
    (mount,) = overlay.prepare("a")
    assert (mount.type, mount.options) == ("bind", ["rw", "rbind"])
    assert stat.S_IMODE(os.stat(mount.source).st_mode) == 0o755
    assert stat.S_IMODE(os.stat(Path(mount.source).parent).st_mode) == 0o710


def test_the_mount_names_every_layer_topmost_first(overlay: Overlay) -> None:
    committed(overlay, "one")
    committed(overlay, "two", "one")
    (mount,) = overlay.prepare("c", "two")
    one, two, top = (overlay.fs_path(overlay.stat(key).id) for key in ("one", "two", "c"))
    work = top.removesuffix("fs") + "work"
    assert (mount.type, mount.source) == ("overlay", "overlay")
    assert mount.options == [f"lowerdir={two}:{one}", f"upperdir={top}", f"workdir={work}"]
    assert stat.S_IMODE(os.stat(work).st_mode) == 0o700
    assert overlay.mounts("c") == [mount]


def test_views_are_read_only(overlay: Overlay) -> None:
    committed(overlay, "one")
    committed(overlay, "two", "one")
    (single,) = overlay.view("v1", "one")
    assert (single.type, single.options) == ("bind", ["ro", "rbind"])
    (several,) = overlay.view("v2", "two")
    assert [option.partition("=")[0] for option in several.options] == ["lowerdir"]


def test_colons_in_the_data_root_do_not_end_a_path(tmp_path: Path, database: Database, journal: Journal) -> None:
    (tmp_path / "a:b").mkdir()
    overlay = Overlay(str(tmp_path / "a:b"), database, journal)
    committed(overlay, "one")
    (mount,) = overlay.prepare("c", "one")
    assert "/a\\:b/" in mount.options[0]


def test_a_commit_counts_what_was_written_and_takes_the_work_directory(overlay: Overlay) -> None:
    (mount,) = overlay.prepare("a")
    Path(mount.source, "f").write_bytes(bytes(1000))
    os.link(Path(mount.source, "f"), Path(mount.source, "g"))
    assert overlay.usage("a") == Usage(1000, 1)
    overlay.commit("a", "done", {"k": "v"})
    snapshot = overlay.stat("done")
    assert (snapshot.kind, snapshot.size, snapshot.labels) == (Kind.COMMITTED, 1000, {"k": "v"})
    assert os.listdir(Path(mount.source).parent) == ["fs"]
    assert not overlay.exists("a")


def test_removal_takes_the_directory_and_the_record(overlay: Overlay, journal: Journal) -> None:
    (mount,) = overlay.prepare("a")
    Path(mount.source, "deep/er").mkdir(parents=True)
    overlay.remove("a")
    assert overlay.directories() == []
    assert journal.entries() == []
    with pytest.raises(NotFound, match="snapshot a does not exist"):
        overlay.remove("a")


def make(overlay: Overlay, kind: Kind) -> None:
    """A snapshot `x` of a kind over `base`."""
    committed(overlay, "base")
    if kind is Kind.ACTIVE:
        overlay.prepare("x", "base")
    elif kind is Kind.VIEW:
        overlay.view("x", "base")
    else:
        committed(overlay, "x", "base")


def do(overlay: Overlay, verb: Verb) -> None:
    """A verb on `x`."""
    match verb:
        case Verb.COMMIT:
            overlay.commit("x", "y")
        case Verb.REMOVE:
            overlay.remove("x")
        case Verb.MOUNT:
            overlay.mounts("x")
        case Verb.BE_PARENT:
            overlay.prepare("child", "x")


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("verb", Verb)
def test_what_each_kind_allows_is_the_table(overlay: Overlay, kind: Kind, verb: Verb) -> None:
    make(overlay, kind)
    if verb in ALLOWED[kind]:
        do(overlay, verb)
    else:
        with pytest.raises(FailedPrecondition, match=f"is {kind}: it cannot {verb}"):
            do(overlay, verb)


def test_keys_are_unique_parents_exist_and_stay(overlay: Overlay) -> None:
    committed(overlay, "base")
    overlay.prepare("a", "base")
    with pytest.raises(AlreadyExists, match="snapshot a already exists"):
        overlay.prepare("a", "base")
    with pytest.raises(AlreadyExists, match="snapshot base already exists"):
        overlay.commit("a", "base")
    with pytest.raises(NotFound, match="snapshot none does not exist"):
        overlay.prepare("b", "none")
    with pytest.raises(FailedPrecondition, match="snapshot base is the parent of another"):
        overlay.remove("base")
    assert [child.key for child in overlay.children("base")] == ["a"]
    assert len(overlay.directories()) == 2


def test_a_directory_number_is_never_used_twice(overlay: Overlay) -> None:
    overlay.prepare("a")
    first = overlay.stat("a").id
    overlay.remove("a")
    overlay.prepare("a")
    assert overlay.stat("a").id > first


def test_staging_leaves_nothing_unless_it_is_adopted(overlay: Overlay, journal: Journal) -> None:
    with overlay.stage() as dropped, overlay.stage() as kept:
        assert len(overlay.staged_directories()) == len(journal.entries()) == 2
        Path(dropped.path, "fs/x").touch()
        Path(kept.path, "fs/y").touch()
        overlay.adopt([Adoption(kept, "chain", "", Usage(5, 1))])
    assert not [*overlay.staged_directories(), *journal.entries()]
    assert os.listdir(overlay.fs_path(overlay.stat("chain").id)) == ["y"]


def test_adoption_is_all_or_nothing_and_leaves_what_is_there(overlay: Overlay) -> None:
    with overlay.stage() as one, overlay.stage() as two:
        with pytest.raises(NotFound):
            overlay.adopt([Adoption(one, "a", "", Usage(0, 0)), Adoption(two, "b", "missing", Usage(0, 0))])
        assert overlay.all() == []
        assert overlay.directories() == []
        overlay.adopt([Adoption(one, "a", "", Usage(0, 0))])
        overlay.adopt([Adoption(two, "a", "", Usage(7, 7))])
    assert [(found.key, found.size) for found in overlay.all()] == [("a", 0)]


def test_an_adoption_whose_commit_fails_leaves_its_place_to_the_next(overlay: Overlay, database: Database) -> None:
    with overlay.stage() as one, overlay.stage() as two:
        adoption = Adoption(one, "a", "", Usage(0, 0))
        with database.transaction() as tx:  # a promise that only a commit finds broken
            tx.execute("CREATE TABLE promises (kept REFERENCES snapshots(id) DEFERRABLE INITIALLY DEFERRED)")
            tx.execute("CREATE TRIGGER broken AFTER INSERT ON snapshots BEGIN INSERT INTO promises VALUES (0); END")
        with pytest.raises(sqlite3.IntegrityError):
            overlay.adopt([adoption])
        with database.transaction() as tx:
            tx.execute("DROP TRIGGER broken")
        assert not [*overlay.all(), *overlay.directories()]
        assert sorted(overlay.staged_directories()) == sorted([one.name, two.name])
        overlay.adopt([Adoption(two, "b", "", Usage(0, 0)), adoption])
    assert [found.key for found in overlay.all()] == ["b", "a"]


def test_opening_again_empties_staging(overlay: Overlay, database: Database, journal: Journal) -> None:
    leftover = Path(overlay.root, "staging/dead/fs/deep")
    leftover.mkdir(parents=True)
    journal.begin("staging-dir", "dead")
    again = Overlay(overlay.root, database, journal)
    assert not [*again.staged_directories(), *journal.entries()]


def test_a_directory_that_cannot_be_made_leaves_no_record(overlay: Overlay) -> None:
    overlay.prepare("a")
    blocked = Path(overlay.root, str(overlay.stat("a").id + 1))
    blocked.touch()
    with pytest.raises(FileExistsError):
        overlay.prepare("b")
    assert not overlay.exists("b")
