"""Times as Docker takes and prints them."""

from __future__ import annotations

import time

import pytest

from corten.engine.times import from_rfc3339, human, parse_age_ns, parse_timestamp, rfc3339
from corten.errors import InvalidArgument

SECOND = 10**9


def test_rfc_3339_has_no_trailing_zeros_and_never_is_the_year_one() -> None:
    assert rfc3339(0) == "0001-01-01T00:00:00Z"
    assert rfc3339(1767323045 * SECOND) == "2026-01-02T03:04:05Z"
    assert rfc3339(1767323045 * SECOND + 678_900_000) == "2026-01-02T03:04:05.6789Z"


@pytest.mark.parametrize("moment", [1, 1767323045 * SECOND + 1, 1767323045 * SECOND + 123456789])
def test_a_moment_comes_back_to_the_nanosecond(moment: int) -> None:
    assert from_rfc3339(rfc3339(moment)) == moment


def test_offsets_and_days_alone_are_understood() -> None:
    assert from_rfc3339("2026-01-02T04:04:05+01:00") == 1767323045 * SECOND
    assert from_rfc3339("2026-01-02") == from_rfc3339("2026-01-02T00:00:00Z")


def test_timestamps_are_seconds_dates_or_durations_ago() -> None:
    assert parse_timestamp("") == 0
    assert parse_timestamp("1.5") == 1_500_000_000
    assert parse_timestamp("1136073600.000000001") == 1136073600 * SECOND + 1
    assert abs(parse_timestamp("10m") - (time.time_ns() - 600 * SECOND)) < SECOND
    with pytest.raises(InvalidArgument):
        parse_timestamp("x")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (3540, "59 minutes"),
        (3600, "About an hour"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (15 * 86400, "2 weeks"),
        (90 * 86400, "3 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert human(int(seconds * SECOND)) == text


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00Z", "0999-12-31T23:59:59.5Z", "9999-12-31T23:59:59Z"])
def test_years_of_strangers_come_back_with_four_digits(text: str) -> None:
    assert rfc3339(from_rfc3339(text)) == text


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-10:00"])
def test_a_moment_outside_of_the_calendar_is_no_time(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid time"):
        from_rfc3339(text)


@pytest.mark.parametrize("text", ["--5", "\u00b2", "9" * 20, "9" * 5000, "9" * 400 + "h", "1.\u00b2"])
def test_what_only_looks_like_a_number_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="failed to parse value as time or duration"):
        parse_timestamp(text)


def test_ages_have_days_and_weeks_besides_gos_units() -> None:
    day = 24 * 3600 * SECOND
    assert [parse_age_ns(text) for text in ("30d", "2w", "1w1d12h", "90m", "1.5h")] == [
        30 * day, 14 * day, 8 * day + day // 2, 5400 * SECOND, 5400 * SECOND,
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "30", "d", "x", "-1d", "-5m", "1d1w", "1d -1h", "9999999d"])
def test_what_is_no_age_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="failed to parse value as an age"):
        parse_age_ns(text)
