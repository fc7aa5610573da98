"""Announcements of nftables transactions, taken apart."""

from __future__ import annotations

import struct

import pytest

from corten.sys import nfevents
from corten.sys.netlink import HEADER, attribute, text
from corten.sys.nfevents import NFPROTO_INET, Commit, Events, Reader

SUBSYSTEM = nfevents.NFNL_SUBSYS_NFTABLES << 8
NEWCHAIN, DELRULE, NEWGEN = nfevents.NFT_MSG_NEWCHAIN, 8, nfevents.NFT_MSG_NEWGEN


def message(kind: int, *attributes: bytes, port: int = 7, family: int = NFPROTO_INET) -> bytes:
    body = struct.pack("BBH", family, 0, 0) + b"".join(attributes)
    whole = HEADER.pack(HEADER.size + len(body), SUBSYSTEM | kind, 0, 0, port) + body
    return whole + bytes(-len(whole) % 4)


def generation(port: int = 7, program: str = "nft") -> bytes:
    number = attribute(1, struct.pack(">I", 5))
    return message(NEWGEN, number, text(nfevents.NFTA_GEN_PROC_NAME, program), port=port, family=0)


def test_a_transaction_ends_with_its_generation_and_has_every_table_that_it_touched() -> None:
    reader = Reader()
    first = message(DELRULE, text(1, "ours")) + message(NEWCHAIN, text(1, "other"), text(3, "c"), family=2)
    assert list(reader.taken(first)) == []
    assert list(reader.taken(generation())) == [
        Commit(7, "nft", frozenset({(NFPROTO_INET, "ours"), (2, "other")}), frozenset({"c"}))
    ]
    assert list(reader.taken(generation(9, "iptables"))) == [Commit(9, "iptables", frozenset(), frozenset())]


def test_messages_of_other_subsystems_and_torn_ones_say_nothing() -> None:
    reader = Reader()
    foreign = HEADER.pack(HEADER.size, 1 << 8, 0, 0, 7)
    torn = message(DELRULE, text(1, "ours"))[:-8]
    assert list(reader.taken(foreign + torn)) == []
    assert list(reader.taken(generation())) == [Commit(7, "nft", frozenset(), frozenset())]


def test_what_was_heard_before_events_were_lost_is_forgotten() -> None:
    reader = Reader()
    assert list(reader.taken(message(DELRULE, text(1, "ours")))) == []
    reader.forget()
    assert list(reader.taken(generation())) == [Commit(7, "nft", frozenset(), frozenset())]


def test_a_wait_ends_when_it_is_woken_or_its_time_is_over() -> None:
    try:
        events = Events()
    except PermissionError:
        pytest.skip("the announcements are root's")
    assert events.wait(0.0) == []
    events.wake()
    assert events.wait() == []
    events.close()
