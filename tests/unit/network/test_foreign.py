"""Which chains of others are told to let our bridges through, and which are named instead."""

from __future__ import annotations

import json
from typing import Any

import pytest

from corten.errors import FailedPrecondition
from corten.network.foreign import Chain, Foreign, Rule, rules
from corten.sys.nft import NftError
from support.netlab import MemoryJournal

ENGINE = "0123abcd"
COMMENT = f"corten-{ENGINE}"
FORWARD = {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}
DOCKER = {"family": "ip", "table": "filter", "name": "DOCKER-USER"}
WALL = {"family": "inet", "table": "wall", "name": "fw", "hook": "forward", "policy": "drop"}


class Nft:
    """Chains with rules, as libnftables lists them; keeps what was run beside that."""

    def __init__(self, *chains: dict[str, str], rules: dict[str, list[dict[str, Any]]] | None = None) -> None:
        self.chains = chains
        self.rules = rules or {}
        self.others: list[dict[str, Any]] = []  # what tables have beside rules
        self.ran: list[str] = []

    def run(self, commands: str, *, json: bool = False) -> str:
        if commands == "list chains":
            return self._text([{"chain": one} for one in self.chains])
        verb, _, name = commands.partition(" chain ")
        if verb == "list":
            if not any(name == self._name(one) for one in self.chains):
                raise NftError("No such file or directory")
            return self._text([{"rule": one} for one in self.rules.get(name, ())])
        if commands.startswith("list table "):
            return self._text([*({"rule": one} for of in self.rules.values() for one in of), *self.others])
        self.ran.append(commands)
        return ""

    @staticmethod
    def _name(chain: dict[str, str]) -> str:
        return f"{chain['family']} {chain['table']} {chain['name']}"

    @staticmethod
    def _text(items: list[dict[str, Any]]) -> str:
        return json.dumps({"nftables": [{"metainfo": {}}, *items]})


def listed(rule: Rule, handle: int, comment: str = COMMENT) -> dict[str, Any]:
    ends = {"iifname": rule.iif, "oifname": rule.oif}
    matches = [{"match": {"left": {"meta": {"key": key}}, "right": name}} for key, name in ends.items() if name]
    return {"handle": handle, "comment": comment, "expr": [*matches, {"counter": {}}, {rule.verdict: None}]}


def names(journal: MemoryJournal) -> list[str]:
    return [one.name for one in journal.entries()]


def test_two_rules_per_bridge_and_what_goes_to_others_is_left_to_them() -> None:
    assert rules(["br-1"], ["docker0"]) == [
        Rule("br-1", "docker0", "return"),
        Rule("br-1", "", "accept"),
        Rule("", "br-1", "accept"),
    ]
    assert Rule("a", "b", "return").text("c") == 'iifname "a" oifname "b" counter return comment "c"'


def test_a_policy_of_drop_in_iptables_gets_the_rules_at_its_head() -> None:
    nft, journal = Nft(FORWARD), MemoryJournal()
    foreign = Foreign(ENGINE, nft, journal)
    foreign.settle(["br-1"], [])
    assert nft.ran == [
        f'insert rule ip filter FORWARD oifname "br-1" counter accept comment "{COMMENT}"\n'
        f'insert rule ip filter FORWARD iifname "br-1" counter accept comment "{COMMENT}"\n'
    ]
    assert names(journal) == ["ip filter FORWARD"]
    foreign.check("net", "br-1")


def test_where_there_is_docker_the_place_is_dockers() -> None:
    nft, journal = Nft(FORWARD, DOCKER), MemoryJournal()
    Foreign(ENGINE, nft, journal).settle(["br-1"], ["docker0"])
    assert nft.ran[0].count("rule ip filter DOCKER-USER") == 3
    assert names(journal) == ["ip filter DOCKER-USER"]


def test_rules_that_are_there_are_left_alone_and_others_are_replaced() -> None:
    own = [listed(one, number) for number, one in enumerate(rules(["br-1"], []), 1)]
    nft = Nft(FORWARD, rules={"ip filter FORWARD": [*own, listed(Rule("x", "", "accept"), 9, "other")]})
    foreign = Foreign(ENGINE, nft, MemoryJournal())
    foreign.settle(["br-1"], [])
    assert nft.ran == []
    foreign.settle(["br-2"], [])
    assert nft.ran[0].splitlines()[:2] == [f"delete rule ip filter FORWARD handle {number}" for number in (1, 2)]
    assert "handle 9" not in nft.ran[0]


def test_rules_that_somebody_put_others_before_go_to_the_head_again() -> None:
    own = [listed(one, number) for number, one in enumerate(rules(["br-1"], []), 1)]
    nft = Nft(FORWARD, rules={"ip filter FORWARD": [listed(Rule("", "", "return"), 9, "other"), *own]})
    Foreign(ENGINE, nft, MemoryJournal()).settle(["br-1"], [])
    assert len(nft.ran) == 1


