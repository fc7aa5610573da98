"""Other programs' base chains in the forward hook: where one drops our traffic, it is told to let it pass.

An accept of our own table cannot undo another's drop: every base chain of a hook is asked.  So where one ends in a drop
(its policy, or its last rule), two rules per bridge go to the place that is meant for others:

    table                  place
    ip, ip6  filter        DOCKER-USER, where there is one: dockerd never touches what is in it
                           else the base chain FORWARD itself: iptables' tables are everybody's
    any other              none: who set it up has to name our bridges in it; until then containers on networks with a
                           way out are refused, with the chain's name

They let pass what comes from our bridges or goes there: our own table drops what may not.  Only what goes to another's
bridge is left to that other.  Each carries a comment with the engine's id, and has an entry in the journal.

Sources: nft(8), libnftables-json(5); dockerd 26.1, "Docker and iptables".
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from corten.core.journal import NFT_RULE
from corten.errors import FailedPrecondition, Internal
from corten.network.firewall import Runner
from corten.network.values import Journal
from corten.sys.nft import NftError

log = logging.getLogger(__name__)

FORWARD: Final = "forward"
DOCKER_USER: Final = "DOCKER-USER"
ENGINES: Final = "corten-"  # tables and comments of engines
_IPTABLES: Final = ("filter", "FORWARD")
_FAMILIES: Final = ("ip", "ip6", "inet")
_PLACES: Final = tuple((family, "filter", chain) for family in ("ip", "ip6") for chain in (DOCKER_USER, "FORWARD"))
_ENDS: Final = frozenset({"drop", "reject"})
_STATELESS: Final = frozenset({"counter", "log", "comment"})  # statements that ask nothing of a packet

_NAMING: Final = ("rule", "set", "map")  # what in a table may name a device

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class Chain:
    """A chain of some table."""

    family: str
    table: str
    name: str

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.name}"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of ours in a place: interface names ('' any) and what becomes of the packet; `handle` once it is there."""

    iif: str
    oif: str
    verdict: str

    def text(self, comment: str) -> str:
        """As nft reads it; `counter`, because iptables shows only rules with one as its own."""
        ends = (("iifname", self.iif), ("oifname", self.oif))
        said = " ".join(f'{word} "{name}"' for word, name in ends if name)
        return f'{said} counter {self.verdict} comment "{comment}"'


def rules(bridges: Iterable[str], others: Collection[str]) -> list[Rule]:
    """What is to stand at the head of a place, in this order."""
    found: list[Rule] = []
    for name in sorted(bridges):
        found += [Rule(name, other, "return") for other in sorted(others)]
        found += [Rule(name, "", "accept"), Rule("", name, "accept")]
    return found


