"""Leases of requests, also on a database that refuses to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from corten.core.leases import CONTENT, Leases
from corten.core.metadata import Database
from corten.errors import Unavailable


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(str(tmp_path / "corten.db"))


def refuse(database: Database, is_on: bool) -> None:
    """As a full disk: nothing can be written."""
    database.query(f"PRAGMA query_only = {int(is_on)}")


def rows(database: Database) -> list[object]:
    return [row[0] for row in database.query("SELECT id FROM leases")]


def test_the_lease_of_a_request_ends_with_it(database: Database) -> None:
    leases = Leases(database)
    with leases.held() as lease:
        leases.add(lease.id, CONTENT, "sha256:a")
        assert leases.items(CONTENT) == {"sha256:a"}
    assert not leases.items(CONTENT)
    assert not rows(database)


def request_on_a_full_disk(leases: Leases, database: Database, error: Exception | None = None) -> None:
    with leases.held() as lease:
        leases.add(lease.id, CONTENT, "sha256:a")
        refuse(database, True)
        if error is not None:
            raise error


def test_a_lease_that_cannot_be_ended_protects_nothing_and_goes_later(database: Database) -> None:
    leases, told = Leases(database), list[Unavailable]()
    leases.owed = told.append
    request_on_a_full_disk(leases, database)
    assert len(told) == 1
    assert len(rows(database)) == 1
    assert not leases.items(CONTENT)
    assert not leases.list()
    refuse(database, False)
    leases.settle()
    assert not rows(database)


def test_a_full_disk_at_the_end_of_a_request_hides_no_error_of_it(database: Database) -> None:
    with pytest.raises(ValueError, match="the archive"):
        request_on_a_full_disk(Leases(database), database, ValueError("the archive"))