def test_two_engines_do_not_push_each_other_from_the_head() -> None:
    own = [listed(one, number) for number, one in enumerate(rules(["br-1"], []), 1)]
    peer = [listed(Rule("x", "", "accept"), 9, "corten-99999999")]
    nft = Nft(FORWARD, rules={"ip filter FORWARD": [*peer, *own]})
    Foreign(ENGINE, nft, MemoryJournal()).settle(["br-1"], [])
    assert nft.ran == []


def test_when_the_drop_is_gone_the_rules_and_the_entry_go() -> None:
    own = [listed(one, number) for number, one in enumerate(rules(["br-1"], []), 1)]
    nft, journal = Nft(FORWARD | {"policy": "accept"}, rules={"ip filter FORWARD": own}), MemoryJournal()
    journal.begin("nft-rule", "ip filter FORWARD")
    foreign = Foreign(ENGINE, nft, journal)
    foreign.settle(["br-1"], [])
    assert "insert" not in nft.ran[0]
    assert journal.entries() == []
    assert not foreign.is_needed


def test_a_table_that_is_nobodys_place_is_named_until_it_names_the_bridge() -> None:
    nft = Nft(WALL)
    foreign = Foreign(ENGINE, nft, MemoryJournal())
    foreign.settle(["br-1"], [])
    text = "network net: chain inet wall fw of the host's firewall drops what is forwarded: let br-1 pass there"
    with pytest.raises(FailedPrecondition, match=text):
        foreign.check("net", "br-1")
    for said in ("br-1", "br-*"):
        nft.rules = {"inet wall fw": [listed(Rule(said, "", "accept"), 1)]}
        foreign.check("net", "br-1")
    nft.rules, nft.others = {}, [{"map": {"name": "zones", "map": "verdict", "elem": [["br-1", {"accept": None}]]}}]
    foreign.check("net", "br-1")
    assert nft.ran == []


@pytest.mark.parametrize(
    ("last", "is_wall"),
    [
        ([{"reject": None}], True),
        ([{"counter": {}}, {"drop": None}], True),
        ([{"match": {}}, {"drop": None}], False),
        ([{"accept": None}], False),
        ([{"counter": {}}, {"xt": {"type": "target", "name": "REJECT"}}], True),
        ([{"xt": {"type": "match", "name": "comment"}}, {"xt": {"type": "target", "name": "REJECT"}}], True),
        ([{"xt": {"type": "match", "name": "state"}}, {"xt": {"type": "target", "name": "REJECT"}}], False),
        ([{"counter": {}}, {"xt": {"type": "target", "name": "LOG"}}], False),
        ([{"xt": None}], False),
    ],
)
def test_a_last_rule_that_ends_everything_is_as_good_as_a_policy(last: list[dict[str, Any]], is_wall: bool) -> None:
    chain = {"family": "inet", "table": "firewalld", "name": "filter_FORWARD", "hook": "forward", "policy": "accept"}
    nft = Nft(chain, rules={"inet firewalld filter_FORWARD": [{"handle": 1, "expr": last}]})
    foreign = Foreign(ENGINE, nft, MemoryJournal())
    foreign.settle(["br-1"], [])
    assert foreign.is_needed == is_wall


def test_tables_of_engines_and_other_hooks_are_nobodys_wall() -> None:
    nft = Nft(WALL | {"table": "corten-99999999"}, WALL | {"hook": "input"}, WALL | {"family": "bridge"})
    foreign = Foreign(ENGINE, nft, MemoryJournal())
    foreign.settle(["br-1"], [])
    assert not foreign.is_needed


def test_what_is_left_of_bridges_that_are_gone_is_found_and_removed_without_a_journal() -> None:
    own = [listed(one, number) for number, one in enumerate(rules(["br-1", "br-2"], []), 1)]
    nft = Nft(FORWARD, rules={"ip filter FORWARD": own})
    foreign = Foreign(ENGINE, nft)
    assert foreign.left(["br-1"]) == ["ip filter FORWARD: br-2"]
    foreign.remove()
    assert nft.ran == ["".join(f"delete rule ip filter FORWARD handle {number}\n" for number in (1, 2, 3, 4))]


def test_a_chain_has_a_name_in_three_words() -> None:
    assert str(Chain("ip6", "filter", "FORWARD")) == "ip6 filter FORWARD"


def test_a_bridge_that_another_programs_rules_speak_of_is_routed_by_that_program() -> None:
    said = {"ip filter FORWARD": [listed(Rule("docker0", "", "accept"), 1, "other")]}
    foreign = Foreign(ENGINE, Nft(FORWARD | {"policy": "accept"}, rules=said))
    assert foreign.named_elsewhere(["docker0", "virbr0"]) == {"docker0"}
    assert foreign.named_elsewhere([]) == frozenset()
    assert Foreign(ENGINE, Nft(WALL | {"hook": "input"}, rules=said)).named_elsewhere(["docker0"]) == frozenset()
