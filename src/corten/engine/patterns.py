"""What a client gives to be matched: Go's `regexp` and `path.Match`, each in a time that is bounded.

dockerd matches with RE2, whose time is linear in the text; Python's `re` tries every way through `(a+)+$` and would
keep all other clients waiting for hours.  So the expressions run in RE2 here too, which is loaded when the first one
comes.  What dockerd does with a wrong pattern is done here: an expression matches nothing, a path pattern is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from corten.errors import Internal, InvalidArgument

_MAX_BYTES: Final = 16 << 10  # of all expressions of one filter: at the worst 0.4 s in a thread
_MAX_PROGRAM_BYTES: Final = 1 << 20
_META: Final = frozenset("\\.+*?()|[]{}^$")
_TOO_LARGE: Final = "pattern too large"


class Regexps:
    """The values of a filter, each the text itself or an expression that is found in it (filters.Args.Match)."""

    def __init__(self, key: str, values: Sequence[str]) -> None:
        """Raises InvalidArgument when there is more to match than is reasonable."""
        self._key = key
        self._exact = frozenset(values)
        self._parts = tuple(value for value in values if not _META & set(value))
        self._sources = tuple(value for value in values if _META & set(value))
        self._compiled: tuple[Any, ...] | None = None
        size = sum(map(len, self._sources))
        if size > _MAX_BYTES:
            raise InvalidArgument(f"invalid filter '{key}': expressions of {size} characters (at most {_MAX_BYTES})")

    def match(self, *texts: str) -> bool:
        """Whether any value is one of the texts, or found in one; True when there are no values."""
        if not self._exact or not self._exact.isdisjoint(texts):
            return True
        if any(part in text for part in self._parts for text in texts):
            return True
        if self._compiled is None:
            self._compiled = tuple(self._compile())
        data = [_bytes(text) for text in texts]
        return any(one.search(text) is not None for one in self._compiled for text in data)

    def _compile(self) -> Iterator[Any]:
        if not self._sources:
            return
        import re2  # 9 ms and 2 MB that most engines never need

        options = re2.Options()
        options.max_mem, options.never_capture, options.log_errors = _MAX_PROGRAM_BYTES, True, False
        for source in self._sources:
            try:
                yield re2.compile(_bytes(source), options)
            except re2.error as error:
                if _TOO_LARGE in str(error):
                    shown = source if len(source) <= 64 else f"{source[:64]}…"
                    raise InvalidArgument(f"invalid filter '{self._key}={shown}': expression is too large") from error


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


class _Class(NamedTuple):
    """`[a-z]`, `[^x]`; a plain character is the class of itself alone."""

    ranges: tuple[tuple[str, str], ...]
    is_negated: bool = False

    def has(self, character: str) -> bool:
        return any(low <= character <= high for low, high in self.ranges) is not self.is_negated


_ANY: Final = _Class((("/", "/"),), is_negated=True)  # `?`


class PathPattern:
    """A pattern of Go's path.Match: `*` and `?` do not cross a slash, a class may hold one."""

    def __init__(self, text: str) -> None:
        """Raises Internal in dockerd's words, which answers 500."""
        self._chunks = list(_chunks(text))
        self._least = sum(len(chunk) for _, chunk in self._chunks)

    def match(self, name: str) -> bool:
        """Whether the whole name is of this form."""
        if self._least > len(name):
            return False
        at = 0
        for index, (has_star, chunk) in enumerate(self._chunks):
            is_last = index == len(self._chunks) - 1
            if has_star and not chunk:
                return "/" not in name[at:]
            found = self._find(name, at, has_star, chunk, is_last)
            if found < 0:
                return False
            at = found
        return at == len(name)

    @staticmethod
    def _find(name: str, at: int, has_star: bool, chunk: Sequence[_Class], is_last: bool) -> int:
        """Where the chunk ends at its first place from `at` on, -1 when it has none; only a star skips."""
        while True:
            end = at + len(chunk)
            if end > len(name):
                return -1
            if all(one.has(name[at + i]) for i, one in enumerate(chunk)) and (not is_last or end == len(name)):
                return end
            if not has_star or name[at] == "/":
                return -1
            at += 1


def _chunks(text: str) -> Iterator[tuple[bool, list[_Class]]]:
    """What stands between stars, and whether a star stands before it."""
    at = 0
    while at < len(text):
        start = at
        while at < len(text) and text[at] == "*":
            at += 1
        has_star, chunk = at > start, []
        while at < len(text) and text[at] != "*":
            one, at = _element(text, at)
            chunk.append(one)
        yield has_star, chunk


def _element(text: str, at: int) -> tuple[_Class, int]:
    """The element that begins at `at`, and where the next one does."""
    if text[at] == "?":
        return _ANY, at + 1
    if text[at] == "[":
        return _class(text, at + 1)
    one, at = _character(text, at) if text[at] == "\\" else (text[at], at + 1)
    return _Class(((one, one),)), at


def _class(text: str, at: int) -> tuple[_Class, int]:
    is_negated = text[at : at + 1] == "^"
    at += is_negated
    ranges: list[tuple[str, str]] = []
    while not ranges or text[at : at + 1] != "]":
        low, at = _bound(text, at)
        high = low
        if text[at] == "-":
            high, at = _bound(text, at + 1)
        ranges.append((low, high))
    return _Class(tuple(ranges), is_negated), at + 1


def _bound(text: str, at: int) -> tuple[str, int]:
    """A character of a class, which does not end with it."""
    if text[at : at + 1] in ("", "-", "]"):
        raise _bad()
    one, at = _character(text, at)
    if at == len(text):
        raise _bad()
    return one, at


def _character(text: str, at: int) -> tuple[str, int]:
    at += text[at] == "\\"
    if at == len(text):
        raise _bad()
    return text[at], at + 1


def _bad() -> Internal:
    return Internal("syntax error in pattern")
