"""The watch over the engine's table: what another program changes in it is put right within milliseconds.

A thread reads the kernel's announcements of nftables transactions.  Those of our own context are told by their netlink
port, which a token of ours has shown: a chain with a name that nobody knew before, made and removed in one transaction.

    a foreign transaction touched    then
    our table                        the table is written over (`Firewall.apply`), and the log says who it was
    another one                      the host is looked at again, once a second at most: bridges and base chains
    unknown: events were lost        both

While no daemon runs nobody watches: the next start writes the table over.

Source: nft(8), "monitor".
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from corten.network.firewall import TOKEN
from corten.network.foreign import ENGINES
from corten.sys.nfevents import NFPROTO_INET, Commit, Lost

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
PAUSE_S = 0.02  # between two repairs: somebody may go on and on
_RECENT_S, _RECENT_MOST = 10.0, 20
_LONG_PAUSE_S = 0.5


@dataclass(slots=True)
class Repaired:
    """What the watch has done, for tests and for the log."""

    times: int = 0
    last_s: float = 0.0
    """From the announcement of the last change to the table as it should be."""


class Announcements(Protocol):
    """`corten.sys.nfevents.Events`."""

    def wait(self, timeout_s: float | None = None) -> list[Commit]:
        """The transactions that ended meanwhile; raises Lost."""

    def wake(self) -> None:
        """Ends a wait."""

    def close(self) -> None:
        """Closes the sockets."""


class Watch:
    """The thread, from `start` to `stop`."""

    def __init__(
        self, table: str, events: Announcements, *, repair: Callable[[str], None], look: Callable[[bool], object]
    ) -> None:
        """`repair`: writes the table over, with that token; `look`: looks at the rest of the host, where other
        programs than engines have changed something (True), or engines alone.
        """
        self._table = (NFPROTO_INET, table)
        self._events = events
        self._repair = repair
        self._look = look
        self._token = ""
        self._own_port = -1
        self._recent: list[float] = []
        self._look_at: float | None = None
        self._is_of_others = False
        self._is_owed = False  # a repair that failed
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="firewall-watch", daemon=True)
        self.repaired = Repaired()

    def new_token(self) -> str:
        """A chain that the next transaction of ours makes and removes."""
        self._token = f"{TOKEN}{secrets.token_hex(8)}"
        return self._token

    def start(self) -> None:
        """Watches from here on: the events are being kept already."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and closes the socket."""
        self._stopped = True
        self._events.wake()
        if self._thread.ident is not None:
            self._thread.join()
        self._events.close()

    def _work(self) -> None:
        while not self._stopped:
            try:
                self._heard(self._events.wait(self._patience()))
            except Lost:
                self._put_right("an unknown program")
                self._look_later(is_of_others=True)
            except OSError:
                log.exception("the firewall is not watched any more")
                return
            if self._look_at is not None and time.monotonic() >= self._look_at:
                self._look_at = None
                if self._is_owed:
                    self._put_right("another program")
                is_of_others, self._is_of_others = self._is_of_others, False
                self._tried(partial(self._look, is_of_others))

    def _patience(self) -> float | None:
        return None if self._look_at is None else max(0.0, self._look_at - time.monotonic())

    def _heard(self, commits: list[Commit]) -> None:
        culprit = ""
        for one in commits:
            if self._is_own(one):
                continue
            if self._table in one.tables:
                culprit = one.program or "another program"
            if elsewhere := one.tables - {self._table}:
                self._look_later(is_of_others=any(not name.startswith(ENGINES) for _, name in elsewhere))
        if culprit:
            self._put_right(culprit)

    def _is_own(self, one: Commit) -> bool:
        if self._token and self._token in one.chains:
            self._own_port, self._token = one.port, ""
        return one.port == self._own_port

    def _look_later(self, *, is_of_others: bool) -> None:
        self._is_of_others = self._is_of_others or is_of_others
        if self._look_at is None:
            self._look_at = time.monotonic() + LOOK_EVERY_S

    def _put_right(self, culprit: str) -> None:
        began = time.monotonic()
        self._is_owed = not self._tried(lambda: self._repair(self.new_token()))
        if self._is_owed:
            return
        ended = time.monotonic()
        self.repaired.times, self.repaired.last_s = self.repaired.times + 1, ended - began
        table = self._table[1]
        log.warning("nftables table %s was changed by %s: put right in %.1f ms", table, culprit, (ended - began) * 1000)
        self._recent = [*(one for one in self._recent if one > ended - _RECENT_S), ended]
        time.sleep(PAUSE_S if len(self._recent) < _RECENT_MOST else _LONG_PAUSE_S)

    def _tried(self, work: Callable[[], object]) -> bool:
        try:
            work()
        except Exception:  # outermost of the thread: whatever a table of others holds, the watch goes on
            log.exception("nftables table %s: not put right", self._table[1])
            self._look_later(is_of_others=True)
            return False
        return True
