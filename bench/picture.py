"""Curves as an SVG picture of small panels: one per measure, the count of containers along each, a line per engine.

There is no background: colours and text are such that they can be read on white and on dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

Points = Sequence[tuple[float, float]]

COLOURS: Final = ("#c8622d", "#3f86d0", "#2f9e62")  # of the series, in their order
INK: Final = "#808080"
_WIDTH, _HEIGHT = 340, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 22, 40, 30
_COLUMNS: Final = 2
_HEAD: Final = 34
_LOG_FROM: Final = 20  # a panel whose values differ by more has a logarithmic scale


@dataclass(frozen=True, slots=True)
class Panel:
    """One measure: `series` are points (count, value) by engine, in the order of the colours."""

    title: str
    unit: str
    series: Mapping[str, Points]


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to pixels; `ticks` are the values that are written beside the axis."""

    place: Callable[[float], float]
    ticks: tuple[float, ...]


def svg(panels: Sequence[Panel], names: Sequence[str]) -> str:
    """The picture; `names` are those of the series, for the legend, in the order of the colours."""
    rows = -(-len(panels) // _COLUMNS)
    width, height = _COLUMNS * _WIDTH, _HEAD + rows * _HEIGHT
    colours = dict(zip(names, COLOURS, strict=False))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="11" fill="{INK}">',
        *_legend(colours),
    ]
    for number, panel in enumerate(panels):
        x, y = number % _COLUMNS * _WIDTH, _HEAD + number // _COLUMNS * _HEIGHT
        parts += [f'<g transform="translate({x} {y})">', *_panel(panel, colours), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _legend(colours: Mapping[str, str]) -> list[str]:
    out = []
    for number, (name, colour) in enumerate(colours.items()):
        x = _LEFT + number * 130
        out.append(f'<line x1="{x}" y1="18" x2="{x + 22}" y2="18" stroke="{colour}" stroke-width="2.5"/>')
        out.append(f'<text x="{x + 28}" y="22" font-size="12">{escape(name)}</text>')
    return out


def _panel(panel: Panel, colours: Mapping[str, str]) -> list[str]:
    points = [point for series in panel.series.values() for point in series]
    across = count_scale(sorted({x for x, _ in points}))
    up = value_scale([y for _, y in points])
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    out = [f'<text x="{_LEFT}" y="{_TOP - 16}" font-size="12">{escape(panel.title)}, {escape(panel.unit)}</text>']
    for tick in up.ticks:
        y = up.place(tick)
        out.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="{INK}" stroke-opacity="0.3"/>')
        out.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number_text(tick)}</text>')
    for tick in across.ticks:
        x = across.place(tick)
        out.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{number_text(tick)}</text>')
    for name, series in panel.series.items():
        out += _line([(across.place(x), up.place(y)) for x, y in series], colours[name])
    return out


def _line(places: Points, colour: str) -> list[str]:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}"/>' for x, y in places]
    return [f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>', *dots]


def count_scale(counts: Sequence[float]) -> Scale:
    """Logarithmic, so that 1 and 1000 can be told apart from their neighbours."""
    low, high = math.log10(counts[0]), math.log10(counts[-1])
    wide = _WIDTH - _RIGHT - _LEFT

    def place(value: float) -> float:
        share = (math.log10(value) - low) / (high - low) if high > low else 0.5
        return _LEFT + share * wide

    return Scale(place, _apart(counts, place))


def _apart(counts: Sequence[float], place: Callable[[float], float], gap: float = 30) -> tuple[float, ...]:
    """The last one, and those before it that leave room between their numbers."""
    kept: list[float] = []
    for count in reversed(counts):
        if not kept or place(kept[-1]) - place(count) >= gap:
            kept.append(count)
    return tuple(reversed(kept))


def value_scale(values: Sequence[float]) -> Scale:
    """From nothing upwards; logarithmic where the values lie far apart and none is nothing."""
    high, low = max(values), min(values)
    tall = _HEIGHT - _BOTTOM - _TOP
    if low > 0 and high / low > _LOG_FROM:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))

        def on_powers(value: float) -> float:
            return _TOP + (last - math.log10(value)) / (last - first) * tall

        return Scale(on_powers, tuple(10.0**power for power in range(first, last + 1)))
    step = _step(high or 1.0)
    top = step * math.ceil((high or 1.0) / step)

    def place(value: float) -> float:
        return _TOP + (top - value) / top * tall

    return Scale(place, tuple(step * number for number in range(round(top / step) + 1)))


def _step(high: float) -> float:
    """1, 2 or 5 times a power of ten, four or so of which reach `high`."""
    power = 10.0 ** math.floor(math.log10(high / 4))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor * 5 >= high)


def number_text(value: float) -> str:
    """Without what a float adds: 0.2, 10, 1000."""
    return f"{value:.6g}"
