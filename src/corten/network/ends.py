"""The host's ends of an engine's veth pairs: which there are, and whether they are ports of their bridges."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence

from corten.network import device, parents, pools
from corten.network.bridges import Bridges
from corten.network.device import alias_of, bridge_of
from corten.network.host import Host
from corten.network.values import Endpoint
from corten.sys import netlink, rtnetlink
from corten.sys.rtnetlink import Link


class Ends:
    """Of one engine.  Its caller holds a lock."""

    def __init__(self, engine_id: str, bridges: Bridges, *, host: Host) -> None:
        self._engine_id = engine_id
        self._bridges = bridges
        self._host = host

    def own(self) -> list[Link]:
        """Our devices on the host: by alias, or by name when a kill came before the alias."""
        named = re.compile(rf"ct{self._engine_id[:4]}[0-9a-f]{{8}}|ctn-{self._engine_id}")
        prefix = alias_of(self._engine_id, "")
        return [
            link
            for link in self._host.links.links()
            if link.kind in ("veth", device.BRIDGE, *parents.KINDS)
            and (link.alias.startswith(prefix) or (not link.alias and named.fullmatch(link.name)))
        ]

    def rejoin(self, endpoints: Sequence[Endpoint]) -> None:
        """Makes recorded links ports of their bridge again, when it was made anew."""
        masters = {one.link: self._bridges.device(one.network_id) for one in endpoints if one.link}
        apart = [
            link
            for link in self.own()
            if link.name in masters and link.master != self._bridges.known_index(masters[link.name])
        ]
        for link in apart:
            index = self._bridges.known_index(masters[link.name])
            self._host.links.send(rtnetlink.set_up(link.name, index), rtnetlink.hairpin_on(link.index))
        if apart:
            self._host.await_running(*(link.name for link in apart), *{masters[link.name] for link in apart})

    def cut_off(self, name: str) -> None:
        """Nothing goes through a link any more."""
        link = self._host.links.link(name)
        if link is not None:
            outcome = self._host.links.attempt(rtnetlink.cut_off(link.index))
            netlink.raise_unless(outcome, errno.ENODEV, errno.ENETDOWN, errno.EOPNOTSUPP)

    def forget_neighbour(self, endpoint: Endpoint, name: str) -> None:
        """A hardware address of the user's own does not follow from the address: somebody may remember another."""
        if endpoint.mac == pools.mac_of(endpoint.addresses[0].ip):
            return
        bridge = self._host.links.link(name)
        if bridge is not None:
            requests = [rtnetlink.delete_neighbour(bridge.index, one.ip) for one in endpoint.addresses]
            netlink.raise_unless(self._host.links.attempt(*requests), errno.ENOENT)

    def part(self, endpoints: Sequence[Endpoint]) -> None:
        """The ports of a bridge reach each other or not, as its network says now."""
        indexes = {link.name: link.index for link in self.own() if link.master}
        apart = {one.network_id: not bridge_of(self._engine_id, one).has_icc for one in self._bridges.bridged()}
        requests = [
            (rtnetlink.isolate if apart[one.network_id] else rtnetlink.unite)(indexes[one.link])
            for one in endpoints
            if one.link in indexes and one.network_id in apart
        ]
        if requests:
            netlink.raise_unless(self._host.links.attempt(*requests), errno.ENODEV)
