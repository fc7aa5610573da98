"""Durations and sizes as Go reads them."""

from __future__ import annotations

import pytest

from corten.spec.units import parse_duration_ns, parse_size

SECOND = 10**9


@pytest.mark.parametrize(
    ("text", "duration_ns"),
    [("1h30m", 5400 * SECOND), ("-1.5s", -1_500_000_000), ("0", 0), (".5\u03bcs", 500), ("1.\u00b5s", 1000)],
)
def test_durations_are_gos(text: str, duration_ns: int) -> None:
    assert parse_duration_ns(text) == duration_ns


@pytest.mark.parametrize(
    ("text", "why"),
    [("5 minutes", "invalid"), ("", "invalid"), ("5", "missing unit in"), ("9999999h", "invalid")],
)
def test_what_is_no_duration_is_refused_with_gos_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{why}$"):
        parse_duration_ns(text)


def test_a_size_is_in_steps_of_1024_or_1000() -> None:
    assert [parse_size(text, 1024) for text in ("3", "3b", "3k", "1.5 MiB")] == [3, 3, 3 << 10, 3 << 19]
    assert [parse_size(text, 1000) for text in ("3", "3kb", "1.5 MiB", "2p")] == [3, 3000, 1_500_000, 2 * 10**15]


@pytest.mark.parametrize("text", ["", "k", "-1", "1ib", "1kk", "1e3", "9999999p"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid size"):
        parse_size(text, 1000)
