"""Names for containers on networks of their own: the resolver is told who is where, and whom to ask for the rest.

The default bridge, `host` and `none` have none, as with dockerd.  A resolver that cortend finds or makes is told
everything there is before anything else; from then on each change.  When it is lost in between, that happens again, so
that no change has to be repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from corten.core.resolver import Resolver
from corten.engine import resolvconf
from corten.engine.attachments import Attachment, Attachments
from corten.engine.container import Container
from corten.engine.parts import Parts
from corten.errors import CortenError, Unavailable
from corten.network import redirect
from corten.network.values import PREDEFINED, Network
from corten.shim.protocol import NETNS_FD
from corten.sys.rtnetlink import IPAddress

log = logging.getLogger("corten.engine")

_SHORT_ID: Final = 12

Fields = dict[str, Any]


class Naming:
    """Keeps the resolver and the roster together."""

    def __init__(self, parts: Parts, resolver: Resolver) -> None:
        self._parts = parts
        self._resolver = resolver
        self._attachments = Attachments(parts)
        self._telling = asyncio.Lock()
        self._is_told = False  # the resolver of now knows everything
        self._served: set[str] = set()  # containers
        self._starting: dict[str, int] = {}  # their namespaces, until their shims have them

    # --- the resolver

    def lost(self) -> None:
        """The resolver is gone: the next one knows nothing."""
        self._is_told = False

    async def restore(self) -> None:
        """After a start of cortend, or of the resolver, where there is something to tell.  Raises CortenError."""
        if any(self._concerned()) or self._resolver.is_there():
            await self._ready()

    async def _ready(self) -> None:
        if self._is_told and self._resolver.is_open:
            return
        async with self._telling:
            if not (self._is_told and self._resolver.is_open):
                await self._tell_all()
                self._is_told = True

    async def _tell_all(self) -> None:
        found = await self._resolver.open()
        concerned = list(self._concerned())
        await self._resolver.tell("table", networks=self._table(concerned))
        for container, own in concerned:
            try:
                if container.id in found:
                    await self._resolver.tell("view", **self._view(container, own))
                else:
                    await self._serve(container, own)
            except Unavailable:
                raise
            except (CortenError, OSError) as error:
                log.warning("container %s: names are not answered: %s", container.id, error)
        self._served = {one.id for one, _ in concerned}
        for stale in found - self._served:
            await self._resolver.tell("forget", container=stale)

    def _concerned(self) -> Iterator[tuple[Container, tuple[Attachment, ...]]]:
        for one in self._parts.roster:
            own = self._own(one) if one.is_running or one.id in self._starting else ()
            if own:
                yield one, own

    def _table(self, concerned: Iterable[tuple[Container, Sequence[Attachment]]]) -> list[Fields]:
        networks: dict[str, Fields] = {}
        for container, own in concerned:
            for join in self._joins(container, own):
                row = {"id": join["network"], "name": join["name"], "members": []}
                networks.setdefault(join["network"], row)["members"].append(join)
        return list(networks.values())

    async def _tell(self, op: str, **fields: Any) -> None:
        """One change; again when the resolver is lost under it."""
        await self._ready()
        try:
            await self._resolver.tell(op, **fields)
        except Unavailable:
            self.lost()
            await self._ready()
            await self._resolver.tell(op, **fields)

    # --- containers

    async def begin(self, container: Container, attached: Sequence[Attachment], netns_fd: int) -> None:
        """Before its program runs: its names are known, and it is answered.  Raises CortenError."""
        own = named(attached)
        if not own:
            return
        self._starting[container.id] = os.dup(netns_fd)
        await self._begin(container, own)

    async def _begin(self, container: Container, own: Sequence[Attachment]) -> None:
        """Served, unless a resolver that was told everything serves it already."""
        self._served.discard(container.id)
        await self._ready()
        if container.id in self._served:
            return
        try:
            await self._serve(container, own)
        except Unavailable:
            self.lost()
            await self._ready()
            if container.id not in self._served:
                await self._serve(container, own)
        self._served.add(container.id)

    def started(self, container: Container) -> None:
        """Its shim has its namespace."""
        fd = self._starting.pop(container.id, -1)
        if fd >= 0:
            os.close(fd)

    async def _serve(self, container: Container, own: Sequence[Attachment]) -> None:
        udp, tcp = self._sockets(container)
        with udp, tcp:
            fields = self._view(container, own) | {"joins": self._joins(container, own)}
            await self._resolver.tell("serve", udp.fileno(), tcp.fileno(), **fields)

    def _sockets(self, container: Container) -> tuple[Any, Any]:
        if container.id in self._starting:
            return redirect.open_sockets(self._starting[container.id])
        fd = os.open(f"/proc/{container.record.state.shim_pid}/fd/{NETNS_FD}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return redirect.open_sockets(fd)
        finally:
            os.close(fd)

    async def end(self, container: Container) -> None:
        """Its run is over.  Of what fails the next resolver is not told at all."""
        is_known = container.id in self._served or container.id in self._starting
        self.started(container)
        if not is_known:
            return
        self._served.discard(container.id)
        async with self._telling:  # not while everything is told, and this with it
            if self._resolver.is_open:
                with contextlib.suppress(CortenError):
                    await self._resolver.tell("forget", container=container.id)

    # --- changes of one that runs

    async def connected(self, container: Container, one: Attachment) -> None:
        """It has joined one more network; the first that has names leads it to the resolver."""
        if one.network.name in PREDEFINED:
            return
        if container.id in self._served:
            await self._tell_view(container)
            return
        await self._begin(container, self._own(container))
        resolvconf.lead_to_resolver(
            container.record.effective,
            self._parts.paths(container.id).resolv_conf,
            self._parts.settings,
            addresses=addresses_of(container),
        )

    async def disconnected(self, container: Container, network: Network) -> None:
        """It has left a network."""
        if network.name in PREDEFINED or container.id not in self._served:
            return
        await self.drop(container, network)
        await self._tell_view(container)

    async def renamed(self, container: Container) -> None:
        """Its name is another; the old one is nobody's."""
        if container.id in self._served:
            await self._tell_view(container)

    async def _tell_view(self, container: Container) -> None:
        own = self._own(container)
        await self._tell("view", **self._view(container, own), joins=self._joins(container, own))

    async def drop(self, container: Container, network: Network) -> None:
        """A container is not on a network, whatever the resolver was told."""
        if self._resolver.is_open:
            with contextlib.suppress(CortenError):  # it does not know the network
                await self._resolver.tell("leave", network=network.network_id, container=container.id)

    async def forget_network(self, network: Network) -> None:
        """It is removed."""
        if self._resolver.is_open:
            with contextlib.suppress(CortenError):
                await self._resolver.tell("network", id=network.network_id)

    # --- what is told

    def _own(self, container: Container) -> tuple[Attachment, ...]:
        """The networks with names that it is on."""
        wanted = self._attachments.wanted(container.record.effective)
        return tuple(one for one in named(wanted) if one.network.name in container.endpoints)

    def _joins(self, container: Container, own: Sequence[Attachment]) -> list[Fields]:
        return [
            {
                "network": one.network.network_id,
                "name": one.network.name,
                "container": container.id,
                "names": names_of(container, one),
                "addresses": [str(address.ip) for address in container.endpoints[one.network.name].addresses],
            }
            for one in own
        ]

    def _view(self, container: Container, own: Sequence[Attachment]) -> Fields:
        """A container on internal networks alone asks nobody outside."""
        effective, settings = container.record.effective, self._parts.settings
        said = effective.host.dns or settings.dns
        attached = self._attachments.wanted(effective)
        return {
            "container": container.id,
            "networks": [one.network.network_id for one in sorted(own, key=_rank)],
            "servers": list(said) or None,
            "way_out": any(one.is_connected and not one.network.internal for one in attached),
            "ipv6": resolvconf.has_ipv6(addresses_of(container)),
            "ndots": resolvconf.has_ndots(effective, settings),
            "links": links_of(own),
        }


def _rank(one: Attachment) -> tuple[int, bool, str]:
    """Which network's answer counts: the order in which one leads outside (libnetwork, Endpoint.Less)."""
    return -one.settings.gw_priority, one.network.internal, one.network.name


def named(attached: Iterable[Attachment]) -> tuple[Attachment, ...]:
    """Those of them that have names."""
    return tuple(one for one in attached if one.network.name not in PREDEFINED)


def names_of(container: Container, one: Attachment) -> list[str]:
    """What a container is called on a network, its own name first (dockerd's DNSNames)."""
    hostname = container.record.effective.config.hostname
    return list(dict.fromkeys([container.name, *(one.settings.aliases or ()), container.id[:_SHORT_ID], hostname]))


def addresses_of(container: Container) -> list[IPAddress]:
    """On all its networks."""
    return [one.ip for endpoint in container.endpoints.values() for one in endpoint.addresses]


def links_of(own: Iterable[Attachment]) -> dict[str, str]:
    """The names that it alone has for others, by the links of its networks (`name:alias`)."""
    pairs = (text.partition(":") for one in own for text in one.settings.links or ())
    return {alias or name: name for name, _, alias in pairs}
