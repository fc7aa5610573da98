"""Published ports of containers that exist: added, removed, and led to another network.

At a start they are published with the network (`engine.attachments`).  A change is recorded as what the container asks
for, so its next start has it as well; what runs gets it at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from corten.engine.attachments import Attachment, Attachments, gateway_of, port_name, relays_of
from corten.engine.container import Container
from corten.engine.deciding import Decider
from corten.engine.effective import Effective, port_bindings
from corten.engine.events import container_event
from corten.engine.inspect import port_map
from corten.engine.lifecycle import Lifecycle
from corten.engine.parts import Parts
from corten.engine.portchanges import Asked, parsed, with_added, without
from corten.engine.record import Status
from corten.errors import Conflict
from corten.network.values import PortBinding, Publication
from corten.spec.docker import PortsRequest

Json = dict[str, Any]


class Publishing:
    """Changes ports.  The caller of `follow` holds the container's lock."""

    def __init__(self, parts: Parts, life: Lifecycle) -> None:
        self._parts = parts
        self._life = life
        self._decider = Decider(parts)
        self._attachments = Attachments(parts)

    async def change(self, ref: str, request: PortsRequest) -> Json:
        """{"Ports": as inspect has them}.

        Raises InvalidArgument, NotFound, Conflict, PortConflict; PermissionDenied where a policy refuses.
        """
        container = self._life.find(ref)
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
        network = self._outward(container, container.record.effective)
        if bindings and network is None:
            raise Conflict(f"container {container.id} is on no network that leads to the outside")
        if gone:
            await self._withdraw(container, gone)
        if network is not None and bindings:
            await self._publish(container, network, bindings)

    def _outward(self, container: Container, effective: Effective) -> str | None:
        """The network whose endpoint has the ports; None where nothing leads to the outside."""
        gateway = gateway_of(self._attachments.wanted(effective))
        return _name(container, gateway)

    async def _publish(self, container: Container, network: str, bindings: Sequence[PortBinding]) -> None:
        before = {one.key for one in container.endpoints[network].publications}
        published = self._parts.bridge.publish(container.endpoints[network], container.name, bindings)
        container.endpoints[network] = published.endpoint
        new = [one.publication for one in published.reservations]
        with published:
            held = {port_name(one.publication): one.socket.fileno() for one in published.reservations}
            relays = {name: to for name, to in relays_of(published.endpoint).items() if name[5:] not in before}
            try:
                with container.asked() as shim:
                    await shim.hold(held, relays=relays)
            except BaseException:
                container.endpoints[network] = self._parts.bridge.unpublish(published.endpoint, new)
                raise

    async def _withdraw(self, container: Container, gone: Sequence[Publication]) -> None:
        for network, endpoint in [*container.endpoints.items()]:
            mine = [one for one in endpoint.publications if one in gone]
            if mine:
                container.endpoints[network] = self._parts.bridge.unpublish(endpoint, mine)
                with container.asked() as shim:
                    await shim.release([port_name(one) for one in mine])

    async def follow(self, container: Container, gateway: Attachment | None) -> None:
        """Leads a running container's ports to the network that is its way out now: host ports and sockets stay.

        Those that it could not have before are published, and where there is no way out any more, none is.
        """
        network = _name(container, gateway)
        holder = next((name for name, one in container.endpoints.items() if one.publications), None)
        if network == holder:
            return
        if holder is None:
            effective = container.record.effective
            bindings = port_bindings(effective.config, effective.host)
            if network is not None and bindings:
                await self._publish(container, network, bindings)
        elif network is None:
            await self._withdraw(container, container.endpoints[holder].publications)
        else:
            await self._move(container, holder, network)

    async def _move(self, container: Container, holder: str, network: str) -> None:
        old, new = container.endpoints[holder], container.endpoints[network]
        narrow, wider = self._parts.bridge.move_ports(old, new)
        container.endpoints[holder], container.endpoints[network] = narrow, wider
        still = {one.key for one in wider.publications}
        with container.asked() as shim:
            if lost := [port_name(one) for one in old.publications if one.key not in still]:
                await shim.release(lost)
            if relays := relays_of(wider):
                await shim.hold({}, relays=relays)


def _name(container: Container, gateway: Attachment | None) -> str | None:
    if gateway is None or gateway.network.internal or gateway.network.name not in container.endpoints:
        return None
    return gateway.network.name


def _check(container: Container) -> None:
    if container.record.state.status in (Status.REMOVING, Status.DEAD):
        raise Conflict(f"container {container.id} is marked for removal")
    mode = container.record.effective.network
    if mode in ("host", "none") or mode.startswith("container:") or container.record.effective.config.network_disabled:
        raise Conflict(f"container {container.id} has no ports of its own to publish: its network is {mode}")
