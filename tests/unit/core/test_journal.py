"""The journal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.core import journal as j
from corten.core.journal import Journal
from corten.core.metadata import Database


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    database = Database(str(tmp_path / "db"))
    yield Journal(database)
    database.close()


def test_what_was_begun_is_there_until_it_is_done(journal: Journal) -> None:
    link = journal.begin(j.LINK, "ct0", netns=5)
    first, second = journal.begin_all([(j.CGROUP, "/a", {}), (j.CGROUP, "/b", {"v": [1]})])
    assert [(e.kind, e.name, e.data) for e in journal.entries()] == [
        (j.LINK, "ct0", {"netns": 5}),
        (j.CGROUP, "/a", {}),
        (j.CGROUP, "/b", {"v": [1]}),
    ]
    assert [entry.id for entry in journal.entries(j.CGROUP)] == [first, second]
    journal.done(link, second, 999)
    journal.done_by_name(j.CGROUP, "/a")
    assert journal.entries() == []


def test_numbers_are_never_used_twice(journal: Journal) -> None:
    first = journal.begin(j.LINK, "a")
    journal.done(first)
    assert journal.begin(j.LINK, "a") > first
