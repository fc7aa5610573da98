"""The tables of iptables-legacy, which nftables does not show: what `foreign.py` does, by that program.

A kernel asks both kinds of tables, so a drop in either ends a packet.  It names the legacy tables of a namespace that
are in use; where `filter` is not among them, nothing is run.  Changes there are announced to nobody: they are looked at
with each start, each new network, and whenever nftables change.

Source: iptables(8); net/ipv4/netfilter/ip_tables.c (ip_tables_names).
"""

from __future__ import annotations

import itertools
import logging
import shlex
import subprocess
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Final

from corten.core.journal import NFT_RULE
from corten.network.foreign import DOCKER_USER, ENGINES, Rule, rules
from corten.network.values import Journal

log = logging.getLogger(__name__)

PROGRAMS: Final = {"iptables-legacy": "ip_tables_names", "ip6tables-legacy": "ip6_tables_names"}
_FORWARD: Final = "FORWARD"
_PLACES: Final = (DOCKER_USER, _FORWARD)
_ENDS: Final = ("DROP", "REJECT")
_TIMEOUT_S: Final = 10.0


class Legacy:
    """What legacy tables say of one engine's bridges.  Its caller holds a lock, in a thread of the host's namespace."""

    def __init__(self, engine_id: str, journal: Journal | None = None) -> None:
        self._comment = f"corten-{engine_id}"
        self._journal = journal

    def settle(self, bridges: Sequence[str], others: Collection[str]) -> None:
        """Writes our rules where FORWARD ends in a drop, and removes them where it does not any more."""
        for program, names in PROGRAMS.items():
            if _has_filter(names):
                self._settle(program, rules(bridges, others))

    def _settle(self, program: str, wanted: Sequence[Rule]) -> None:
        listed = _run(program, "-S").splitlines()
        is_closed = _is_closed(listed)
        place = DOCKER_USER if f"-N {DOCKER_USER}" in listed else _FORWARD
        for chain in _PLACES:
            if f"-N {chain}" in listed or chain == _FORWARD:
                self._write(program, chain, listed, wanted if is_closed and chain == place else ())

    def _write(self, program: str, chain: str, listed: Sequence[str], wanted: Sequence[Rule]) -> None:
        found = [shlex.split(line)[2:] for line in listed if line.startswith(f"-A {chain} ")]
        own = [one for one in found if self._comment in one]
        lines = [self._words(one) for one in wanted]
        before = found[: found.index(own[-1])] if own else []
        if own == lines and all(_is_of_engines(one) for one in before):
            return
        place = f"{program} {chain}"
        entries = [one.id for one in self._journal.entries(NFT_RULE) if one.name == place] if self._journal else []
        if lines and self._journal and not entries:
            self._journal.begin(NFT_RULE, place)
        for words in own:
            _run(program, "-D", chain, *words)
        for number, words in enumerate(lines, 1):
            _run(program, "-I", chain, str(number), *words)
        if self._journal and not lines:
            self._journal.done(*entries)
        log.info("chain %s: %d rules of ours", place, len(lines))

    def _words(self, rule: Rule) -> list[str]:
        """As `-S` shows it."""
        ends = [*(("-i", rule.iif) if rule.iif else ()), *(("-o", rule.oif) if rule.oif else ())]
        return [*ends, "-m", "comment", "--comment", self._comment, "-j", rule.verdict.upper()]

    def left(self, bridges: Collection[str]) -> list[str]:
        """Rules of ours for bridges that are not there: `chain: bridge`."""
        found: set[str] = set()
        for program, names in PROGRAMS.items():
            for line in _run(program, "-S").splitlines() if _has_filter(names) else ():
                words = shlex.split(line)
                if self._comment in words and not set(words) & set(bridges):
                    found.add(f"{program} {words[1]}: {words[3]}")
        return sorted(found)

    def remove(self) -> None:
        """Takes every rule of ours out again."""
        for program, names in PROGRAMS.items():
            if _has_filter(names):
                self._settle(program, ())


def _is_closed(listed: Sequence[str]) -> bool:
    """The policy of FORWARD drops, or its last rule ends what no rule before let pass."""
    if f"-P {_FORWARD} DROP" in listed:
        return True
    last = next((shlex.split(line)[2:] for line in reversed(listed) if line.startswith(f"-A {_FORWARD} ")), [])
    words = last[4:] if last[:3] == ["-m", "comment", "--comment"] else last
    return words[:1] == ["-j"] and words[1] in _ENDS


def _is_of_engines(words: Sequence[str]) -> bool:
    return any(before == "--comment" and word.startswith(ENGINES) for before, word in itertools.pairwise(words))


def _has_filter(names: str) -> bool:
    """The table is in use in this thread's namespace."""
    with suppress(OSError), open(f"/proc/thread-self/net/{names}") as file:
        return "filter\n" in file.readlines()
    return False


def _run(program: str, *words: str) -> str:
    """What it prints; '' where it is missing or refuses, which the log says."""
    try:
        done = subprocess.run(
            [program, "-w", "5", *words], check=True, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else error
        log.warning("%s %s: %s", program, " ".join(words), said)
        return ""
    return done.stdout
