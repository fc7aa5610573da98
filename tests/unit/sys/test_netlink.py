"""Encoders against what iproute2 6.1 sends for the same change (taken with strace), and decoders."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import pytest

from corten.sys import netlink, rtnetlink
from corten.sys.netlink import Request

# name of the test case: (our request, iproute2's message without its sequence number, bytes of the fixed part)
CAPTURED: dict[str, tuple[Request, str, int]] = {
    "ip link add ctn-0123abcd address 02:42:ac:11:00:01 type bridge": (
        rtnetlink.new_bridge("ctn-0123abcd", "02:42:ac:11:00:01"),
        "50000000100005060000000000000000" + "00" * 16 + "0a0001000242ac110001000011000300"
        "63746e2d303132336162636400000000" + "100012000a0001006272696467650000",
        16,
    ),
    "ip link add ct0123aaaaaaaa type veth peer name eth0 address 02:42:ac:11:00:02 netns FD": (
        rtnetlink.new_veth("ct0123aaaaaaaa", "eth0", "02:42:ac:11:00:02", 4),
        "78000000100005060000000000000000" + "00" * 16 + "1300030063743031323361616161616161610000"
        "44001200080001007665746838000200" + "34000100" + "00" * 16 + "0a0001000242ac1100020000"
        "08001c00040000000900030065746830" + "00000000",
        16,
    ),
    "bridge link set dev 3 hairpin on": (
        rtnetlink.hairpin_on(3),
        "2c000000130005000000000000000000" + "07000000030000000000000000000000" + "0c000c800500040001000000",
        16,
    ),
    "ip addr add 172.17.0.1/16 broadcast 172.17.255.255 dev 2": (
        rtnetlink.new_address(2, IPv4Interface("172.17.0.1/16")),
        "30000000140005060000000000000000021000000200000008000200ac11000108000400ac11ffff08000100ac110001",
        8,
    ),
    "ip route add default via 172.17.0.9 dev 2": (
        rtnetlink.new_default_route(IPv4Address("172.17.0.9"), 2),
        "2c00000018000506000000000000000002000000fe0300010000000008000500ac1100090800040002000000",
        12,
    ),
}

# attributes whose value is a list of attributes, by the path of their types
NESTED = {
    (rtnetlink.IFLA_LINKINFO,),
    (rtnetlink.IFLA_LINKINFO, rtnetlink.IFLA_INFO_DATA),
    (rtnetlink.IFLA_PROTINFO,),
}
PEER = (rtnetlink.IFLA_LINKINFO, rtnetlink.IFLA_INFO_DATA, rtnetlink.VETH_INFO_PEER)


def tree(data: bytes, path: tuple[int, ...] = ()) -> dict[int, Any]:
    """Attributes as nested dictionaries: order and flags do not count."""
    found: dict[int, Any] = {}
    for kind, value in netlink.attributes(data).items():
        place = (*path, kind)
        if place in NESTED:
            found[kind] = tree(value, place)
        elif place == PEER:
            found[kind] = (value[:16], tree(value[16:], place))
        else:
            found[kind] = value
    return found


@pytest.mark.parametrize("command", CAPTURED)
def test_a_request_says_what_iproute2_says(command: str) -> None:
    request, capture, fixed = CAPTURED[command]
    ours, theirs = request.encode(0), bytes.fromhex(capture)
    assert ours[:16] == theirs[:16]
    assert ours[16 : 16 + fixed] == theirs[16 : 16 + fixed]
    assert tree(ours[16 + fixed :]) == tree(theirs[16 + fixed :])


def test_changes_of_a_link_name_it_and_carry_what_iproute2_carries() -> None:
    alias = tree(rtnetlink.set_alias("ct0123aaaaaaaa", "corten-0123abcd x").body[16:])
    assert alias == {rtnetlink.IFLA_IFNAME: b"ct0123aaaaaaaa\0", rtnetlink.IFLA_IFALIAS: b"corten-0123abcd x"}
    mode = tree(rtnetlink.set_no_ipv6("ct0123aaaaaaaa").body[16:])
    assert mode[rtnetlink.IFLA_AF_SPEC] == bytes.fromhex("0c000a800500080001000000")
    up = rtnetlink.set_up("ct0123aaaaaaaa", 2).body
    assert up[8:16] == bytes.fromhex("0100000001000000")
    assert tree(up[16:])[rtnetlink.IFLA_MASTER] == bytes.fromhex("02000000")


def test_cutting_a_port_off_disables_and_flushes_it() -> None:
    (settings,) = tree(rtnetlink.cut_off(3).body[16:]).values()
    assert settings == {rtnetlink.IFLA_BRPORT_STATE: b"\0", rtnetlink.IFLA_BRPORT_FLUSH: b""}


def test_attributes_are_padded_but_their_length_is_not() -> None:
    assert netlink.text(3, "abc") == b"\x08\0\x03\0abc\0"
    assert netlink.text(3, "abcd") == b"\x09\0\x03\0abcd\0\0\0\0"
    assert netlink.attributes(netlink.text(3, "abcd") + netlink.u8(4, 7)) == {3: b"abcd\0", 4: b"\x07"}


def test_an_attribute_longer_than_its_message_is_refused() -> None:
    with pytest.raises(ValueError, match="attribute of 9 bytes"):
        netlink.attributes(netlink.text(3, "abcd")[:8])
    with pytest.raises(ValueError, match="attribute of 0 bytes"):
        netlink.attributes(bytes(8))


def test_a_datagram_holds_several_messages() -> None:
    one = rtnetlink.delete_link("a").encode(7)
    two = rtnetlink.delete_link("b").encode(8)
    found = list(netlink.messages(one + two))
    assert [(kind, sequence) for kind, _, sequence, _ in found] == [
        (rtnetlink.RTM_DELLINK, 7),
        (rtnetlink.RTM_DELLINK, 8),
    ]
    with pytest.raises(ValueError, match="message of"):
        list(netlink.messages(one[:-4]))


def test_a_link_is_read() -> None:
    body = (
        rtnetlink.IFINFO.pack(0, 1, 5, rtnetlink.IFF_UP | 0x1000, 0)
        + netlink.text(rtnetlink.IFLA_IFNAME, "ct0123aaaaaaaa")
        + netlink.u32(rtnetlink.IFLA_MTU, 1500)
        + netlink.u32(rtnetlink.IFLA_MASTER, 3)
        + netlink.u8(rtnetlink.IFLA_OPERSTATE, rtnetlink.IF_OPER_UP)
        + netlink.attribute(rtnetlink.IFLA_ADDRESS, bytes.fromhex("0242ac110002"))
        + netlink.text(rtnetlink.IFLA_IFALIAS, "corten-0123abcd x")
        + netlink.attribute(rtnetlink.IFLA_LINKINFO, netlink.text(rtnetlink.IFLA_INFO_KIND, "veth"))
    )
    link = rtnetlink.parse_link(body)
    assert (link.index, link.name, link.kind, link.master) == (5, "ct0123aaaaaaaa", "veth", 3)
    assert link.is_running
    assert (link.mac, link.alias, link.mtu, link.is_up) == ("02:42:ac:11:00:02", "corten-0123abcd x", 1500, True)


def test_an_address_is_read() -> None:
    body = rtnetlink.new_address(4, IPv4Interface("10.1.2.3/24")).body
    assert rtnetlink.parse_address(body) == rtnetlink.Address(4, IPv4Interface("10.1.2.3/24"))


def test_routes_are_read() -> None:
    default = rtnetlink.parse_route(rtnetlink.new_default_route(IPv4Address("10.0.0.1"), 2).body)
    assert default == rtnetlink.Route(IPv4Network("0.0.0.0/0"), IPv4Address("10.0.0.1"), 2, 254, 1)
    body = rtnetlink.RTMSG.pack(2, 12, 0, 0, 252, 2, 0, 1, 0) + netlink.attribute(
        rtnetlink.RTA_DST, bytes((172, 16, 0, 0))
    )
    body += netlink.u32(rtnetlink.RTA_TABLE, 1000)
    assert rtnetlink.parse_route(body) == rtnetlink.Route(IPv4Network("172.16.0.0/12"), None, 0, 1000, 1)


def test_an_error_names_the_request_and_repeats_the_kernel() -> None:
    request = rtnetlink.new_default_route(IPv4Address("10.0.0.1"), 2)
    refused = struct.pack("=i", -101) + netlink.HEADER.pack(36, 24, 0, 1, 0)
    refused += netlink.text(netlink.NLMSGERR_ATTR_MSG, "Nexthop has invalid gateway")
    error = netlink._error(request, netlink.NLM_F_CAPPED | netlink.NLM_F_ACK_TLVS, refused)
    assert error is not None
    assert error.errno == 101
    assert str(error.strerror) == "default route over 10.0.0.1: network is unreachable (Nexthop has invalid gateway)"
    assert netlink._error(request, 0, bytes(20)) is None


def test_only_the_named_errors_of_an_attempt_are_fine() -> None:
    outcome = [None, netlink.NetlinkError(17, "exists")]
    netlink.raise_unless(outcome, 17)
    with pytest.raises(netlink.NetlinkError, match="exists"):
        netlink.raise_unless(outcome, 19)
