"""DNS messages as far as a container's resolver has to know them: read a question, write an answer.  Pure.

Everything a container or a server sends is hostile: lengths are checked, names are never followed through pointers in
questions, and nothing is written that was not read whole.  What is not answered here goes on byte for byte.

Sources: RFC 1035 section 4; RFC 6891 (EDNS: the OPT record of a question says how large an answer may be).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

A, PTR, OPT, AAAA, ANY = 1, 12, 41, 28, 255
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
BADVERS = 16  # told in the OPT record

HEADER = struct.Struct("!HHHHHH")  # id, flags, and how many questions, answers, authorities, others
QR, AA, TC, RD, RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
OPCODE, RCODE = 0x7800, 0x000F

MAX_NAME, MAX_LABEL = 255, 63
PLAIN_SIZE, OWN_SIZE = 512, 1232  # an answer by UDP without EDNS; the most that we send (dnsflagday.net/2020)
_OPT_RECORD = struct.Struct("!BHHIH")  # the root, OPT, size, what else the code says, no options
TTL = 600  # seconds, as dockerd's

Address = IPv4Address | IPv6Address


class Malformed(ValueError):
    """Not a message that can be answered."""


@dataclass(frozen=True, slots=True)
class Question:
    """A query with one question.  `name` is in lower case, without the last dot; `raw` as it came, to be repeated."""

    ident: int
    flags: int
    name: str
    kind: int
    klass: int
    raw: bytes
    size: int  # of the largest answer by UDP
    edns: int = -1  # version; -1 without EDNS

    @property
    def is_plain(self) -> bool:
        """An ordinary query of the class IN."""
        return not self.flags & OPCODE and self.klass in (IN, ANY)


def read(message: bytes) -> Question:
    """The question of a query; raises Malformed for what is no query or has not one question."""
    if len(message) < HEADER.size:
        raise Malformed("shorter than its header")
    ident, flags, questions, answers, authorities, others = HEADER.unpack_from(message)
    if flags & QR or questions != 1 or answers or authorities:
        raise Malformed("no query with one question")
    name, end = _name(message, HEADER.size)
    if len(message) < end + 4:
        raise Malformed("a question without type and class")
    kind, klass = struct.unpack_from("!HH", message, end)
    end += 4
    size, edns = _edns(message, end, others)
    return Question(ident, flags, name, kind, klass, message[HEADER.size : end], size, edns)


def _name(message: bytes, at: int) -> tuple[str, int]:
    """A name without pointers, and where it ends."""
    labels: list[str] = []
    start = at
    while True:
        if at >= len(message):
            raise Malformed("a name without end")
        length = message[at]
        at += 1
        if not length:
            return ".".join(labels), at
        if length > MAX_LABEL or at + length > len(message) or at + length - start > MAX_NAME:
            raise Malformed("a name that is too long")
        labels.append(_label(message[at : at + length]))
        at += length


def _label(raw: bytes) -> str:
    """Bytes that would end a name are escaped, so that two names never look alike."""
    return "".join(chr(byte) if 0x21 <= byte < 0x7F and byte not in b".\\" else f"\\{byte:03d}" for byte in raw.lower())


def _edns(message: bytes, at: int, others: int) -> tuple[int, int]:
    """(size, version) that the OPT record behind the question tells; without one, or when it is not the first: none."""
    if not others or len(message) < at + _OPT_RECORD.size or message[at]:
        return PLAIN_SIZE, -1
    _, kind, size, told, _ = _OPT_RECORD.unpack_from(message, at)
    return (min(max(size, PLAIN_SIZE), OWN_SIZE), told >> 16 & 0xFF) if kind == OPT else (PLAIN_SIZE, -1)


def answer(question: Question, records: Sequence[bytes] = (), *, code: int = NOERROR, limit: int = 0) -> bytes:
    """The answer with these records.  `limit`: bytes, 0 for none; what does not fit is left out and said so (TC).

    A question with EDNS gets an OPT record back (RFC 6891 section 6.1.1).
    """
    flags = QR | RA | (question.flags & (OPCODE | RD)) | code & RCODE
    opt = b"" if question.edns < 0 else _OPT_RECORD.pack(0, OPT, OWN_SIZE, code >> 4 << 24, 0)
    room = (limit or 1 << 16) - HEADER.size - len(question.raw) - len(opt)
    kept = list(records)
    while kept and sum(map(len, kept)) > room:
        kept.pop()
    if len(kept) < len(records):
        flags |= TC
    header = HEADER.pack(question.ident, flags, 1, len(kept), 0, int(bool(opt)))
    return header + question.raw + b"".join(kept) + opt


def address_record(address: Address) -> bytes:
    """A or AAAA of the name that was asked for."""
    return _record(A if address.version == 4 else AAAA, address.packed)


def pointer_record(name: str) -> bytes:
    """PTR of the address that was asked for."""
    return _record(PTR, encode_name(name))


def _record(kind: int, data: bytes) -> bytes:
    """For the name of the question, which begins right behind the header."""
    return struct.pack("!HHHIH", 0xC000 | HEADER.size, kind, IN, TTL, len(data)) + data


def encode_name(name: str) -> bytes:
    """A name of plain labels; raises Malformed for one that no message can have."""
    labels = [label.encode() for label in name.rstrip(".").split(".")]
    if not all(0 < len(label) <= MAX_LABEL for label in labels):
        raise Malformed(f"{name!r} is no name")
    raw = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    if len(raw) > MAX_NAME:
        raise Malformed(f"{name!r} is too long")
    return raw


def failure(message: bytes, code: int) -> bytes | None:
    """The answer to what cannot be read: nothing at all when it is an answer itself or has no header."""
    if len(message) < HEADER.size:
        return None
    ident, flags, *_ = HEADER.unpack_from(message)
    if flags & QR:
        return None
    return HEADER.pack(ident, QR | RA | (flags & (OPCODE | RD)) | code, 0, 0, 0, 0)


def reversed_address(name: str) -> Address | None:
    """The address in `4.3.2.1.in-addr.arpa` or `….ip6.arpa`; None when there is none."""
    try:
        if name.endswith(".in-addr.arpa"):
            return IPv4Address(".".join(reversed(name.removesuffix(".in-addr.arpa").split("."))))
        if name.endswith(".ip6.arpa"):
            digits = name.removesuffix(".ip6.arpa").split(".")
            if len(digits) == 32 and all(len(digit) == 1 for digit in digits):
                return IPv6Address(int("".join(reversed(digits)), 16))
    except ValueError:
        return None
    return None


def is_answer_to(message: bytes, question: Question, ident: int) -> bool:
    """A server's answer to this question, sent with this id: the same question comes back (RFC 5452 section 9.1)."""
    end = HEADER.size + len(question.raw)
    if len(message) < end:
        return False
    own, flags, questions, *_ = HEADER.unpack_from(message)
    same = message[HEADER.size : end].lower() == question.raw.lower()
    return own == ident and bool(flags & QR) and questions == 1 and same


def code_of(message: bytes) -> int:
    """The code of a message that has a header."""
    return message[3] & RCODE


def with_ident(message: bytes, ident: int) -> bytes:
    """The same message under another id."""
    return struct.pack("!H", ident) + message[2:]
