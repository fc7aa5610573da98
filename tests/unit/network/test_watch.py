"""The watch over the table, on announcements that are played to it."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator

import pytest

from corten.errors import Internal
from corten.network import watch as watching
from corten.network.watch import Watch
from corten.sys.nfevents import NFPROTO_INET, Commit, Lost

TABLE = "corten-0123abcd"
OWN, OTHER = 77, 88
PATIENCE_S = 60.0


def commit(port: int, *tables: str, chains: tuple[str, ...] = ()) -> Commit:
    return Commit(port, "nft", frozenset((NFPROTO_INET, name) for name in tables), frozenset(chains))


class Played:
    """Announcements, one list for each wait."""

    def __init__(self) -> None:
        self._heard: queue.Queue[list[Commit] | None] = queue.Queue()
        self.is_closed = False

    def say(self, *commits: Commit) -> None:
        self._heard.put(list(commits))

    def lose(self) -> None:
        self._heard.put(None)

    def wait(self, timeout_s: float | None = None) -> list[Commit]:
        try:
            found = self._heard.get(timeout=timeout_s)
        except queue.Empty:
            return []
        if found is None:
            raise Lost
        return found

    def wake(self) -> None:
        self._heard.put([])

    def close(self) -> None:
        self.is_closed = True


class Watched:
    """A watch, and what it did."""

    def __init__(self) -> None:
        self.events = Played()
        self.did: list[str] = []
        self.fails = self.breaks = 0
        self.watch = Watch(TABLE, self.events, repair=self._repair, look=self._look)
        self.events.say(commit(OWN, TABLE, chains=(self.watch.new_token(),)))
        self.watch.start()

    def _look(self, is_of_others: bool) -> None:
        if self.breaks:
            self.breaks -= 1
            raise KeyError("expr")
        self.did.append("look" if is_of_others else "look at engines")

    def _repair(self, token: str) -> None:
        if self.fails:
            self.fails -= 1
            raise Internal("nftables: no")
        self.did.append("repair")
        self.events.say(commit(OWN, TABLE, chains=(token,)))

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, self.did
            time.sleep(0.002)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.setattr(watching, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(watching, "PAUSE_S", 0.0)
    made = Watched()
    yield made
    made.watch.stop()
    assert made.events.is_closed


def test_anothers_change_to_the_table_is_put_right_once(watched: Watched) -> None:
    watched.events.say(commit(OTHER, TABLE), commit(OTHER, TABLE, "x"))
    watched.until(lambda: sorted(watched.did) == ["look", "repair"])
    watched.until(lambda: watched.watch.repaired.times == 1)


def test_our_own_changes_and_the_token_of_a_repair_are_not_anothers(watched: Watched) -> None:
    watched.events.say(commit(OWN, TABLE))
    watched.events.say(commit(OTHER, "x"))
    watched.until(lambda: watched.did == ["look"])


def test_a_token_that_somebody_repeats_makes_nobody_one_of_us(watched: Watched) -> None:
    token = watched.watch._token
    watched.events.say(commit(OTHER, "x"))
    watched.until(lambda: watched.did == ["look"])
    watched.events.say(commit(OTHER, TABLE, chains=(token,)))
    watched.until(lambda: watched.did.count("repair") == 1)


def test_lost_announcements_may_have_said_anything(watched: Watched) -> None:
    watched.events.lose()
    watched.until(lambda: watched.did == ["repair", "look"])


def test_a_repair_that_fails_is_tried_again(watched: Watched) -> None:
    watched.fails = 2
    watched.events.say(commit(OTHER, TABLE))
    watched.until(lambda: watched.watch.repaired.times == 1)
    assert watched.did.count("repair") == 1


def test_a_look_that_fails_in_a_way_that_nobody_thought_of_does_not_end_the_watch(watched: Watched) -> None:
    """Other programs' tables are read there, whatever they hold."""
    watched.breaks = 1
    watched.events.say(commit(OTHER, "x"))
    watched.until(lambda: watched.did == ["look"])
    watched.events.say(commit(OTHER, TABLE))
    watched.until(lambda: watched.watch.repaired.times == 1)


def test_many_changes_elsewhere_are_one_look(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK_EVERY_S", 0.2)
    watched.events.say(*(commit(OTHER, "x") for _ in range(100)))
    watched.until(lambda: watched.did == ["look"])


def test_what_another_engine_changes_in_its_own_table_is_told_apart(watched: Watched) -> None:
    watched.events.say(commit(OTHER, "corten-99999999"))
    watched.until(lambda: watched.did == ["look at engines"])
    watched.events.say(commit(OTHER, "corten-99999999"), commit(OTHER, "filter"))
    watched.until(lambda: watched.did == ["look at engines", "look"])
