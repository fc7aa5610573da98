"""`corten volume`: the order of names."""

from __future__ import annotations

import pytest

from corten.cli.volumes import natural


@pytest.mark.parametrize(
    "ordered",
    [["v1", "v1x", "v9", "v10"], ["a", "a0", "ab"], ["a1", "a01", "a2"], ["2", "10", "a"], ["a10", "a-1", "b"]],
)
def test_numbers_in_names_sort_by_value_and_before_all_else(ordered: list[str]) -> None:
    assert sorted(set(ordered), key=natural) == ordered
