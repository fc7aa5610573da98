"""Names for containers on networks of their own: the resolver is told who is where, and whom to ask for the rest.

The default bridge, `host` and `none` have none, as with dockerd.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Sequence
from typing import Final

from corten.core.resolver import Resolver
from corten.engine.attachments import Attachment, Attachments
from corten.engine.container import Container
from corten.engine.networks import PREDEFINED
from corten.engine.parts import Parts
from corten.errors import CortenError
from corten.network import files, redirect
from corten.network.values import Network
from corten.shim.protocol import NETNS_FD

log = logging.getLogger("corten.engine")

_SHORT_ID: Final = 12


class Naming:
    """Keeps the resolver and the roster together."""

    def __init__(self, parts: Parts, resolver: Resolver) -> None:
        self._parts = parts
        self._resolver = resolver
        self._attachments = Attachments(parts)
        self._known: set[str] = set()  # networks that the resolver knows

    async def begin(self, container: Container, attached: Sequence[Attachment], netns_fd: int) -> None:
        """Before its program runs: its names are known, and it is answered.  Raises CortenError."""
        own = named(attached)
        if not own:
            return
        for one in own:
            await self._join(container, one)
        await self._serve(container, own, netns_fd)

    async def _join(self, container: Container, one: Attachment) -> None:
        network = one.network
        if network.network_id not in self._known:
            await self._resolver.tell("network", id=network.network_id, name=network.name)
            self._known.add(network.network_id)
        endpoint = container.endpoints[network.name]
        await self._resolver.tell(
            "join",
            network=network.network_id,
            container=container.id,
            names=names_of(container, one),
            addresses=[str(address.ip) for address in endpoint.addresses],
        )

    async def _serve(self, container: Container, own: Sequence[Attachment], netns_fd: int) -> None:
        udp, tcp = redirect.open_sockets(netns_fd)
        with udp, tcp:
            view = self._view(container, own)
            await self._resolver.tell("serve", udp.fileno(), tcp.fileno(), container=container.id, **view)

    def _view(self, container: Container, own: Sequence[Attachment]) -> dict[str, list[str]]:
        """A container on internal networks alone asks nobody outside."""
        is_open = any(not one.network.internal for one in own)
        servers = self._servers(container) if is_open else []
        return {"networks": [one.network.network_id for one in own], "servers": servers}

    def _servers(self, container: Container) -> list[str]:
        said = container.record.effective.host.dns or self._parts.settings.dns
        return list(said) or files.host_nameservers()

    async def end(self, container: Container, networks: Iterable[str]) -> None:
        """Its run is over; `networks`: names.  What fails is told at the next start of the resolver."""
        found = [self._parts.networks.named(name) for name in networks]
        own = [one for one in found if one is not None and one.name not in PREDEFINED]
        with contextlib.suppress(CortenError):
            for one in own:
                await self._leave(container, one)
            if own:
                await self._resolver.tell("forget", container=container.id)

    async def _leave(self, container: Container, network: Network) -> None:
        if network.network_id in self._known:
            await self._resolver.tell("leave", network=network.network_id, container=container.id)

    async def connected(self, container: Container, one: Attachment) -> None:
        """A running container has joined one more network."""
        if one.network.name in PREDEFINED:
            return
        await self._join(container, one)
        own = named(self._attachments.wanted(container.record.effective))
        if len(own) > 1:
            await self._resolver.tell("view", container=container.id, **self._view(container, own))
        else:
            await self._serve_running(container, own)

    async def disconnected(self, container: Container, network: Network) -> None:
        """A running container has left a network."""
        if network.name in PREDEFINED:
            return
        await self._leave(container, network)
        own = named(self._attachments.wanted(container.record.effective))
        await self._resolver.tell("view", container=container.id, **self._view(container, own))

    async def _serve_running(self, container: Container, own: Sequence[Attachment]) -> None:
        fd = os.open(f"/proc/{container.record.state.shim_pid}/fd/{NETNS_FD}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            await self._serve(container, own, fd)
        finally:
            os.close(fd)

    async def forget_network(self, network: Network) -> None:
        """It is removed."""
        if network.network_id in self._known:
            self._known.discard(network.network_id)
            await self._resolver.tell("network", id=network.network_id)

    async def restore(self) -> None:
        """Tells everything to a resolver that was found or made: after a start of cortend, or of the resolver."""
        self._known.clear()
        concerned = [(one, own) for one in self._parts.roster if one.is_running and (own := self._named(one))]
        if not concerned:
            return
        served = await self._resolver.open()
        for container, own in concerned:
            for one in own:
                await self._join(container, one)
            if container.id in served:
                await self._resolver.tell("view", container=container.id, **self._view(container, own))
            else:
                await self._serve_running(container, own)
        for stale in served - {container.id for container, _ in concerned}:
            await self._resolver.tell("forget", container=stale)

    def _named(self, container: Container) -> tuple[Attachment, ...]:
        return tuple(
            one
            for one in named(self._attachments.wanted(container.record.effective))
            if one.network.name in container.endpoints
        )


def named(attached: Iterable[Attachment]) -> tuple[Attachment, ...]:
    """Those of them that have names."""
    return tuple(one for one in attached if one.network.name not in PREDEFINED)


def names_of(container: Container, one: Attachment) -> list[str]:
    """What a container is called on a network, its own name first (dockerd's DNSNames)."""
    hostname = container.record.effective.config.hostname
    return list(dict.fromkeys([container.name, *(one.settings.aliases or ()), container.id[:_SHORT_ID], hostname]))
