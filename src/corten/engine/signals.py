"""Names and numbers of signals, as Docker takes and prints them."""

from __future__ import annotations

import re
import signal
from typing import Final

from corten.errors import InvalidArgument

_NUMBERS: Final = {item.name.removeprefix("SIG"): int(item) for item in signal.Signals if "_" not in item.name} | {
    "RTMIN": 34,
    "RTMAX": 64,
    **{f"RTMIN+{n}": 34 + n for n in range(1, 16)},
    **{f"RTMAX-{n}": 64 - n for n in range(1, 15)},
}
_VALID: Final = frozenset((*range(1, 32), *range(34, 65)))  # 32 and 33 are the C library's own
_NUMBER: Final = re.compile(r"[+-]?[0-9]+")


def parse_signal(text: str) -> int:
    """`TERM`, `SIGTERM`, `sigterm`, `15` → 15.  Raises InvalidArgument in dockerd's words: `invalid signal: FOO`."""
    if _NUMBER.fullmatch(text):
        number = int(text)
        if number and number not in _VALID:
            raise InvalidArgument(f"the linux daemon does not support signal {number}")
        if number:
            return number
        raise InvalidArgument(f"invalid signal: {text}")
    number = _NUMBERS.get(text.upper().removeprefix("SIG"), 0)
    if not number:
        raise InvalidArgument(f"invalid signal: {text}")
    return number
