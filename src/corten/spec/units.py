"""Durations as Go's `time.ParseDuration` reads them, sizes as github.com/docker/go-units does (facts only)."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

_INT64_MAX: Final = (1 << 63) - 1
_DIGITS: Final = r"(?:[0-9]{1,99}(?:\.[0-9]{0,99})?|\.[0-9]{1,99})"
_NUMBER: Final = re.compile(_DIGITS)
_SIZE: Final = re.compile(rf"({_DIGITS}) ?(?:([kmgtp])i?)?b?")
_DURATION_PART: Final = re.compile(rf"({_DIGITS})(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_NANOSECONDS: Final = {
    "ns": 1,
    **dict.fromkeys(("us", "\u00b5s", "\u03bcs"), 10**3),
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}


def parse_size(text: str, step: int) -> int:
    """`64m` in bytes, where k is `step` bytes: 1024 or 1000.  Raises ValueError, also where Go would overflow."""
    found = _SIZE.fullmatch(text.lower())
    value = Fraction(found[1]) * step ** "bkmgtp".index(found[2] or "b") if found is not None else -1
    if not 0 <= value <= _INT64_MAX:
        raise ValueError(f"invalid size: '{text}'")
    return int(value)


def parse_duration_ns(text: str) -> int:
    """`-1m30s` in nanoseconds.  Raises ValueError with what Go says between `time:` and `duration`."""
    body = text[1:] if text[:1] in ("-", "+") else text
    if body == "0":
        return 0
    parts = _DURATION_PART.findall(body)
    if not parts or "".join(number + unit for number, unit in parts) != body:
        is_bare = _NUMBER.fullmatch(body) is not None and Fraction(body) <= _INT64_MAX
        raise ValueError("missing unit in" if is_bare else "invalid")
    total = int(sum(Fraction(number) * _NANOSECONDS[unit] for number, unit in parts))
    if total > _INT64_MAX:
        raise ValueError("invalid")
    return -total if text.startswith("-") else total
