"""Sizes and times as Docker's CLI writes and reads them (github.com/docker/go-units, facts only)."""

from __future__ import annotations

import re
import time
from fractions import Fraction

from corten import errors
from corten.cli.flags import quoted

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_BINARY = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_INT64_MAX = (1 << 63) - 1
_DIGITS = r"(?:[0-9]{1,99}(?:\.[0-9]{0,99})?|\.[0-9]{1,99})"
_NUMBER = re.compile(_DIGITS)
_SIZE = re.compile(rf"({_DIGITS}) ?(?:([kmgtp])i?)?b?")
_DURATION_PART = re.compile(rf"({_DIGITS})(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_NANOSECONDS = {
    "ns": 1,
    **dict.fromkeys(("us", "\u00b5s", "\u03bcs"), 10**3),
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}


def human_size(size_bytes: float, precision: int = 3) -> str:
    """`1437` → `1.44kB`: decimal units with `precision` significant digits."""
    value, unit = float(size_bytes), 0
    while value >= 1000.0 and unit < len(_DECIMAL) - 1:
        value /= 1000.0
        unit += 1
    return f"{value:.{precision}g}".replace("e+03", "000") + _DECIMAL[unit]


def human_duration(seconds: float) -> str:
    """`75` → `About a minute`, as `docker ps` writes ages."""
    minutes, hours = int(seconds // 60), int(seconds / 3600 + 0.5)
    if seconds < 60:
        return {0: "Less than a second", 1: "1 second"}.get(int(seconds), f"{int(seconds)} seconds")
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    days = hours // 24
    for limit, divisor, unit in ((14, 1, "days"), (60, 7, "weeks"), (730, 30, "months")):
        if days < limit:
            return f"{days // divisor} {unit}"
    return f"{int(seconds / 3600) // 24 // 365} years"


def binary_size(size_bytes: float) -> str:
    """`25276510208` → `23.54GiB`."""
    value, unit = float(size_bytes), 0
    while value >= 1024.0 and unit < 6:
        value /= 1024.0
        unit += 1
    return f"{value:.4g}{('B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB')[unit]}"


def ago(unix_s: float) -> str:
    """`2 hours ago` for a time in seconds since the epoch."""
    return human_duration(max(0.0, time.time() - unix_s)) + " ago"


def parse_bytes(text: str) -> int:
    """`64m` → 67108864.  Raises `InvalidArgument` with Docker's words, also where Docker would overflow."""
    found = _SIZE.fullmatch(text.strip().lower())
    value = Fraction(found[1]) * _BINARY[found[2] or ""] if found is not None else -1
    if not 0 <= value <= _INT64_MAX:
        raise errors.InvalidArgument(f"invalid size: '{text}'")
    return int(value)


def parse_swap(text: str) -> int:
    """The same, and `-1` for as much as there is."""
    return -1 if text == "-1" else parse_bytes(text)


def parse_duration_ns(text: str) -> int:
    """Go's `time.ParseDuration`: `1m30s` → nanoseconds.  Raises `InvalidArgument`."""
    body = text[1:] if text[:1] in ("-", "+") else text
    if body == "0":
        return 0
    parts = _DURATION_PART.findall(body)
    if not parts or "".join(number + unit for number, unit in parts) != body:
        is_bare = _NUMBER.fullmatch(body) is not None and Fraction(body) <= _INT64_MAX
        raise errors.InvalidArgument(f"time: {'missing unit in' if is_bare else 'invalid'} duration {quoted(text)}")
    total = int(sum(Fraction(number) * _NANOSECONDS[unit] for number, unit in parts))
    if total > _INT64_MAX:
        raise errors.InvalidArgument(f"time: invalid duration {quoted(text)}")
    return -total if text.startswith("-") else total
