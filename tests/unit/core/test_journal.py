"""The journal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.core import journal as j
from corten.core.journal import Journal
from corten.core.metadata import Database
from corten.errors import Unavailable


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(str(tmp_path / "db"))
    yield opened
    opened.close()


@pytest.fixture
def journal(database: Database) -> Journal:
    return Journal(database)


def numbers(journal: Journal) -> list[int]:
    return [entry.id for entry in journal.entries()]


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


def test_what_cannot_be_struck_out_goes_with_the_next(journal: Journal, database: Database) -> None:
    owed, other = journal.begin(j.LINK, "a"), journal.begin(j.LINK, "b")
    database.query("PRAGMA query_only=ON")
    journal.done(owed)
    database.query("PRAGMA query_only=OFF")
    assert numbers(journal) == [owed, other]
    journal.done(other)
    assert numbers(journal) == []


def test_inside_a_transaction_a_failure_is_told_to_whoever_would_commit_it(
    journal: Journal, database: Database
) -> None:
    entry = journal.begin(j.LINK, "a")

    def strike_out() -> None:
        with database.transaction():
            database.query("PRAGMA query_only=ON")
            journal.done(entry)

    with pytest.raises(Unavailable, match="readonly"):
        strike_out()
    database.query("PRAGMA query_only=OFF")
    journal.done(journal.begin(j.LINK, "b"))
    assert numbers(journal) == [entry]  # its transaction never was: whoever began it says so again


def test_what_is_owed_outlives_a_transaction_that_fails(journal: Journal, database: Database) -> None:
    owed, other = journal.begin(j.LINK, "a"), journal.begin(j.LINK, "b")
    database.query("PRAGMA query_only=ON")
    journal.done(owed)
    database.query("PRAGMA query_only=OFF")

    def fail() -> None:
        with database.transaction():
            journal.done(other)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    journal.done(journal.begin(j.LINK, "c"))
    assert numbers(journal) == [other]
