"""The pure parts of `bench/scale.py`: the tables, the picture's panels, and their place in the page."""

from __future__ import annotations

import sys

import pytest

from support import paths

sys.path.append(str(paths.REPOSITORY / "bench"))  # bench is run, not installed

import scale
from scale import Curve

CURVES = {
    "corten": Curve({1: {"pss": 1.0, "scrape": 2.25}, 10: {"pss": 1.016}}),
    "dockerd": Curve({1: {"pss": 2.8}}, "7 run: no more"),
}


def test_a_table_has_a_column_for_each_count_and_dashes_where_nothing_was_measured() -> None:
    assert scale.table(scale.MEASURES, CURVES).splitlines() == [
        "| | | 1 | 10 |",
        "|--|--|--|--|",
        "| memory for each container, MB PSS | corten | 1.00 | 1.02 |",
        "|  | dockerd | 2.80 | – |",
        "| scrape of all metrics, ms | corten | 2.2 | – |",
    ]


def test_a_curve_that_ends_says_why() -> None:
    assert "dockerd ends: 7 run: no more." in scale.report(CURVES, {})


def test_the_picture_has_a_panel_for_each_measure_that_there_is() -> None:
    text = scale.drawn(CURVES)
    assert text.count("<g ") == 2
    assert text.count("<polyline ") == 3


def test_prose_and_other_sections_of_the_page_stay() -> None:
    page = f"# P\n\n{scale.HEADING}\n\nprose\n\n<!-- scale -->\n\nold\n\n## The last run\n\nrest\n"
    once = scale.placed(page, "new\n")
    assert once == f"# P\n\n{scale.HEADING}\n\nprose\n\n<!-- scale -->\n\nnew\n\n## The last run\n\nrest\n"
    assert scale.placed(once, "new\n") == once


def test_a_page_without_a_place_for_them_is_refused() -> None:
    with pytest.raises(ValueError, match="<!-- scale -->"):
        scale.placed("# P\n", "new\n")
