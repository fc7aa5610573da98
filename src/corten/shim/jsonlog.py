"""The bytes of Docker's `json-file` log: encoding alone, no file.

One record per line of output:

    {"log":"hello\\n","stream":"stdout","attrs":{…},"time":"2026-01-02T03:04:05.6789Z"}

Rules, as dockerd's logger has them (facts from moby's daemon/logger: copier, jsonfilelog, jsonlog):

* a line of more than 16383 bytes is cut into records of 16384 bytes that lack the final `\\n` and all carry the
  time of the first; the record that ends the line has it, even when it holds nothing else;
* what is left at end of file is a record without `\\n`;
* `"` and `\\` get a backslash, newline and carriage return are `\\n` and `\\r`, other controls and `<`, `>`, `&`
  are `\\u00xx`; U+2028 and U+2029 are escaped; every byte that is not part of a UTF-8 sequence becomes `\\ufffd`.

The work is done on whole reads, not on lines: escape the block with a handful of C calls, then put the text
between two records at each newline with one `bytes.replace`.  All lines of a read carry its time.
"""

from __future__ import annotations

import codecs
import time

PARTIAL_BYTES = 16384

_Escapes = tuple[tuple[bytes, bytes], ...]
_QUOTES: _Escapes = ((b"\\", b"\\\\"), (b'"', b'\\"'), (b"\r", b"\\r"))  # backslash first: the others add some
_NUMBERED: _Escapes = tuple(
    (bytes([code]), b"\\u%04x" % code) for code in (*b"<>&", *range(0x20)) if code not in b"\n\r"
)
_LOG_ESCAPES = _QUOTES + _NUMBERED
_GO_SHORT: _Escapes = ((b"\n", b"\\n"), (b"\b", b"\\b"), (b"\t", b"\\t"), (b"\f", b"\\f"))  # encoding/json, not the log
_GO_ESCAPES = _QUOTES + _GO_SHORT + _NUMBERED
_PLAIN = bytes(code for code in range(0x20, 0x80) if code not in b'"\\<>&')
_PLAIN_LINES = _PLAIN + b"\n"
_SEPARATORS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))


def _replace_one_byte(error: UnicodeError) -> tuple[str, int]:
    """Go decodes one byte of an invalid sequence at a time; Python would skip the longest valid prefix."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\\ufffd", error.start + 1


codecs.register_error("corten.jsonlog", _replace_one_byte)


def escape(data: bytes, escapes: _Escapes = _LOG_ESCAPES) -> bytes:
    """The inside of the JSON string; `_LOG_ESCAPES` leave newlines as they are."""
    special = data.translate(None, _PLAIN if escapes is _GO_ESCAPES else _PLAIN_LINES)
    if not special:
        return data
    for byte, escaped in escapes:
        if byte in special:
            data = data.replace(byte, escaped)
    return data if special.isascii() else _escape_unicode(data)


def _escape_unicode(data: bytes) -> bytes:
    for sequence, escaped in _SEPARATORS:
        data = data.replace(sequence, escaped)
    try:
        data.decode()
    except UnicodeDecodeError:
        return data.decode("utf-8", "corten.jsonlog").encode()
    return data


_last_second = (-1, b"")


def rfc3339_nano(moment_ns: int) -> bytes:
    """UTC as Go's time.RFC3339Nano prints it: trailing zeros of the fraction, and an empty one, are left out."""
    global _last_second
    second, fraction = divmod(moment_ns, 1_000_000_000)
    if _last_second[0] != second:
        _last_second = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
    tail = (b".%09d" % fraction).rstrip(b"0") if fraction else b""
    return b"%s%sZ" % (_last_second[1], tail)


def encode_attributes(attributes: dict[str, str]) -> bytes:
    """The value of `attrs` as Go's encoding/json prints a map of strings: sorted, `<>&` escaped."""
    pairs = (b"%s:%s" % (_go_string(key), _go_string(value)) for key, value in sorted(attributes.items()))
    return b"{%s}" % b",".join(pairs)


def _go_string(text: str) -> bytes:
    return b'"%s"' % escape(text.encode("utf-8", "surrogateescape"), _GO_ESCAPES)


class RecordEncoder:
    """Turns the reads of one stream into records.

    `feed` and `finish` return whole records only; an unfinished line shorter than a partial stays inside.
    """

    __slots__ = ("_meta", "_partial_time", "pending")

    def __init__(self, stream: str, attributes: bytes = b"") -> None:
        """`attributes`: the encoded value of `attrs`, empty for none."""
        attrs = b',"attrs":' + attributes if attributes else b""
        self._meta = b'","stream":"%s"%s,"time":"' % (stream.encode(), attrs)
        self._partial_time = b""  # time of the first record of an unfinished long line
        self.pending = b""

    def feed(self, data: bytes, moment_ns: int) -> bytes:
        """The records that are complete after `data`, which was read at `moment_ns` (Unix time)."""
        if self.pending:
            data = self.pending + data
        moment = rfc3339_nano(moment_ns)
        if self._partial_time or _has_long_line(data):
            return b"".join(self._long_lines(data, moment))
        end = data.rfind(b"\n") + 1
        self.pending = data[end:]
        return self._lines(data[:end], moment) if end else b""

    def finish(self, moment_ns: int) -> bytes:
        """The record of an unfinished last line, without its newline, at end of file."""
        rest, self.pending = self.pending, b""
        moment = self._partial_time or rfc3339_nano(moment_ns)
        self._partial_time = b""
        return self._record(rest, moment, newline=False) if rest else b""

    def _lines(self, block: bytes, moment: bytes) -> bytes:
        """A block of whole ordinary lines."""
        tail = b'\\n%s%s"}\n' % (self._meta, moment)
        body = escape(block)[:-1].replace(b"\n", tail + b'{"log":"')
        return b"".join((b'{"log":"', body, tail))

    def _long_lines(self, data: bytes, moment: bytes) -> list[bytes]:
        """The same line by line, cutting partial records."""
        records: list[bytes] = []
        start = 0
        while True:
            end = data.find(b"\n", start, start + PARTIAL_BYTES)
            if end < 0:
                if len(data) - start < PARTIAL_BYTES:
                    break
                self._partial_time = self._partial_time or moment
                piece = data[start : start + PARTIAL_BYTES]
                records.append(self._record(piece, self._partial_time, newline=False))
                start += PARTIAL_BYTES
                continue
            records.append(self._record(data[start:end], self._partial_time or moment, newline=True))
            self._partial_time = b""
            start = end + 1
        self.pending = data[start:]
        return records

    def _record(self, line: bytes, moment: bytes, *, newline: bool) -> bytes:
        return b'{"log":"%s%s%s%s"}\n' % (escape(line), b"\\n" if newline else b"", self._meta, moment)


def _has_long_line(data: bytes) -> bool:
    """Whether some line, also an unfinished one, holds PARTIAL_BYTES or more, newline excluded."""
    start = 0
    while len(data) - start >= PARTIAL_BYTES:
        newline = data.rfind(b"\n", start, start + PARTIAL_BYTES)
        if newline < 0:
            return True
        start = newline + 1
    return False
