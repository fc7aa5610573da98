"""Sizes and times as Docker's CLI writes and reads them (github.com/docker/go-units, facts only)."""

from __future__ import annotations

import time

from corten import errors
from corten.cli.flags import quoted
from corten.spec import units

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


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
    try:
        return units.parse_size(text.strip(), 1024)
    except ValueError:
        raise errors.InvalidArgument(f"invalid size: '{text}'") from None


def parse_swap(text: str) -> int:
    """The same, and `-1` for as much as there is."""
    return -1 if text == "-1" else parse_bytes(text)


def parse_duration_ns(text: str) -> int:
    """Go's `time.ParseDuration`: `1m30s` → nanoseconds.  Raises `InvalidArgument`."""
    try:
        return units.parse_duration_ns(text)
    except ValueError as error:
        raise errors.InvalidArgument(f"time: {error} duration {quoted(text)}") from None
