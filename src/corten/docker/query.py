"""Query strings, read as dockerd reads them."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs

import msgspec

from corten.docker.engine_api import Filters
from corten.errors import Internal, InvalidArgument

_FALSE = frozenset({"", "0", "no", "false", "none"})
_INTEGER = re.compile(r"[+-]?[0-9]+")


class Query:
    """The parameters of one request; a name that is missing is the empty string."""

    __slots__ = ("_values",)

    def __init__(self, text: str) -> None:
        self._values = parse_qs(text, keep_blank_values=True, errors="replace") if text else {}

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def text(self, name: str) -> str:
        """The first value."""
        return self._values[name][0] if name in self._values else ""

    def texts(self, name: str) -> list[str]:
        """All values."""
        return self._values.get(name, [])

    def flag(self, name: str, default: bool = False) -> bool:
        """True unless empty, 0, no, false or none; `default` when it is not given at all."""
        if name not in self._values:
            return default
        return self.text(name).strip().lower() not in _FALSE

    def integer(self, name: str) -> int | None:
        """A decimal number, None when it is not given.  Raises Internal: dockerd answers 500 here."""
        text = self.text(name)
        try:
            return None if text == "" else integer(text)
        except InvalidArgument as error:
            raise Internal(error.text) from error

    def filters(self, name: str = "filters") -> Filters:
        """`{"label": {"a=b": true}}` or, as old clients write it, `{"label": ["a=b"]}`."""
        text = self.text(name)
        if not text:
            return {}
        try:
            raw = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidArgument("invalid filter") from error
        if raw is None:
            return {}
        if not isinstance(raw, dict):
            raise InvalidArgument("invalid filter")
        return {key: _filter_values(value) for key, value in raw.items()}


def integer(text: str) -> int:
    """A decimal number.  Raises InvalidArgument in the words of Go's strconv.Atoi."""
    if not _INTEGER.fullmatch(text):
        raise InvalidArgument(f'strconv.Atoi: parsing "{text}": invalid syntax')
    value = int(text) if len(text) < 21 else 1 << 64
    if not -(1 << 63) <= value < 1 << 63:
        raise InvalidArgument(f'strconv.Atoi: parsing "{text}": value out of range')
    return value


def _filter_values(value: Any) -> list[str]:
    match value:
        case None:
            return []
        case dict() if all(isinstance(item, bool) for item in value.values()):
            return list(value)  # also those that are false, as dockerd has it
        case list() if all(isinstance(item, str) for item in value):
            return value
        case _:
            raise InvalidArgument("invalid filter")
