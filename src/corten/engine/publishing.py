"""Published ports of containers that exist: added, removed, and led to another network.

At a start they are published with the network (`engine.attachments`).  A change is recorded as what the container asks
for, so its next start has it as well; what runs gets it at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any

from msgspec.structs import replace

from corten.engine.attachments import PORT, Attachments, gateway_of, port_name, relays_of
from corten.engine.container import Container
from corten.engine.deciding import Decider
from corten.engine.effective import port_bindings
from corten.engine.events import container_event
from corten.engine.inspect import port_map
from corten.engine.parts import Parts
from corten.engine.portchanges import Asked, covers, parsed, with_added, without
from corten.engine.record import Status
from corten.errors import Conflict, CortenError
from corten.network.values import Endpoint, PortBinding, Publication
from corten.spec.docker import PortsRequest

log = logging.getLogger("corten.engine")

Json = dict[str, Any]


class Publishing:
    """Changes ports.  The caller of `follow` holds the container's lock."""

    def __init__(self, parts: Parts, find: Callable[[str], Container]) -> None:
        self._parts = parts
        self._find = find
        self._decider = Decider(parts)
        self._attachments = Attachments(parts)

    async def change(self, ref: str, request: PortsRequest) -> Json:
        """{"Ports": as inspect has them}.

        Raises InvalidArgument, NotFound, Conflict, PortConflict; PermissionDenied where a policy refuses.
        """
        container = self._find(ref)
        async with container.lock:
            _check(container)
            effective, gone = without(container.record.effective, request.remove or {}, container.publications)
            effective = with_added(effective, request.add or {})
            await self._decider.allow(container, effective)
            if container.is_running:
                await self._apply(container, gone, request.add or {})
            self._parts.save(container, replace(container.record, effective=effective))
        self._parts.bus.publish(container_event(container.record, "update"))
        return {"Ports": port_map(container)}

    async def _apply(self, container: Container, gone: Sequence[Publication], added: Asked) -> None:
        bindings = parsed(added)
        network = self._outward(container)
        if bindings and network is None:
            raise Conflict(f"container {container.id} is on no network that leads to the outside")
        if gone:
            await self._withdraw(container, gone)
        if network is not None and bindings:
            await self._publish(container, network, bindings)

    def _outward(self, container: Container) -> str | None:
        """The network whose endpoint has the ports; None where nothing leads to the outside."""
        gateway = gateway_of(self._attachments.current(container))
        return None if gateway is None or gateway.network.internal else gateway.network.name

    async def _publish(self, container: Container, network: str, bindings: Sequence[PortBinding]) -> None:
        known = container.endpoints[network].publications
        before = {one.key for one in known}
        published = self._parts.bridge.publish(container.endpoints[network], container.name, bindings)
        container.endpoints[network] = published.endpoint
        new = [one for one in published.endpoint.publications if one not in known]
        with published:
            held = {port_name(one.publication): one.socket.fileno() for one in published.reservations}
            relays = {name: to for name, to in relays_of(published.endpoint).items() if name not in before}
            try:
                with container.asked() as shim:
                    await shim.hold(held, relays=relays)
            except BaseException:
                container.endpoints[network] = self._parts.bridge.unpublish(published.endpoint, new)
                raise

    async def _withdraw(self, container: Container, gone: Sequence[Publication]) -> None:
        for endpoint in [*container.endpoints.values()]:
            mine = [one for one in endpoint.publications if one in gone]
            if mine:
                await self._release(container, endpoint, mine)

    async def _release(self, container: Container, endpoint: Endpoint, gone: Sequence[Publication]) -> None:
        """The sockets first: what a kill leaves is a port that no shim holds, which `settle` sees."""
        with container.asked() as shim:
            await shim.release([port_name(one) for one in gone])
        _put(container, self._parts.bridge.unpublish(endpoint, gone))

    async def follow(self, container: Container, leaving: Endpoint | None = None) -> None:
        """Leads a running container's ports to the network that is its way out now: host ports and sockets stay.

        Those that it could not have before are published, and where there is no way out any more, none is.  `leaving`:
        of the network that it is taken off, which is not among its endpoints any more.
        """
        network = self._outward(container)
        old = leaving if leaving is not None and leaving.publications else _holder(container)
        if old is None:
            effective = container.record.effective
            bindings = port_bindings(effective.config, effective.host)
            if network is not None and bindings:
                await self._publish(container, network, bindings)
        elif network is None:
            await self._release(container, old, old.publications)
        elif container.endpoints[network].endpoint_id != old.endpoint_id:
            await self._move(container, old, network)

    async def settle(self, container: Container) -> None:
        """After a start of cortend: a running container's ports are those that its record asks for, held by its shim.

        A change of ports or networks may have been cut off at any point.
        """
        effective = container.record.effective
        bindings = port_bindings(effective.config, effective.host)
        if not bindings and not container.publications:
            return
        try:
            with container.asked() as shim:
                held = {name for name in (await shim.hello()).get("held", ()) if name.startswith(PORT)}
            await self._cut(container, bindings, held)
            await self.follow(container)
            await self._complete(container, bindings)
        except (CortenError, OSError) as error:
            log.warning("container %s: ports are not those that it asks for: %s", container.id, error)

    async def _cut(self, container: Container, bindings: Sequence[PortBinding], held: Collection[str]) -> None:
        """Away with what nobody asks for, and what is half there."""
        for endpoint in [*container.endpoints.values()]:
            wanted = [one for one in endpoint.publications if any(covers(each, one) for each in bindings)]
            gone = [one for one in endpoint.publications if one not in wanted or port_name(one) not in held]
            if gone:
                await self._release(container, endpoint, gone)
        known = {port_name(one) for one in container.publications}
        if strays := [name for name in held if name not in known]:
            with container.asked() as shim:
                await shim.release(strays)

    async def _complete(self, container: Container, bindings: Sequence[PortBinding]) -> None:
        network, there = self._outward(container), container.publications
        missing = [one for one in bindings if not any(covers(one, port) for port in there)]
        if network is not None and missing:
            log.info("container %s: %d ports are published again", container.id, len(missing))
            await self._publish(container, network, missing)
        if relays := relays_of(*container.endpoints.values()):
            with container.asked() as shim:
                await shim.hold({}, relays=relays)

    async def _move(self, container: Container, old: Endpoint, network: str) -> None:
        narrow, wider = self._parts.bridge.move_ports(old, container.endpoints[network])
        _put(container, narrow)
        _put(container, wider)
        still = {one.key for one in wider.publications}
        lost = [port_name(one) for one in old.publications if one.key not in still]
        with container.asked() as shim:
            if lost:
                await shim.release(lost)
            if relays := relays_of(wider):
                await shim.hold({}, relays=relays)


def _holder(container: Container) -> Endpoint | None:
    return next((one for one in container.endpoints.values() if one.publications), None)


def _put(container: Container, endpoint: Endpoint) -> None:
    """In place of what it was, unless the container is being taken off it."""
    for name, one in container.endpoints.items():
        if one.endpoint_id == endpoint.endpoint_id:
            container.endpoints[name] = endpoint
            return


def _check(container: Container) -> None:
    if container.record.state.status in (Status.REMOVING, Status.DEAD):
        raise Conflict(f"container {container.id} is marked for removal")
    mode = container.record.effective.network
    if mode in ("host", "none") or mode.startswith("container:") or container.record.effective.config.network_disabled:
        raise Conflict(f"container {container.id} has no ports of its own to publish: its network is {mode}")
