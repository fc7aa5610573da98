"""A program that uses a bridge and kills itself at the n-th point: before each thing that outlives it is done.

    python -m support.netkill DATABASE N NETNS1 NETNS2      (in the host's namespace; N = 0 lives and prints)

What it does: set up, connect and publish for one container, take it off, connect and publish for a second, move on.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from corten.network import ports
from corten.network.bridge import BridgeDriver
from corten.network.host import Host
from corten.network.store import DatabaseStore
from corten.sys import netlink

ENGINE = "0123abcd"
BETWEEN = "the second container begins"
FIRST = {"80/tcp": [("", "8080")], "53/udp": [("", "53")]}
SECOND = {"80/tcp": [("", "8080"), ("127.0.0.1", "8081")]}


class Database:
    """SQLite in a file."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("CREATE TABLE IF NOT EXISTS journal (id INTEGER PRIMARY KEY, kind TEXT, name TEXT)")
        self._connection.commit()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Committed at the end."""
        with self._connection:
            yield self._connection

    def begin(self, kind: str, name: str, **_: object) -> int:
        """A journal entry."""
        with self._connection:
            cursor = self._connection.execute("INSERT INTO journal (kind, name) VALUES (?, ?)", (kind, name))
        return cursor.lastrowid or 0

    def done(self, entry: int) -> None:
        """Ends one."""
        with self._connection:
            self._connection.execute("DELETE FROM journal WHERE id = ?", (entry,))

    def entries(self) -> list[tuple[str, str]]:
        """The open ones."""
        return list(self._connection.execute("SELECT kind, name FROM journal ORDER BY id"))

    def close(self) -> None:
        """Closes it."""
        self._connection.close()


class Points:
    """Counts, prints, and kills."""

    def __init__(self, last: int) -> None:
        self._last = last
        self._count = 0

    def before(self, owner: Any, name: str) -> None:
        """Makes a point of each call of `owner.name`."""
        original: Callable[..., Any] = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self._count += 1
            if self._count == self._last:
                os.kill(os.getpid(), signal.SIGKILL)
            if not self._last:
                print(self._count, name, flush=True)
            return original(*args, **kwargs)

        setattr(owner, name, counted)


def main(path: str, last: int, one: str, two: str) -> None:
    """The life of a small engine."""
    points = Points(last)
    database, host = Database(path), Host()
    store = DatabaseStore(database)
    for owner, names in (
        (store, ("save", "remove", "set_setting")),
        (database, ("begin", "done")),
        (host, ("set_sysctl", "configure_inside")),
        (host.links, ("_post",)),
        (host.nft, ("run",)),
        (ports, ("bind",)),
        (netlink, ("raise_unless",)),
    ):
        for name in names:
            points.before(owner, name)
    driver = BridgeDriver(ENGINE, store=store, journal=database, host=host)
    driver.ensure()
    for container, netns, wanted in (("first", one, FIRST), ("second", two, SECOND)):
        netns_fd = os.open(netns, os.O_RDONLY)
        endpoint = driver.connect(container, netns_fd)
        with driver.publish(endpoint, container, ports.parse_bindings([], wanted)):
            pass
        if container == "first":
            driver.disconnect(container)
            print(BETWEEN, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
