"""`--dry-run`: asked of Corten alone."""

from __future__ import annotations

from typing import Any

import pytest

from corten.cli.command import Failure
from corten.cli.pruning import dry_query, total


class Engine:
    """Answers /version alone."""

    def __init__(self, name: str) -> None:
        self._name = name

    def json(self, method: str, path: str) -> Any:
        assert (method, path) == ("GET", "/version")
        return {"Platform": {"Name": self._name}}


def test_an_engine_that_would_remove_is_not_asked() -> None:
    engine: Any = Engine("Docker Engine - Community")
    with pytest.raises(Failure, match="it would remove"):
        dry_query(engine, True)


def test_corten_is_asked_for_a_dry_run() -> None:
    engine: Any = Engine("Corten")
    assert dry_query(engine, True) == {"dry-run": True}
    assert dry_query(engine, False) == {}


def test_the_last_line_says_whether_it_happened() -> None:
    assert total(1000, True) == "Total space that would be reclaimed: 1kB"
    assert total(0, False) == "Total reclaimed space: 0B"
