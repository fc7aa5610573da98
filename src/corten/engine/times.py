"""Times as Docker takes and prints them.  Inside the engine a moment is an int: Unix time in ns, 0 for never."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from corten.errors import InvalidArgument
from corten.spec.units import parse_duration_ns

ZERO: Final = "0001-01-01T00:00:00Z"
SECOND_NS: Final = 10**9
_RFC3339: Final = re.compile(r"^(\d{4}-\d\d-\d\d)(?:T(\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?)?$")
_SECONDS: Final = re.compile(r"([+-]?[0-9]{1,18})(?:\.([0-9]+))?")  # more digits are no int64

_AGE: Final = re.compile(r"(?:(?P<weeks>[0-9]{1,6})w)?(?:(?P<days>[0-9]{1,6})d)?(?P<rest>[^-+wd]*)")
_NO_AGE: Final = "failed to parse value as an age, such as 30d or 12h"
_DAY_NS: Final = 24 * 3600 * SECOND_NS


def now_ns() -> int:
    """The time."""
    return time.time_ns()


def rfc3339(moment_ns: int) -> str:
    """UTC as Go's RFC3339Nano: no trailing zeros in the fraction; never is the year 1."""
    if not moment_ns:
        return ZERO
    second, fraction = divmod(moment_ns, SECOND_NS)
    tail = f".{fraction:09d}".rstrip("0") if fraction else ""
    moment = time.gmtime(second)
    return f"{moment.tm_year:04d}{time.strftime('-%m-%dT%H:%M:%S', moment)}{tail}Z"  # %Y has no leading zeros


def from_rfc3339(text: str) -> int:
    """The inverse; a moment without an offset is UTC.  Raises InvalidArgument."""
    found = _RFC3339.match(text)
    if not found:
        raise InvalidArgument(f"invalid time: {text!r}")
    day, clock, fraction, zone = found.groups()
    clock = clock or "00:00:00"
    clock = clock if len(clock) == 8 else f"{clock}:00"
    offset = "+00:00" if zone in (None, "Z") else zone
    try:
        whole = datetime.fromisoformat(f"{day}T{clock}{offset}").astimezone(UTC)
    except (ValueError, OverflowError) as error:  # OverflowError: before the year 1 or after 9999 in UTC
        raise InvalidArgument(f"invalid time: {text!r}") from error
    return int(whole.timestamp()) * SECOND_NS + int(f"{fraction or 0:0<9}")


def parse_timestamp(text: str) -> int:
    """`since` and `until` of logs, events and prune: Unix seconds with a fraction, RFC 3339, or a duration ago.

    Empty is 0.  Raises InvalidArgument.
    """
    if not text:
        return 0
    if found := _SECONDS.fullmatch(text):
        return int(found[1]) * SECOND_NS + int(f"{found[2] or '':0<9.9}")
    with suppress(ValueError):
        return time.time_ns() - parse_duration_ns(text)
    try:
        return from_rfc3339(text)
    except InvalidArgument as error:
        raise InvalidArgument(f'failed to parse value as time or duration: "{text}"') from error


def parse_age_ns(text: str) -> int:
    """`30d`, `2w`, `1d12h`, `90m`: how long, with days and weeks besides Go's units.  Raises InvalidArgument."""
    found = _AGE.fullmatch(text)
    if not text or found is None:
        raise InvalidArgument(f'{_NO_AGE}: "{text}"')
    whole = int(found["weeks"] or 0) * 7 + int(found["days"] or 0)
    try:
        return whole * _DAY_NS + (parse_duration_ns(found["rest"]) if found["rest"] else 0)
    except ValueError:
        raise InvalidArgument(f'{_NO_AGE}: "{text}"') from None


def human(duration_ns: int) -> str:
    """How long, as `docker ps` says it: `Less than a second`, `About a minute`, `3 weeks`."""
    seconds = int(duration_ns / SECOND_NS)
    minutes, hours = seconds // 60, int(duration_ns / SECOND_NS / 3600 + 0.5)
    steps: tuple[tuple[bool, str], ...] = (
        (seconds < 1, "Less than a second"),
        (seconds == 1, "1 second"),
        (seconds < 60, f"{seconds} seconds"),
        (minutes == 1, "About a minute"),
        (minutes < 60, f"{minutes} minutes"),
        (hours == 1, "About an hour"),
        (hours < 48, f"{hours} hours"),
        (hours < 24 * 7 * 2, f"{hours // 24} days"),
        (hours < 24 * 30 * 2, f"{hours // 24 // 7} weeks"),
        (hours < 24 * 365 * 2, f"{hours // 24 // 30} months"),
    )
    return next((text for holds, text in steps if holds), f"{hours // 24 // 365} years")
