"""Detach keys: the sequence that takes a client off a terminal without ending the process.

Syntax as in `docker attach --detach-keys`: keys separated by commas, each one character, `ctrl-<key>` or `DEL`.
"""

from __future__ import annotations

from corten.errors import InvalidArgument

DEFAULT_KEYS = b"\x10\x11"  # ctrl-p,ctrl-q

_CONTROL = {f"ctrl-{key}": code for code, key in enumerate("@abcdefghijklmnopqrstuvwxyz[\\]^_")}
_NAMED = {**_CONTROL, "DEL": 127}


def parse_keys(keys: str) -> bytes:
    """The byte sequence of a key list; the default when empty.

    Raises:
        InvalidArgument: in dockerd's words.
    """
    if not keys:
        return DEFAULT_KEYS
    codes = bytearray()
    for key in keys.split(","):
        if len(key) == 1 and ord(key) < 256:
            codes.append(ord(key))
        elif key in _NAMED:
            codes.append(_NAMED[key])
        else:
            raise InvalidArgument(f"Invalid detach keys ({keys}) provided")
    return bytes(codes)


class DetachFilter:
    """Looks for the sequence in what a client types, also across reads.

    A prefix of the sequence is held back until the next key decides, as dockerd does.
    """

    __slots__ = ("_keys", "_matched")

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(bytes for the terminal, whether the sequence is complete).  What follows the sequence is dropped."""
        keys = self._keys
        held = keys[: self._matched]
        text = held + data
        found = text.find(keys)
        if found >= 0:
            self._matched = 0
            return text[:found], True
        self._matched = _overlap(text, keys)
        return text[: len(text) - self._matched], False


def _overlap(text: bytes, keys: bytes) -> int:
    """Length of the longest end of `text` that begins `keys`."""
    for length in range(min(len(keys) - 1, len(text)), 0, -1):
        if text.endswith(keys[:length]):
            return length
    return 0
