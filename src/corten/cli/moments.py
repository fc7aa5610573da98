"""Moments on the command line: `10m` ago, RFC 3339 with or without time and zone, or seconds since the epoch."""

from __future__ import annotations

import re
import time
from datetime import datetime

from corten import errors
from corten.cli.units import parse_duration_ns


def unix_seconds(text: str) -> str:
    """`SECONDS[.NANOSECONDS]`.  Raises `InvalidArgument`."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return text
    try:
        return f"{time.time() - parse_duration_ns(text) / 1e9:.9f}"
    except errors.InvalidArgument:
        return _from_date(text)


def _from_date(text: str) -> str:
    body, _, rest = text.partition(".")
    digits = re.match(r"\d+", rest)
    nanoseconds = digits.group(0)[:9].ljust(9, "0") if digits else "000000000"
    zone = rest[digits.end() :] if digits else ""
    try:
        moment = datetime.fromisoformat((body + zone).replace("Z", "+00:00"))
    except ValueError:
        raise errors.InvalidArgument(f'failed to parse value as time or duration: "{text}"') from None
    return f"{int(moment.timestamp())}.{nanoseconds}"


def rfc3339(unix_s: int, nanoseconds: int | None = None) -> str:
    """A moment in local time: `2024-01-01T00:00:00Z`, with `.000000001` when nanoseconds are given."""
    at = datetime.fromtimestamp(unix_s).astimezone()
    zone = at.strftime("%z")
    fraction = "" if nanoseconds is None else f".{nanoseconds:09d}"
    return f"{at:%Y-%m-%dT%H:%M:%S}{fraction}" + ("Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}")
