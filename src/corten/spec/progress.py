"""Progress messages as Docker's API has them (moby pkg/jsonmessage, facts only): for those who send and who show them.

    {"status": "Pushing", "progressDetail": {"current": 512, "total": 1024}, "progress": "[==>  ]  512B/…", "id": "…"}

No I/O.
"""

from __future__ import annotations

from typing import Any, Final

Json = dict[str, Any]

WIDE: Final = 200
"""Columns of nobody's terminal: what the API's own text is made for."""

_BOX = 50
_BOX_FROM = 110  # columns
_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")


def status(text: str, subject: str = "") -> Json:
    """A message without numbers; with `subject` it replaces what was last said of that."""
    return {"status": text, "progressDetail": {}, "id": subject} if subject else {"status": text}


def moved(text: str, subject: str, *, current: int, total: int) -> Json:
    """A message with a bar; `total` 0 when nobody knows."""
    numbers = {name: value for name, value in (("current", current), ("total", total)) if value}
    shown = bar(current, total)
    return {"status": text, "progressDetail": numbers, **({"progress": shown} if shown else {}), "id": subject}


def aux(value: Json) -> Json:
    """What a program reads and nobody is shown."""
    return {"progressDetail": {}, "aux": value}


def bar(current: int, total: int, *, width: int = WIDE) -> str:
    """`[====>    ]  1.5MB/3MB`, by the columns of the terminal; '' when there is nothing to show."""
    if current <= 0 and total <= 0:
        return ""
    if total <= 0:
        return f"{human_size(current):>8}"
    filled = min(_BOX, int(current / total * 100) // 2)
    box = f"[{'=' * filled}>{' ' * (_BOX - filled)}] " if width > _BOX_FROM else ""
    return box + f"{human_size(current):>8}" + ("" if current > total else f"/{human_size(total)}")


def human_size(size_bytes: float) -> str:
    """`1984132` → `1.984MB`: decimal units with four significant digits."""
    value, unit = float(size_bytes), 0
    while value >= 1000.0 and unit < len(_DECIMAL) - 1:
        value /= 1000.0
        unit += 1
    return f"{value:.4g}{_DECIMAL[unit]}"
