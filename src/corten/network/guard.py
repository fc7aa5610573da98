"""What keeps the engine's networks as they should be while other programs change the host's firewall.

    watch.py     the table of our own, written over when somebody changed it
    foreign.py   what other tables' chains say of our traffic; legacy.py, those that nftables does not show

The caller holds the driver's lock; the watch's thread takes it by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from corten.network.bridges import Bridges
from corten.network.device import BRIDGE
from corten.network.endpoints import Endpoints
from corten.network.foreign import Foreign
from corten.network.host import Host
from corten.network.legacy import Legacy
from corten.network.values import Journal, Network
from corten.network.watch import Watch
from corten.sys.nfevents import Events


class Guard:
    """One engine's."""

    def __init__(
        self,
        engine_id: str,
        bridges: Bridges,
        host: Host,
        *,
        journal: Journal,
        lock: threading.RLock,
        endpoints: Callable[[], Endpoints],
    ) -> None:
        self._bridges = bridges
        self._host = host
        self._lock = lock
        self._endpoints = endpoints
        self._foreign = Foreign(engine_id, host.nft, journal)
        self._legacy = Legacy(engine_id, journal)
        self._watch: Watch | None = None

    def watch(self) -> Watch:
        """Starts the thread, once, in a thread of the engine's network namespace."""
        watch = Watch(self._bridges.table, Events(), repair=self._write_table, look=self._look)
        self._write_table(watch.new_token())
        watch.start()
        self._watch = watch
        return watch

    def close(self) -> None:
        """Ends the thread.  The caller does not hold the lock."""
        if self._watch is not None:
            self._watch.stop()
            self._watch = None

    def _write_table(self, token: str) -> None:
        with self._lock:
            self._bridges.write_table(self._endpoints(), token=token)

    def _look(self, is_of_others: bool) -> None:
        with self._lock:
            if self._bridges.look(self._host.links.links()):
                self._bridges.write_table(self._endpoints())
            if is_of_others:  # else two engines would have each other ask for ever
                self._bridges.ask_again()
            self.settle()

    def settle(self) -> None:
        """Looks at the chains of other tables, and has them let our traffic through, and ours the traffic of theirs."""
        ways_out, others = self._bridges.ways_out(), self._bridges.outside.bridges
        self._foreign.settle(ways_out, others)
        if self._bridges.outside.drops and self._bridges.note_routed(self._foreign.named_elsewhere(others)):
            self._bridges.write_table(self._endpoints())
        self._legacy.settle(ways_out, others)

    def follow(self) -> None:
        """A network came or went: as `settle`, where there was something to do before."""
        if self._foreign.is_needed:
            self.settle()
        else:
            self._legacy.settle(self._bridges.ways_out(), self._bridges.outside.bridges)

    def check(self, network: Network) -> None:
        """Raises FailedPrecondition where a chain drops what a container of this network sends."""
        if not network.internal and network.driver == BRIDGE:
            self._foreign.check(network.name, self._bridges.device(network.network_id))

    def remove(self) -> None:
        """Takes our rules out of other tables."""
        self._legacy.remove()
        self._foreign.remove()
