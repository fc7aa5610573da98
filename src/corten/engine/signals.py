"""Names and numbers of signals, as Docker takes and prints them."""

from __future__ import annotations

import signal
from typing import Final

from corten.errors import InvalidArgument

_NUMBERS: Final = {item.name.removeprefix("SIG"): int(item) for item in signal.Signals if "_" not in item.name} | {
    "RTMIN": 34,
    "RTMAX": 64,
    **{f"RTMIN+{n}": 34 + n for n in range(1, 16)},
    **{f"RTMAX-{n}": 64 - n for n in range(1, 15)},
}
_LAST: Final = 64


def parse_signal(text: str) -> int:
    """`TERM`, `SIGTERM`, `sigterm`, `15` → 15.  Raises InvalidArgument: `invalid signal: FOO`."""
    if text.isdecimal():
        number = int(text)
        if 0 < number <= _LAST:
            return number
        raise InvalidArgument(f"invalid signal: {text}")
    number = _NUMBERS.get(text.upper().removeprefix("SIG"), 0)
    if not number:
        raise InvalidArgument(f"invalid signal: {text}")
    return number
