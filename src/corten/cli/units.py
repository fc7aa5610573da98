"""Sizes and times as Docker's CLI writes and reads them (github.com/docker/go-units, facts only)."""

from __future__ import annotations

import time

from corten import errors

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_BINARY = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


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
    """`64m` → 67108864.  `-1` is kept.  Raises `InvalidArgument` with Docker's words."""
    if text == "-1":
        return -1
    body = text.strip().lower()
    body = body.removesuffix("ib") if body.endswith("ib") else body
    body = body[:-1] if body.endswith("b") and len(body) > 1 and body[-2] in "kmgtp" else body
    number, unit = (body[:-1], body[-1]) if body and body[-1] in _BINARY else (body, "")
    try:
        value = float(number)
    except ValueError:
        raise errors.InvalidArgument(f"invalid size: '{text}'") from None
    if value < 0:
        raise errors.InvalidArgument(f"invalid size: '{text}'")
    return int(value * _BINARY[unit])


def parse_duration_ns(text: str) -> int:
    """Go's `time.ParseDuration`: `1m30s` → nanoseconds.  Raises `InvalidArgument`."""
    scale = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
    total, rest = 0.0, text.strip()
    if rest == "0":
        return 0
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        tail = rest[digits:]
        unit = next((u for u in ("ns", "us", "µs", "ms", "s", "m", "h") if tail.startswith(u)), None)
        if not digits or unit is None:
            raise errors.InvalidArgument(f'time: invalid duration "{text}"')
        total += float(rest[:digits]) * scale[unit]
        rest = tail[len(unit) :]
    return int(total)
