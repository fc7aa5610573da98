"""What a container's resolver answers by itself."""

from __future__ import annotations

import random
import struct
from ipaddress import ip_address

import pytest

from corten.shim import dns
from corten.shim.names import NetworkNames, View, local_answer

from .test_dns import query


def network_of(name: str, *rows: tuple[str, tuple[str, ...], tuple[str, ...]]) -> NetworkNames:
    made = NetworkNames(name)
    for member, names, addresses in rows:
        made.put(member, names, map(ip_address, addresses))
    return made


WEB = network_of(
    "backend",
    ("c1", ("web", "www"), ("10.0.0.2", "fd00::2")),
    ("c2", ("db",), ("10.0.0.3",)),
    ("c3", ("www",), ("10.0.0.4",)),
)
OTHER = network_of("Front", ("c4", ("proxy", "web"), ("10.1.0.9",)))
VIEW = View((WEB, OTHER), has_way_out=True)
CLOSED = View((WEB,))


def asked(name: str, kind: int = dns.A, view: View = VIEW, seed: int = 1) -> tuple[int, list[str]] | None:
    """(code, addresses) of the answer; None when a server has to be asked."""
    question = dns.read(query(name, kind))
    raw = local_answer(question, view, limit=question.size, chance=random.Random(seed))
    if raw is None:
        return None
    _, flags, _, count, *_ = dns.HEADER.unpack_from(raw)
    at, found = 12 + len(question.raw), []
    for _ in range(count):
        (length,) = struct.unpack_from("!H", raw, at + 10)
        found.append(str(ip_address(raw[at + 12 : at + 12 + length])))
        at += 12 + length
    return flags & dns.RCODE, found


def test_names_are_found_on_the_first_network_that_has_such_an_address_whatever_their_case() -> None:
    assert asked("DB") == (dns.NOERROR, ["10.0.0.3"])
    code, found = asked("web") or (-1, [])
    assert (code, sorted(found)) == (dns.NOERROR, ["10.0.0.2"])
    assert asked("web", view=View((OTHER, WEB))) == (dns.NOERROR, ["10.1.0.9"])
    assert asked("web", dns.AAAA, view=View((OTHER, WEB))) == (dns.NOERROR, ["fd00::2"])


def test_behind_a_name_its_network_may_stand() -> None:
    assert asked("web.front") == (dns.NOERROR, ["10.1.0.9"])
    assert asked("proxy.backend") is None


def test_a_name_without_such_an_address_is_empty_and_no_server_is_asked() -> None:
    assert asked("web", dns.AAAA) == (dns.NOERROR, ["fd00::2"])
    assert asked("db", dns.AAAA) == (dns.NOERROR, [])
    assert asked("db", 15) == (dns.NOERROR, [])
    assert sorted((asked("web", dns.ANY) or (0, []))[1]) == ["10.0.0.2", "fd00::2"]


def test_each_answer_begins_with_another_of_several() -> None:
    first = {(asked("www", seed=seed) or (0, [""]))[1][0] for seed in range(20)}
    assert first == {"10.0.0.2", "10.0.0.4"}


def test_what_is_not_known_is_a_servers_to_answer_where_there_is_one() -> None:
    assert asked("example.com") is None
    assert asked("example.com", view=CLOSED) == (dns.SERVFAIL, [])


@pytest.mark.parametrize(
    ("address", "owner"), [("10.0.0.3", "db.backend"), ("10.1.0.9", "proxy.Front"), ("fd00::2", "web.backend")]
)
def test_an_address_has_the_name_of_its_container_on_the_network(address: str, owner: str) -> None:
    question = dns.read(query(ip_address(address).reverse_pointer, dns.PTR))
    raw = local_answer(question, VIEW, limit=512, chance=random.Random(1))
    assert raw is not None
    assert raw.endswith(dns.encode_name(owner))


def test_an_address_of_nobody_is_a_servers_to_name() -> None:
    question = dns.read(query("9.9.9.9.in-addr.arpa", dns.PTR))
    assert local_answer(question, VIEW, limit=512, chance=random.Random(1)) is None
    told = local_answer(question, CLOSED, limit=512, chance=random.Random(1))
    assert told is not None
    assert dns.HEADER.unpack_from(told)[1] & dns.RCODE == dns.SERVFAIL


def test_a_link_is_another_name_that_its_container_alone_has() -> None:
    view = View((WEB, OTHER), has_way_out=True, links={"database": "db", "web": "proxy"})
    assert asked("database", view=view) == (dns.NOERROR, ["10.0.0.3"])
    assert asked("web", view=view) == (dns.NOERROR, ["10.1.0.9"])
    assert asked("database") is None


def test_with_ndots_names_without_a_dot_are_left_to_the_search_list() -> None:
    view = View((WEB,), has_way_out=True, has_ndots=True)
    assert asked("nothere", view=view) == (dns.NOERROR, [])
    assert asked("db", view=view) == (dns.NOERROR, ["10.0.0.3"])
    assert asked("not.here", view=view) is None
    assert asked("nothere", 16, view=view) is None


def test_an_unknown_version_of_edns_and_other_operations_are_refused() -> None:
    newer = query("db", edns=1232)[:-6] + bytes((0, 1, 0, 0, 0, 0))
    raw = local_answer(dns.read(newer), VIEW, limit=512, chance=random.Random(1))
    assert raw is not None
    assert (raw[3] & dns.RCODE, raw[-6]) == (0, 1)
    notify = bytearray(query("db"))
    notify[2] |= 0x20
    raw = local_answer(dns.read(bytes(notify)), VIEW, limit=512, chance=random.Random(1))
    assert raw is not None
    assert raw[3] & dns.RCODE == dns.NOTIMP


def test_a_name_that_no_message_can_say_is_nobodys() -> None:
    view = View((network_of("n", ("a", ("x" * 64,), ("10.0.0.2",))),))
    question = dns.read(query("2.0.0.10.in-addr.arpa", dns.PTR))
    raw = local_answer(question, view, limit=512, chance=random.Random(1))
    assert raw is not None
    assert raw[3] & dns.RCODE == dns.SERVFAIL


def test_a_member_that_joins_again_or_leaves_takes_its_names_along() -> None:
    network = network_of("n", ("a", ("web",), ("10.0.0.2",)), ("b", ("web",), ("10.0.0.3",)))
    network.put("a", ["Api"], [ip_address("10.0.0.9")])
    assert (network.addresses("web"), network.addresses("api")) == ([ip_address("10.0.0.3")], [ip_address("10.0.0.9")])
    assert network.owner(ip_address("10.0.0.2")) == ""
    for _ in range(2):
        network.drop("b")
    assert (network.addresses("web"), network.owner(ip_address("10.0.0.3"))) == ([], "")
