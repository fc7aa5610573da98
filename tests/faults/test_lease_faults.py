"""No address, subnet, device or journal entry is lost when one call of the kernel or the database fails, whichever.

The calls are counted in a life of a network: made, joined with ports and a sysctl, left, removed.  The n-th fails once;
what was begun is then taken back as a client would, and the next life must find everything as the first did.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from corten.core.journal import Journal
from corten.core.metadata import Database
from corten.errors import CortenError, Unavailable
from corten.network import endpointoptions, options
from corten.network.bridge import BridgeDriver
from corten.network.host import Host
from corten.network.ports import parse_bindings
from corten.network.store import DatabaseStore
from corten.network.values import Network, Wanted
from corten.sys.netlink import NetlinkError
from corten.sys.nft import NftError
from support.netlab import Node

ENGINE = "0123abcd"
PORTS = {"80/tcp": [("", "8080")], "53/udp": [("127.0.0.1", "5353")]}
SYSCTLS = {endpointoptions.SYSCTLS: "net.ipv4.conf.IFNAME.log_martians=1"}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


class Faults:
    """Fails the n-th of the calls that it stands in front of, once."""

    def __init__(self) -> None:
        self.left = 0
        self.count = 0

    def before(self, owner: Any, name: str, error: Callable[[], BaseException]) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def called(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            self.left -= 1
            if self.left == 0:
                raise error()
            return original(*args, **kwargs)

        setattr(owner, name, called)


@dataclass
class Lab:
    host: Node
    container: Node
    store: DatabaseStore
    journal: Journal
    driver: BridgeDriver
    faults: Faults

    def network(self) -> Network:
        modes = {options.MODES[6]: "routed", options.MTU: "1400"}
        return Network("a" * 64, "a", "bridge", "2026-01-01T00:00:00Z", options=modes, has_ipv6=True)

    def live(self) -> list[str]:
        """A whole life; the addresses that the container had."""
        network = self.driver.create(self.network())
        wanted = Wanted(options=SYSCTLS)
        endpoint = self.driver.connect("one", self.container.netns_fd, network_id=network.network_id, wanted=wanted)
        with self.driver.publish(endpoint, "one", parse_bindings([], PORTS)) as published:
            found = [str(one) for one in published.endpoint.addresses]
        self.driver.disconnect("one", lives_on=True)
        self.driver.remove(network.network_id)
        return found

    def take_back(self) -> None:
        """What a client does that was told of a failure."""
        self.driver.disconnect("one", lives_on=True)
        for one in self.driver.networks()[1:]:
            self.driver.remove(one.network_id)

    def state(self) -> tuple[object, ...]:
        """Everything there is, but the numbers of journal entries."""
        table = self.host.run(["nft", "list", "table", "inet", f"corten-{ENGINE}"])
        return (
            self.store.endpoints(),
            [(one.name, one.subnets) for one in self.store.networks()],
            [one.name for one in self.journal.entries()],
            sorted(link.name for link in self.host.links.links()),
            sorted(link.name for link in self.container.links.links()),
            table,
        )


def lacks_memory() -> NetlinkError:
    return NetlinkError(errno.ENOMEM, "no room")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    host, container = Node("host"), Node("container")
    engine_host = host.call(Host)
    database, faults = Database(str(tmp_path / "db")), Faults()
    store, journal = DatabaseStore(database), Journal(database)
    driver = host.call(lambda: BridgeDriver(ENGINE, store=store, journal=journal, host=engine_host))
    host.call(driver.ensure)
    for name in ("save", "save_network", "remove", "remove_network"):
        faults.before(store, name, lambda: Unavailable("disk is full"))
    faults.before(journal, "begin", lambda: Unavailable("disk is full"))
    for name in ("send", "attempt"):
        faults.before(engine_host.links, name, lacks_memory)
    faults.before(engine_host.nft, "run", lambda: NftError("no room"))
    faults.before(engine_host, "set_sysctl", lambda: OSError(errno.EIO, "no sysctl"))
    faults.before(engine_host, "configure_inside", lambda: OSError(errno.EIO, "no namespace"))
    yield Lab(host, container, store, journal, driver, faults)
    driver.settle()
    engine_host.close()
    database.close()
    for node in (container, host):
        node.close()


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_call_that_fails_leaves_nothing_and_takes_no_address(lab: Lab, step: int) -> None:
    lab.host.call(lab.live)  # forwarding of IPv6 is on from then on, and in the table
    lab.faults.count = 0
    first, before = lab.host.call(lab.live), lab.state()
    points = range(1, lab.faults.count + 1, step)
    failed = 0
    for number in points:
        lab.faults.left = number
        try:
            lab.host.call(lab.live)
        except (CortenError, OSError):
            failed += 1
        lab.faults.left = 0
        lab.host.call(lab.take_back)
        assert lab.host.call(lab.live) == first, number
        assert lab.state() == before, number
    assert failed > len(points) / 2
