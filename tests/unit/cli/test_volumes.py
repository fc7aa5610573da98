"""`corten volume`: the order of names, and what a template finds."""

from __future__ import annotations

import pytest

from corten.cli.gostruct import typed
from corten.cli.gotemplate import Template
from corten.cli.volumes import natural


@pytest.mark.parametrize(
    "ordered",
    [["v1", "v1x", "v9", "v10"], ["a", "a0", "ab"], ["a1", "a01", "a2"], ["2", "10", "a"], ["a10", "a-1", "b"]],
)
def test_numbers_in_names_sort_by_value_and_before_all_else(ordered: list[str]) -> None:
    assert sorted(set(ordered), key=natural) == ordered


def test_a_volume_without_options_has_an_empty_map_of_them() -> None:
    volume = {"Name": "v", "Labels": None, "Options": None}
    shown = Template("{{.Options}} {{.Labels}} {{.Status}} {{.UsageData}} {{json .Options}}").render(
        typed(volume, "volume")
    )
    assert shown == "map[] map[] map[] <nil> null"