class Foreign:
    """What other tables say of one engine's bridges.  Its caller holds a lock."""

    def __init__(self, engine_id: str, nft: Runner, journal: Journal | None = None) -> None:
        """Without a journal it can only look and remove."""
        self._comment = f"corten-{engine_id}"
        self._nft = nft
        self._journal = journal
        self._walls: tuple[Chain, ...] = ()  # that drop, and have no place for others
        self._places: tuple[Chain, ...] = ()

    @property
    def is_needed(self) -> bool:
        """There was something to say at the last `settle`."""
        return bool(self._walls or self._places)

    def settle(self, bridges: Sequence[str], others: Collection[str]) -> None:
        """Looks at every base chain of the forward hook, and writes our rules where they belong.  Raises Internal.

        `bridges`: those of ours with a way out; `others`: of other programs.
        """
        chains = list(self._chains())
        found = [one for one in chains if self._drops(one)]
        names = {_named(one) for one in chains}
        places = {place for one in found if (place := _place_of(_named(one), names)) is not None}
        walls = [_named(one) for one in found if _place_of(_named(one), names) is None]
        self._tell(walls)
        self._walls, self._places = tuple(walls), tuple(sorted(places))
        known = self._announce(places)
        for place in sorted({*places, *known}):
            self._write(place, rules(bridges, others) if place in places else [])
        if self._journal is not None:
            self._journal.done(*(entry for place, entry in known.items() if place not in places))

    def named_elsewhere(self, bridges: Collection[str]) -> frozenset[str]:
        """Those of which another program's rules for forwarded packets speak: that program routes them.

        Raises Internal.
        """
        tables = {(one["family"], one["table"]) for one in self._chains() if one.get("hook") == FORWARD}
        found: set[str] = set()
        for family, table in sorted(tables) if bridges else ():
            found |= set(bridges) & self._texts(family, table)
        return frozenset(found)

    def _texts(self, family: str, table: str) -> set[str]:
        """Every text in the rules and sets of a table."""
        items = self._listed(f"list table {family} {table}")
        return {value for item in items for kind in _NAMING for value in _strings(item.get(kind))}

    def _chains(self) -> Iterator[Json]:
        for item in self._listed("list chains"):
            chain = item.get("chain")
            if chain and chain["family"] in _FAMILIES and not chain["table"].startswith(ENGINES):
                yield chain

    def _drops(self, chain: Json) -> bool:
        """A base chain of the hook whose policy or last rule ends what no rule before let pass."""
        if chain.get("hook") != FORWARD:
            return False
        if chain.get("policy") == "drop":
            return True
        last = [item["rule"]["expr"] for item in self._rules_of(_named(chain))][-1:]
        said = [_word(statement) for expression in last for statement in expression]
        return bool(said) and said[-1] in _ENDS and set(said[:-1]) <= _STATELESS

    def _rules_of(self, chain: Chain) -> list[Json]:
        return [item for item in self._listed(f"list chain {chain}") if "rule" in item]

    def _listed(self, command: str) -> list[Json]:
        try:
            return list(json.loads(self._nft.run(command, json=True))["nftables"])
        except NftError as error:
            raise Internal(f"nftables, {command}: {error}") from error

    def _tell(self, walls: Sequence[Chain]) -> None:
        for one in walls:
            if one not in self._walls:
                log.warning("chain %s drops what is forwarded and has no place for others", one)

    def _announce(self, places: Iterable[Chain]) -> dict[Chain, int]:
        """The journal's entry of every place where rules of ours are or may be."""
        if self._journal is None:
            return {}
        words = {entry.id: entry.name.split(" ") for entry in self._journal.entries(NFT_RULE)}
        known = {Chain(*of): entry for entry, of in words.items() if len(of) == 3}
        for place in places:
            if place not in known:
                known[place] = self._journal.begin(NFT_RULE, str(place))
        return known

    def _write(self, place: Chain, wanted: Sequence[Rule]) -> None:
        """Our rules at the head of a place, as one transaction, unless they are there."""
        try:
            found = self._rules_of(place)
        except Internal:  # the table is gone, and our rules with it
            return
        own = [item["rule"] for item in found if item["rule"].get("comment") == self._comment]
        before = [item["rule"] for item in found[: found.index({"rule": own[-1]})]] if own else []
        is_first = all(str(one.get("comment", "")).startswith(ENGINES) for one in before)  # others of us may be there
        if [_said(one) for one in own] == list(wanted) and is_first:
            return
        commands = [f"delete rule {place} handle {one['handle']}" for one in own]
        commands += [f"insert rule {place} {one.text(self._comment)}" for one in reversed(wanted)]
        try:
            self._nft.run("\n".join([*commands, ""]))
        except NftError as error:
            raise Internal(f"chain {place}: {error}") from error
        if wanted:
            log.info("chain %s: %d rules let our bridges through", place, len(wanted))

    def check(self, network: str, bridge: str) -> None:
        """Raises FailedPrecondition, which names the chain, where what leaves a bridge is dropped."""
        for chain in self._walls:
            if not self._names(chain, bridge):
                raise FailedPrecondition(
                    f"network {network}: chain {chain} of the host's firewall drops what is forwarded: let {bridge} "
                    "pass there"
                )

    def _names(self, chain: Chain, bridge: str) -> bool:
        """Somebody has written a rule for this bridge into the table, or for all whose names begin like its."""
        try:
            texts = self._texts(chain.family, chain.table)
        except Internal:
            return True
        return any(text == bridge or (text.endswith("*") and bridge.startswith(text[:-1])) for text in texts)

    def remove(self) -> None:
        """Takes every rule of ours out again, also those of which no record says anything."""
        for words in _PLACES:
            self._write(Chain(*words), [])
        if self._journal is not None:
            self._journal.done(*(entry.id for entry in self._journal.entries(NFT_RULE)))

    def left(self, bridges: Collection[str]) -> list[str]:
        """Rules of ours for bridges that are not there: `chain: rule`."""
        found: list[str] = []
        for words in _PLACES:
            try:
                items = self._rules_of(Chain(*words))
            except Internal:
                continue
            own = [_said(item["rule"]) for item in items if item["rule"].get("comment") == self._comment]
            found += [f"{Chain(*words)}: {one.iif or one.oif}" for one in own if not {one.iif, one.oif} & set(bridges)]
        return sorted(set(found))


def _named(chain: Json) -> Chain:
    return Chain(chain["family"], chain["table"], chain["name"])


def _word(statement: Json) -> str:
    """What a statement is; those of iptables that nftables has no own form of (REJECT, LOG) by iptables' name."""
    name = next(iter(statement))
    return str((statement[name] or {}).get("name", name)).lower() if name == "xt" else name


def _place_of(chain: Chain, names: Collection[Chain]) -> Chain | None:
    """Where rules of others go, for a base chain that drops."""
    if (chain.table, chain.name) != _IPTABLES or chain.family not in ("ip", "ip6"):
        return None
    docker = Chain(chain.family, chain.table, DOCKER_USER)
    return docker if docker in names else chain


def _said(rule: Json) -> Rule:
    """A listed rule of ours."""
    ends = {"iifname": "", "oifname": ""}
    verdict = ""
    for statement in rule["expr"]:
        if "match" in statement:
            ends[statement["match"]["left"]["meta"]["key"]] = statement["match"]["right"]
        else:
            verdict = next((word for word in ("accept", "return") if word in statement), verdict)
    return Rule(ends["iifname"], ends["oifname"], verdict)


def _strings(value: Any) -> Iterator[str]:
    """Every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)
