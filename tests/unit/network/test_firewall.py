"""The nftables texts, and what is run when."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

import pytest

from corten.errors import Internal
from corten.network import firewall
from corten.network.firewall import Firewall, Outside
from corten.network.values import ANY, Bridge, Endpoint, Publication
from corten.sys.nft import NftError

BRIDGE = Bridge("ctn-0123abcd", (IPv4Interface("172.17.0.1/16"),))
INNER = Bridge("br-1", (IPv4Interface("10.0.0.1/24"), IPv6Interface("fd00::1/64")), is_internal=True, has_icc=False)


def endpoint(*publications: Publication) -> Endpoint:
    return Endpoint(
        endpoint_id="e" * 64,
        container_id="c" * 64,
        network_id="n" * 64,
        address=IPv4Interface("172.17.0.2/16"),
        gateway=IPv4Address("172.17.0.1"),
        mac="02:42:ac:11:00:02",
        link="ct0123eeeeeeee",
        publications=publications,
    )


WEB = Publication("tcp", ANY, 8080, 80)
LOCAL_DNS = Publication("udp", IPv4Address("127.0.0.1"), 53, 5353)


@dataclass
class Recorder:
    """Plays libnftables: keeps what was run, fails with `refusal`."""

    tables: tuple[str, ...] = ()
    refusal: str = ""
    ran: list[str] = field(default_factory=list)

    def run(self, commands: str, *, json: bool = False) -> str:
        if commands == "list tables inet":
            return (
                '{"nftables": [{"metainfo": {}}'
                + "".join(f', {{"table": {{"name": "{t}"}}}}' for t in self.tables)
                + "]}"
            )
        self.ran.append(commands)
        if self.refusal:
            raise NftError(self.refusal)
        return ""


def test_a_port_on_all_addresses_is_looked_up_by_port_and_any_other_by_address() -> None:
    assert firewall.elements(endpoint(), (WEB, LOCAL_DNS)) == {
        "by_port": ["tcp . 8080 : 172.17.0.2 . 80"],
        "by_address": ["127.0.0.1 . udp . 53 : 172.17.0.2 . 5353"],
    }


def test_ipv6_ports_lead_to_the_ipv6_address_and_those_of_the_relay_alone_nowhere() -> None:
    both = dataclasses.replace(endpoint(), address6=IPv6Interface("fd00::2/64"))
    everywhere, there, local = (
        Publication("tcp", IPv6Address(one), 8080, 80, is_relayed=one != "2001:db8::1")
        for one in ("::", "2001:db8::1", "::1")
    )
    assert firewall.elements(both, (WEB, everywhere, there, local)) == {
        "by_port": ["tcp . 8080 : 172.17.0.2 . 80"],
        "by_port6": ["tcp . 8080 : fd00::2 . 80"],
        "by_address6": ["2001:db8::1 . tcp . 8080 : fd00::2 . 80"],
    }
    assert firewall.elements(endpoint(), (everywhere,)) == {}


def test_ports_move_from_one_endpoint_to_another_in_one_transaction() -> None:
    nft, new = Recorder(), dataclasses.replace(endpoint(WEB), address=IPv4Interface("10.0.0.2/24"))
    Firewall("0123abcd", nft).replace(endpoint(WEB), new)
    (commands,) = nft.ran
    assert commands.splitlines() == [
        "add element inet corten-0123abcd by_port { tcp . 8080 : 172.17.0.2 . 80 }",
        "delete element inet corten-0123abcd by_port { tcp . 8080 : 172.17.0.2 . 80 }",
        "add element inet corten-0123abcd by_port { tcp . 8080 : 10.0.0.2 . 80 }",
    ]


def test_the_table_is_written_over_in_one_transaction_with_every_port() -> None:
    text = firewall.ruleset("corten-0123abcd", [BRIDGE], [endpoint(WEB)], Outside())
    assert text.startswith("add table inet corten-0123abcd\n")
    assert text.endswith("add element inet corten-0123abcd by_port { tcp . 8080 : 172.17.0.2 . 80 }\n")
    assert "delete" not in text
    assert all(f"flush chain inet corten-0123abcd {chain}\n" in text for chain in firewall.HOOKS)
    assert all(f"flush set inet corten-0123abcd {name}\n" in text for name in firewall.SETS)


def test_a_table_that_cannot_be_written_over_is_made_anew() -> None:
    nft = Recorder(refusal="Could not process rule: File exists")
    with pytest.raises(Internal, match="File exists"):
        Firewall("0123abcd", nft).apply([BRIDGE], [], Outside())
    cleaned, first, second = nft.ran
    assert cleaned == "flush chain inet corten-0123abcd input\ndelete chain inet corten-0123abcd input\n"
    assert second == f"add table inet corten-0123abcd\ndelete table inet corten-0123abcd\n{first}"


def test_the_loopback_guard_is_in_the_same_transaction_and_before_nat() -> None:
    text = firewall.ruleset("t", [BRIDGE], [], Outside())
    assert "add chain inet t guard { type filter hook prerouting priority raw; policy accept; }" in text
    assert firewall.RULES["guard"][0] == 'iifname != "lo" ip daddr 127.0.0.0/8 drop'


def test_what_is_not_ours_is_dropped_at_the_end_and_only_where_we_made_the_host_a_router() -> None:
    assert "ipv4 drop" not in firewall.ruleset("t", [BRIDGE], [], Outside())
    rules = [
        line.removeprefix("add rule inet t forward ")
        for line in firewall.ruleset("t", [BRIDGE], [], Outside(drops=frozenset({6, 4}))).splitlines()
        if line.startswith("add rule inet t forward ")
    ]
    assert rules[-2:] == ["meta nfproto ipv4 drop", "meta nfproto ipv6 drop"]
    assert rules[:-2] == list(firewall.RULES["forward"])


def test_what_enters_a_bridge_unasked_is_dropped_before_anything_is_said_of_others() -> None:
    rules = firewall.RULES["forward"]
    assert rules[-1] == "oifname @ours drop"
    assert rules.index("iifname @ours oifname @ours drop") < rules.index("iifname @ours accept")


def test_no_flow_passes_between_networks_or_into_one_because_it_is_established() -> None:
    rules = firewall.RULES["forward"]
    established = [rule for rule in rules if "established" in rule]
    assert established == ["oifname @ours ct direction reply ct state established,related accept"]
    assert rules.index("iifname @ours oifname @ours drop") < rules.index(established[0])


def test_the_bridges_of_other_engines_are_left_to_their_tables() -> None:
    outside = Outside(frozenset({"virbr0"}), frozenset({"ctn-1"}), frozenset({"virbr0"}), frozenset({4}))
    assert outside.rules() == [
        'iifname "ctn-1" accept',
        'oifname "ctn-1" accept',
        'iifname "virbr0" oifname "virbr0" accept',
        'iifname "virbr0" accept',
        'oifname "virbr0" ct direction reply ct state established,related accept',
        'oifname "virbr0" ct state related accept',
        'oifname "virbr0" ct status dnat accept',
        "meta nfproto ipv4 drop",
    ]


def test_a_token_comes_and_goes_in_the_transaction_that_it_stands_for() -> None:
    nft = Recorder()
    Firewall("0123abcd", nft).apply([BRIDGE], [], Outside(), token="token-1")
    ran = nft.ran[-1]
    assert ran.endswith("add chain inet corten-0123abcd token-1\ndelete chain inet corten-0123abcd token-1\n")


def test_a_bridge_is_an_element_of_the_sets_that_say_what_it_is() -> None:
    assert firewall.members(BRIDGE) == {
        "ours": ['"ctn-0123abcd"'],
        "within": ['"ctn-0123abcd" . "ctn-0123abcd"'],
        "local4": ['172.17.0.0/16 . "ctn-0123abcd"'],
        "hidden4": ["172.17.0.0/16"],
    }
    assert firewall.members(INNER) == {
        "ours": ['"br-1"'],
        "internal": ['"br-1"'],
        "local4": ['10.0.0.0/24 . "br-1"'],
        "local6": ['fd00::/64 . "br-1"'],
    }


def test_bridges_come_and_go_in_one_transaction_each() -> None:
    nft = Recorder()
    wall = Firewall("0123abcd", nft)
    wall.add(INNER)
    wall.remove(INNER)
    added, removed = nft.ran
    assert added.count("add element inet corten-0123abcd") == 4
    assert removed.startswith(added)
    assert removed.count("delete element inet corten-0123abcd") == 4


def test_frames_within_other_bridges_pass_unless_their_name_is_no_word() -> None:
    text = firewall.ruleset("t", [BRIDGE], [], Outside(frozenset({"virbr0", 'x"drop'})))
    assert 'add rule inet t forward iifname "virbr0" oifname "virbr0" accept\n' in text
    assert firewall.within(['x"drop', "y z"]) == []


def test_an_endpoint_without_ports_runs_nothing() -> None:
    nft = Recorder()
    wall = Firewall("0123abcd", nft)
    wall.publish(endpoint(), ())
    wall.unpublish(endpoint(), ())
    assert nft.ran == []


def test_taking_a_port_away_is_one_transaction_that_may_be_repeated() -> None:
    nft = Recorder()
    Firewall("0123abcd", nft).unpublish(endpoint(), (WEB,))
    assert nft.ran == [
        "add element inet corten-0123abcd by_port { tcp . 8080 : 172.17.0.2 . 80 }\n"
        "delete element inet corten-0123abcd by_port { tcp . 8080 : 172.17.0.2 . 80 }\n"
    ]


def test_a_table_that_is_gone_has_taken_its_ports_along() -> None:
    Firewall("0123abcd", Recorder(refusal="No such file or directory")).unpublish(endpoint(), (WEB,))


def test_a_port_that_has_become_anothers_is_not_taken_away() -> None:
    nft = Recorder(tables=("corten-0123abcd",), refusal="Could not process rule: File exists")
    with pytest.raises(Internal, match="nftables table corten-0123abcd: Could not process rule: File exists"):
        Firewall("0123abcd", nft).unpublish(endpoint(), (WEB,))


@pytest.mark.parametrize("protocol", ["tcp", 6])
def test_what_is_expected_is_written_as_what_is_listed(protocol: str | int) -> None:
    listing = {
        "nftables": [
            {"metainfo": {}},
            {"map": {"elem": [[{"concat": [protocol, 8080]}, {"concat": ["172.17.0.2", 80]}]]}},
        ]
    }
    assert Firewall.expected([endpoint(WEB)]) == {f"by_port {one}" for one in firewall._listed(listing)}


def test_where_the_hosts_input_chains_are_asked_a_port_is_a_key_in_a_set_as_well() -> None:
    nft = Recorder()
    wall = Firewall("0123abcd", nft, respects_host=True)
    wall.publish(endpoint(WEB), [WEB])
    wall.ask_again()
    assert nft.ran == [
        "add element inet corten-0123abcd by_port { tcp . 8080 : 172.17.0.2 . 80 }\n"
        "add element inet corten-0123abcd by_port_keys { tcp . 8080 }\n",
        "flush set inet corten-0123abcd admitted4\nflush set inet corten-0123abcd admitted6\n",
    ]
    text = firewall.ruleset("t", [BRIDGE], [endpoint(WEB)], Outside(), respects_host=True)
    assert "add element inet t by_port_keys { tcp . 8080 }\n" in text
    rules = [line for line in text.splitlines() if line.startswith("add rule inet t prerouting ")]
    assert ["accept" in rule for rule in rules] == [True, True, False, False, False, False], "asked before NAT"
    assert text.count("add rule inet t input ") == 3 + 2 * len(firewall.MAPS), "each map: a note, or no room for one"


def test_where_they_are_not_asked_nothing_is_said_of_it() -> None:
    text = firewall.ruleset("t", [BRIDGE], [endpoint(WEB)], Outside())
    assert "admitted" not in text
    assert "_keys" not in text


OPEN = Bridge(
    "br-2",
    (IPv4Interface("10.1.0.1/24"), IPv6Interface("fd00:1::1/64")),
    routed=frozenset({6}),
    unprotected=frozenset({4}),
    trusted=("wg0",),
    sources=(IPv4Address("192.0.2.5"), IPv6Address("2001:db8::5")),
)


def test_gateway_modes_trusted_devices_and_host_addresses_are_elements_of_their_sets() -> None:
    assert firewall.members(OPEN) == {
        "ours": ['"br-2"'],
        "within": ['"br-2" . "br-2"', '"wg0" . "br-2"'],
        "local4": ['10.1.0.0/24 . "br-2"'],
        "direct4": ['"br-2"'],
        "hidden4": ["10.1.0.0/24"],
        "source4": ["10.1.0.0/24 : 192.0.2.5"],
        "local6": ['fd00:1::/64 . "br-2"'],
        "routed6": ['"br-2"'],
    }


def test_an_internal_network_is_open_to_nobody_whatever_its_options_say() -> None:
    found = firewall.members(replace(OPEN, is_internal=True))
    assert set(found) == {"ours", "within", "internal", "local4", "local6"}
    assert found["within"] == ['"br-2" . "br-2"']


def test_a_port_without_one_of_the_hosts_is_opened_at_the_containers_address_and_so_is_each_once_where_all_are() -> (
    None
):
    routed, again = Publication("tcp", ANY, 0, 80), Publication("tcp", ANY, 8081, 80)
    assert firewall.elements(endpoint(routed), [routed]) == {}
    assert firewall.opened(endpoint(), [routed, WEB], is_direct=False) == {"opened4": ["172.17.0.2 . tcp . 80"]}
    assert firewall.opened(endpoint(), [WEB, again], is_direct=True) == {"opened4": ["172.17.0.2 . tcp . 80"]}


def test_a_port_stays_open_while_another_publication_of_it_is_there() -> None:
    nft = Recorder()
    found = Firewall("0123abcd", nft, is_direct=True)
    again = Publication("tcp", ANY, 8081, 80)
    found.unpublish(endpoint(WEB, again), [WEB])
    assert "opened4" not in nft.ran[-1]
    found.unpublish(endpoint(again), [again])
    assert "delete element inet corten-0123abcd opened4 { 172.17.0.2 . tcp . 80 }" in nft.ran[-1]
