"""The picture of curves: it is SVG, everything lies inside, and it can be read on white and on dark."""

from __future__ import annotations

import itertools
import re
import sys
from xml.etree import ElementTree

import pytest

from support import paths

sys.path.append(str(paths.REPOSITORY / "bench"))  # bench is run, not installed

import picture
from picture import Panel

NAMES = ("corten", "dockerd")
SVG = "{http://www.w3.org/2000/svg}"
GROUNDS = ("#ffffff", "#0d1117")
ENOUGH = 3.0  # WCAG 2.1, 1.4.11: graphics, and what is no body text


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.1)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("ground", GROUNDS)
@pytest.mark.parametrize("colour", [*picture.COLOURS, picture.INK])
def test_every_colour_can_be_told_from_the_page(colour: str, ground: str) -> None:
    assert contrast(colour, ground) >= ENOUGH


def drawn(*panels: Panel) -> ElementTree.Element:
    return ElementTree.fromstring(picture.svg(panels, NAMES))


def test_every_point_lies_inside_its_panel_and_more_is_higher() -> None:
    values = [(1.0, 0.0), (10.0, 3.0), (1000.0, 7.5)]
    root = drawn(Panel("list", "ms", {"corten": values, "dockerd": [(1.0, 2.0), (500.0, 4.0)]}))
    circles = [(float(one.attrib["cx"]), float(one.attrib["cy"])) for one in root.iter(f"{SVG}circle")]
    assert len(circles) == 5
    assert all(0 <= x <= 340 and 0 <= y <= 210 for x, y in circles)
    (first, second, third), rest = circles[:3], circles[3:]
    assert first[0] < second[0] < third[0]
    assert first[1] > second[1] > third[1], "more is higher"
    assert second[1] > rest[1][1] > third[1]


def test_values_far_apart_have_a_logarithmic_scale_in_which_steps_are_alike() -> None:
    scale = picture.value_scale([0.3, 3, 30])
    places = [scale.place(value) for value in (0.3, 3, 30)]
    assert places[0] - places[1] == pytest.approx(places[1] - places[2])
    assert scale.ticks == (0.1, 1.0, 10.0, 100.0)


@pytest.mark.parametrize("high", [0.004, 0.9, 1, 7, 99, 100, 1234])
def test_a_scale_reaches_its_highest_value_in_few_steps(high: float) -> None:
    ticks = picture.value_scale([0, high]).ticks
    assert ticks[0] == 0
    assert ticks[-1] >= high
    assert 3 <= len(ticks) <= 6


def test_nothing_but_zeroes_is_drawn_too() -> None:
    assert len(list(drawn(Panel("idle", "%", {"corten": [(1, 0), (10, 0)]})).iter(f"{SVG}circle"))) == 2


def test_numbers_below_the_picture_do_not_touch_each_other() -> None:
    counts = [1, 10, 50, 100, 200, 500, 1000]
    scale = picture.count_scale(counts)
    assert scale.ticks[-1] == 1000
    places = [scale.place(tick) for tick in scale.ticks]
    assert all(after - before >= 30 for before, after in itertools.pairwise(places))


def test_titles_are_text_and_nothing_else() -> None:
    text = picture.svg([Panel("a <b> & c", "ms", {"corten": [(1, 1)]})], NAMES)
    assert "a &lt;b&gt; &amp; c, ms" in text
    assert not re.search(r"<(script|style|image)|href", text)
