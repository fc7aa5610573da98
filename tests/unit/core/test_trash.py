"""Trees on their way out."""

from __future__ import annotations

import errno
import logging
import os
import threading
from pathlib import Path

import pytest

from corten.core import trees
from corten.core.journal import Journal
from corten.core.metadata import Database
from corten.core.snapshots import Overlay
from corten.core.trash import Trash


@pytest.fixture
def trash(tmp_path: Path) -> Trash:
    return Trash(str(tmp_path / "trash"))


def tree(folder: Path, name: str) -> Path:
    (folder / name / "deep").mkdir(parents=True)
    (folder / name / "deep/file").write_text("x")
    return folder / name


def test_what_is_thrown_away_is_gone(trash: Trash, tmp_path: Path) -> None:
    gone = tree(tmp_path, "1")
    trash.throw(str(tmp_path), "1")
    trash.throw(str(tmp_path), "1")  # absent is fine
    assert not gone.exists()
    assert trash.names() == []


def test_while_it_is_held_the_name_is_free_and_the_tree_waits(trash: Trash, tmp_path: Path) -> None:
    trash.hold()
    for _ in range(2):
        tree(tmp_path, "1")
        trash.throw(str(tmp_path), "1")
    assert not (tmp_path / "1").exists()
    assert len(trash.names()) == 2
    assert Trash(trash.path).empty() == 2  # of another process
    trash.release()
    tree(tmp_path, "1")
    trash.throw(str(tmp_path), "1")
    assert trash.names() == []


def test_what_cannot_be_renamed_is_removed_where_it_is(
    trash: Trash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    gone = tree(tmp_path, "1")
    monkeypatch.setattr(os, "rename", full)
    assert trash.take(str(tmp_path), "1") == ""
    assert not gone.exists()


def test_a_tree_that_the_disk_keeps_is_told_and_holds_up_no_other(
    trash: Trash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = []
    for number in range(3):
        tree(tmp_path, str(number))
        names.append(trash.take(str(tmp_path), str(number)))

    def remove_entry(parent_fd: int, name: bytes) -> int:
        if name.decode() == names[1]:
            raise OSError(errno.EIO, "input/output error")
        return trees.remove_entry(parent_fd, name)

    monkeypatch.setattr("corten.core.trash.remove_entry", remove_entry)
    with caplog.at_level(logging.WARNING):
        assert trash.empty() == 2
    assert trash.names() == [names[1]]
    assert f"{trash.path}/{names[1]} cannot be removed, the next start tries it again: input/output" in caplog.text
    monkeypatch.undo()
    assert trash.empty() == 1


def test_two_never_remove_the_same_tree(trash: Trash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go_on, calls = threading.Event(), threading.Event(), []

    def remove_entry(parent_fd: int, name: bytes) -> int:
        calls.append(name)
        began.set()
        assert go_on.wait(60)
        return trees.remove_entry(parent_fd, name)

    monkeypatch.setattr("corten.core.trash.remove_entry", remove_entry)
    tree(tmp_path, "1")
    first = threading.Thread(target=trash.throw, args=(str(tmp_path), "1"))
    first.start()
    assert began.wait(60)
    assert trash.empty() == 0
    go_on.set()
    first.join()
    assert len(calls) == 1
    assert trash.names() == []


def test_staging_of_a_process_that_was_killed_waits_in_the_trash(
    overlay: Overlay, database: Database, journal: Journal
) -> None:
    tree(Path(overlay.root, "staging"), "dead")
    again = Overlay(overlay.root, database, journal)
    assert again.staged_directories() == again.directories() == []
    assert again.trash.empty() == 1
