"""Reads of one stream as lines, cut as dockerd's copier cuts them (daemon/logger/copier.go, facts only).

A line of more than 16383 bytes comes in pieces of 16384, all with the time of the first, an id and an ordinal; the
piece that ends the line is the last, even when it holds nothing.  What is left at the end of the stream is a piece that
is not.
"""

from __future__ import annotations

import os

PIECE_BYTES = 16384


class Line:
    """One line without its newline.  `ordinal` counts the pieces of a long line from 1; it is 0 for a whole line."""

    __slots__ = ("id", "is_last", "moment_ns", "ordinal", "text")

    def __init__(self, text: bytes, moment_ns: int, id: str = "", ordinal: int = 0, *, is_last: bool = True) -> None:
        self.text = text
        self.moment_ns = moment_ns
        self.id = id
        self.ordinal = ordinal
        self.is_last = is_last


class Lines:
    """Cuts one stream.  An unfinished line shorter than a piece stays inside."""

    __slots__ = ("_id", "_moment_ns", "_ordinal", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._id = ""
        self._moment_ns = 0
        self._ordinal = 0

    def feed(self, data: bytes, moment_ns: int) -> list[Line]:
        """The lines and pieces that are complete after `data`, which was read at `moment_ns` (Unix time)."""
        *whole, rest = (self._rest + data).split(b"\n")
        out: list[Line] = []
        for text in whole:
            rest_of_line = self._pieces(out, text, moment_ns)
            out.append(self._end(rest_of_line, moment_ns))
        self._rest = self._pieces(out, rest, moment_ns)
        return out

    def finish(self, moment_ns: int) -> list[Line]:
        """What is left at the end of the stream."""
        rest, self._rest = self._rest, b""
        out = [self._piece(rest, moment_ns)] if rest else []
        self._ordinal = 0
        return out

    def _pieces(self, out: list[Line], text: bytes, moment_ns: int) -> bytes:
        start = 0
        while len(text) - start >= PIECE_BYTES:
            out.append(self._piece(text[start : start + PIECE_BYTES], moment_ns))
            start += PIECE_BYTES
        return text[start:] if start else text

    def _piece(self, text: bytes, moment_ns: int) -> Line:
        if not self._ordinal:
            self._id, self._moment_ns = os.urandom(32).hex(), moment_ns
        self._ordinal += 1
        return Line(text, self._moment_ns, self._id, self._ordinal, is_last=False)

    def _end(self, text: bytes, moment_ns: int) -> Line:
        if not self._ordinal:
            return Line(text, moment_ns)
        ordinal, self._ordinal = self._ordinal + 1, 0
        return Line(text, self._moment_ns, self._id, ordinal)
