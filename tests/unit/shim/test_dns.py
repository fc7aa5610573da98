"""DNS messages: read, answered, matched; whatever the bytes are, nothing but Malformed."""

from __future__ import annotations

import random
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from corten.shim import dns
from corten.shim.dns import Malformed


def query(name: str, kind: int = dns.A, *, edns: int = 0, ident: int = 7) -> bytes:
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split(".") if label) + b"\0"
    text = dns.HEADER.pack(ident, dns.RD, 1, 0, 0, int(bool(edns))) + labels + struct.pack("!HH", kind, dns.IN)
    return text + (b"\0" + struct.pack("!HHIH", dns.OPT, edns, 0, 0) if edns else b"")


def test_a_question_is_read_with_its_name_in_lower_case() -> None:
    found = dns.read(query("Web.Backend", dns.AAAA))
    assert (found.ident, found.name, found.kind, found.size) == (7, "web.backend", dns.AAAA, dns.PLAIN_SIZE)
    assert found.is_plain
    assert found.raw.startswith(b"\3Web\7Backend\0")


@pytest.mark.parametrize(("told", "size"), [(0, 512), (100, 512), (1000, 1000), (65535, 1232)])
def test_the_size_of_an_answer_is_what_the_question_says_within_bounds(told: int, size: int) -> None:
    assert dns.read(query("a", edns=told)).size == size


@pytest.mark.parametrize(
    "message",
    [
        b"",
        query("a")[:-1],
        query("a")[:12],
        dns.HEADER.pack(1, dns.QR, 1, 0, 0, 0) + b"\0\0\1\0\1",
        dns.HEADER.pack(1, 0, 2, 0, 0, 0) + b"\0\0\1\0\1",
        dns.HEADER.pack(1, 0, 1, 1, 0, 0) + b"\0\0\1\0\1",
        dns.HEADER.pack(1, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1",
        dns.HEADER.pack(1, 0, 1, 0, 0, 0) + b"\x3f" + b"a" * 63,
        dns.HEADER.pack(1, 0, 1, 0, 0, 0) + (b"\x3f" + b"a" * 63) * 5 + b"\0\0\1\0\1",
    ],
)
def test_what_is_no_query_with_one_question_is_malformed(message: bytes) -> None:
    with pytest.raises(Malformed):
        dns.read(message)


def test_bytes_that_are_no_letters_make_no_other_name() -> None:
    raw = dns.HEADER.pack(1, 0, 1, 0, 0, 0) + b"\5a.b\0c\0\0\1\0\1"
    assert dns.read(raw).name == "a\\046b\\000c"


def test_any_bytes_are_read_or_malformed() -> None:
    chance = random.Random(1)
    seeds = [query("web.backend", edns=1200), query("1.0.0.10.in-addr.arpa", dns.PTR)]
    for _ in range(5000):
        raw = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(1, 6)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        message = bytes(raw[: chance.randrange(len(raw) + 1)])
        try:
            found = dns.read(message)
        except Malformed:
            continue
        assert dns.answer(found)[:2] == message[:2]


def test_an_answer_repeats_the_question_and_names_it() -> None:
    question = dns.read(query("Web"))
    raw = dns.answer(question, [dns.address_record(IPv4Address("10.0.0.2"))])
    ident, flags, questions, answers, *_ = dns.HEADER.unpack_from(raw)
    assert (ident, questions, answers) == (7, 1, 1)
    assert flags == dns.QR | dns.RD | dns.RA
    assert raw[12 : 12 + len(question.raw)] == question.raw
    name, kind, klass, ttl, length = struct.unpack_from("!HHHIH", raw, 12 + len(question.raw))
    assert (name, kind, klass, ttl, length) == (0xC00C, dns.A, dns.IN, dns.TTL, 4)
    assert raw[-4:] == bytes((10, 0, 0, 2))


def test_a_question_with_edns_gets_an_opt_record_back_and_room_for_it() -> None:
    question = dns.read(query("web", edns=1232))
    records = [dns.address_record(IPv6Address(number)) for number in range(60)]
    raw = dns.answer(question, records, limit=question.size)
    assert len(raw) <= 1232
    assert dns.HEADER.unpack_from(raw)[5] == 1
    assert raw[-11:] == b"\0" + struct.pack("!HHIH", dns.OPT, dns.OWN_SIZE, 0, 0)
    assert dns.answer(question, code=dns.BADVERS)[-6:-2] == bytes((1, 0, 0, 0))


def test_what_does_not_fit_is_left_out_and_said() -> None:
    question = dns.read(query("web"))
    records = [dns.address_record(IPv6Address(number)) for number in range(40)]
    raw = dns.answer(question, records, limit=512)
    _, flags, _, answers, *_ = dns.HEADER.unpack_from(raw)
    assert len(raw) <= 512
    assert flags & dns.TC
    assert 0 < answers < 40
    assert not dns.HEADER.unpack_from(dns.answer(question, records))[1] & dns.TC


@pytest.mark.parametrize("text", ["10.1.2.3", "fd00::12:3"])
def test_the_name_of_an_address_is_read_backwards(text: str) -> None:
    address = ip_address(text)
    assert dns.reversed_address(address.reverse_pointer) == address


@pytest.mark.parametrize("name", ["in-addr.arpa", "1.2.3.in-addr.arpa", "a.2.3.4.in-addr.arpa", "1.ip6.arpa", "web"])
def test_what_names_no_address_is_none(name: str) -> None:
    assert dns.reversed_address(name) is None


def test_an_answer_is_taken_only_with_id_and_question() -> None:
    question = dns.read(query("web"))
    good = dns.with_ident(dns.answer(question), 99)
    assert dns.is_answer_to(good, question, 99)
    assert dns.is_answer_to(good.replace(b"web", b"WEB"), question, 99)
    assert not dns.is_answer_to(good, question, 98)
    assert not dns.is_answer_to(dns.with_ident(query("web"), 99), question, 99)
    assert not dns.is_answer_to(dns.with_ident(dns.answer(dns.read(query("wob"))), 99), question, 99)
    assert not dns.is_answer_to(good[:14], question, 99)


def test_a_failure_answers_queries_alone() -> None:
    told = dns.failure(query("web")[:13], dns.FORMERR)
    assert told is not None
    assert dns.HEADER.unpack(told)[:2] == (7, dns.QR | dns.RD | dns.RA | dns.FORMERR)
    assert dns.failure(b"short", dns.FORMERR) is None
    assert dns.failure(dns.answer(dns.read(query("web"))), dns.FORMERR) is None


@pytest.mark.parametrize("name", ["", "a..b", "x" * 64, ".".join(["y" * 60] * 5)])
def test_a_name_that_no_message_can_have_is_not_written(name: str) -> None:
    with pytest.raises(Malformed):
        dns.encode_name(name)
