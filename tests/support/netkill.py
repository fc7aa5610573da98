"""A program that uses a bridge and kills itself at the n-th point: before each thing that outlives it is done.

    python -m support.netkill DATABASE N NETNS1 NETNS2      (in the host's namespace; N = 0 lives and prints)

What it does: set up, connect and publish for one container, take it off, connect and publish for a second, make a
network, connect the second to it as well, take it off again, remove the network, move on.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from corten.core.journal import Journal
from corten.core.metadata import Database
from corten.network import ports
from corten.network.bridge import BridgeDriver
from corten.network.host import Host
from corten.network.store import DatabaseStore
from corten.network.values import Network
from corten.sys import netlink

ENGINE = "0123abcd"
CREATED = "2026-01-01T00:00:00Z"
BETWEEN = "the second container begins"
FIRST = {"80/tcp": [("", "8080")], "53/udp": [("", "53")]}
SECOND = {"80/tcp": [("", "8080"), ("127.0.0.1", "8081")]}


class Points:
    """Counts, prints, and kills."""

    def __init__(self, last: int) -> None:
        self._last = last
        self._count = 0
        self._looking = False

    def before(self, owner: Any, name: str) -> None:
        """Makes a point of each call of `owner.name`."""
        original: Callable[..., Any] = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            if self._looking:
                return original(*args, **kwargs)
            self._count += 1
            if self._count == self._last:
                os.kill(os.getpid(), signal.SIGKILL)
            if not self._last:
                print(self._count, name, flush=True)
            return original(*args, **kwargs)

        setattr(owner, name, counted)

    def none_in(self, owner: Any, name: str) -> None:
        """No points within `owner.name`, which only looks, as often as it takes."""
        original: Callable[..., Any] = getattr(owner, name)

        def uncounted(*args: Any, **kwargs: Any) -> Any:
            outer, self._looking = self._looking, True
            try:
                return original(*args, **kwargs)
            finally:
                self._looking = outer

        setattr(owner, name, uncounted)


def main(path: str, last: int, one: str, two: str) -> None:
    """The life of a small engine."""
    points = Points(last)
    database, host = Database(path), Host()
    store, journal = DatabaseStore(database), Journal(database)
    for owner, names in (
        (store, ("save", "remove", "set_setting")),
        (journal, ("begin", "done")),
        (host, ("set_sysctl", "configure_inside")),
        (host.links, ("_post",)),
        (host.nft, ("run",)),
        (ports, ("bind",)),
        (netlink, ("raise_unless",)),
    ):
        for name in names:
            points.before(owner, name)
    points.none_in(host, "await_running")
    points.none_in(host.links, "dump")
    driver = BridgeDriver(ENGINE, store=store, journal=journal, host=host)
    driver.ensure()
    for container, netns, wanted in (("first", one, FIRST), ("second", two, SECOND)):
        netns_fd = os.open(netns, os.O_RDONLY)
        endpoint = driver.connect(container, netns_fd)
        with driver.publish(endpoint, container, ports.parse_bindings([], wanted)):
            pass
        if container == "first":
            driver.disconnect(container)
            print(BETWEEN, flush=True)
    network = driver.create(Network("f" * 64, "net", "bridge", CREATED, has_ipv6=True))
    driver.connect("second", os.open(two, os.O_RDONLY), network_id=network.network_id, interface="eth1")
    driver.disconnect("second", network.network_id, lives_on=True)
    driver.remove(network.network_id)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
