"""Networks made, removed, and joined by containers that exist already.

Sources: NetworkCreate, NetworkDelete, NetworkConnect, NetworkDisconnect and NetworkPrune of the Engine API; the texts
are dockerd 26.1's.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterator
from typing import Any, Final

from msgspec.structs import replace

from corten.core.events import Event
from corten.engine import times
from corten.engine.attachments import Attachment, Attachments, gateway_of, port_name
from corten.engine.container import Container
from corten.engine.filters import Filters, check_keys, labels_match
from corten.engine.ipamrequest import enabled, subnets_of
from corten.engine.lifecycle import Lifecycle
from corten.engine.naming import Naming
from corten.engine.networks import FIXED, PREDEFINED
from corten.engine.parts import Parts
from corten.errors import Conflict, InvalidArgument, NotFound, PermissionDenied
from corten.network.values import Network
from corten.shim.protocol import NETNS_FD
from corten.spec.docker import IPAM, EndpointSettings, NetworkCreateRequest

Json = dict[str, Any]

DRIVER: Final = "bridge"
_NAME: Final = re.compile(r"[a-zA-Z0-9][\w.-]*")
_PRUNE_FILTERS: Final = frozenset({"label", "label!", "until"})


class NetworkOps:
    """What clients do with networks."""

    def __init__(self, parts: Parts, life: Lifecycle, naming: Naming) -> None:
        self._parts = parts
        self._naming = naming
        self._life = life
        self._attachments = Attachments(parts)

    # --- networks

    async def create(self, request: NetworkCreateRequest) -> Json:
        """The answer of NetworkCreate.  Raises PermissionDenied, Conflict, InvalidArgument, NotFound."""
        network = self._decided(request)
        if self._parts.networks.named(network.name) is not None:
            raise Conflict(f"network with name {network.name} already exists")
        made = self._parts.bridge.create(network)
        self._parts.bus.publish(network_change(made, "create"))
        return {"Id": made.network_id, "Warning": ""}

    def _decided(self, request: NetworkCreateRequest) -> Network:
        name, driver = request.name, request.driver or DRIVER
        if name in PREDEFINED:
            raise PermissionDenied(f"operation is not permitted on predefined {name} network ")
        if not _NAME.fullmatch(name):
            raise InvalidArgument(f"invalid network name: {name or 'name is empty'}")
        if driver in FIXED.values():
            raise PermissionDenied(f'only one instance of "{driver}" network is allowed')
        if driver != DRIVER:
            raise NotFound(f'plugin "{driver}" not found')
        ipam = request.ipam or IPAM()
        said = {**self._parts.bridge.settings.options.get(driver, {}), **(request.options or {})}
        versions = enabled(request, said)
        return Network(
            network_id=secrets.token_hex(32),
            name=name,
            driver=driver,
            created=times.rfc3339(time.time_ns()),
            subnets=subnets_of(ipam.config or (), versions),
            options=said,
            labels=dict(request.labels or {}),
            ipam_driver=ipam.driver or "default",
            ipam_options=dict(ipam.options) if ipam.options is not None else None,
            has_ipv4=4 in versions,
            has_ipv6=6 in versions,
            internal=request.internal,
            attachable=request.attachable,
        )

    async def remove(self, ref: str) -> None:
        """Raises NotFound, PermissionDenied while containers are on it."""
        network = self._parts.networks.find(ref)
        if network.name in PREDEFINED:
            raise PermissionDenied(f"{network.name} is a pre-defined network and cannot be removed")
        if any(network.name in one.endpoints for one in self._parts.roster):
            raise PermissionDenied(
                f"error while removing network: network {network.name} id {network.network_id} has active endpoints"
            )
        self._parts.bridge.remove(network.network_id)
        await self._naming.forget_network(network)
        self._parts.bus.publish(network_change(network, "destroy"))

    async def prune(self, wanted: Filters, dry_run: bool = False) -> Json:
        """Removes networks that no container is on or is made for.  `dry_run`: says what would go."""
        check_keys(wanted, _PRUNE_FILTERS)
        gone = [one for one in self._unused() if _is_wanted(one, wanted)]
        if not dry_run:
            for one in gone:
                await self.remove(one.network_id)
        return {"NetworksDeleted": [one.name for one in gone] or None}

    def _unused(self) -> Iterator[Network]:
        used = {name for one in self._parts.roster for name in one.endpoints}
        return (one for one in self._parts.bridge.networks() if one.name not in used | PREDEFINED)

    # --- containers

    async def connect(self, ref: str, container_ref: str, settings: EndpointSettings | None) -> None:
        """Joins a container, running or not.  Raises PermissionDenied, Conflict, NotFound."""
        network, container = self._parts.networks.find(ref), self._life.find(container_ref)
        one = Attachment(network, settings or EndpointSettings())
        async with container.lock:
            self._check_connect(container, network)
            if container.is_running:
                self._join(container, one)
            effective = container.record.effective
            effective = replace(effective, networks={**effective.networks, network.name: one.settings})
            self._parts.save(container, replace(container.record, effective=effective))
            if container.is_running:
                await self._naming.connected(container, one)
        self._attachments.tell(container, "connect", {network.name: ""})

    def _check_connect(self, container: Container, network: Network) -> None:
        mode = container.record.effective.network
        if mode == "host" or network.name == "host":
            raise PermissionDenied("container cannot be disconnected from host network or connected to host network")
        if mode.startswith("container:"):
            raise PermissionDenied(
                "container sharing network namespace with another container or host cannot be connected to any other "
                "network"
            )
        if "none" in (mode, network.name):
            raise PermissionDenied(
                "container cannot be connected to multiple networks with one of the networks in private (none) mode"
            )
        if network.name in (mode, *container.record.effective.networks):
            raise PermissionDenied(f"endpoint with name {container.name} already exists in network {network.name}")

    def _join(self, container: Container, one: Attachment) -> None:
        attached = (*self._attachments.wanted(container.record.effective), one)
        numbers = {endpoint.interface for endpoint in container.endpoints.values()}
        number = next(index for index in range(len(numbers) + 1) if f"eth{index}" not in numbers)
        netns = os.open(f"/proc/{container.record.state.shim_pid}/fd/{NETNS_FD}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            is_gateway = gateway_of(attached) is one
            endpoint = self._attachments.connect(container, one, netns, number, is_gateway=is_gateway)
        finally:
            os.close(netns)
        place = container.record.place
        places = {**place.networks, one.network.name: endpoint.endpoint_id}
        container.record = replace(container.record, place=replace(place, networks=places))

    async def disconnect(self, ref: str, container_ref: str, force: bool = False) -> None:
        """Takes a container off a network.  `force`: no error when it is not there any more."""
        network, container = self._parts.networks.find(ref), self._life.find(container_ref)
        async with container.lock:
            self._check_disconnect(container, network)
            await self._leave(container, network)
            effective = container.record.effective
            rest = {name: said for name, said in effective.networks.items() if name != network.name}
            self._parts.save(container, replace(container.record, effective=replace(effective, networks=rest)))
            if container.is_running:
                await self._naming.disconnected(container, network)
        self._attachments.tell(container, "disconnect", {network.name: ""})

    def _check_disconnect(self, container: Container, network: Network) -> None:
        effective = container.record.effective
        if "host" in (effective.network, network.name):
            raise PermissionDenied("container cannot be disconnected from host network or connected to host network")
        if network.name not in (effective.network, *effective.networks):
            raise PermissionDenied(f"container {container.id} is not connected to network {network.name}")

    async def _leave(self, container: Container, network: Network) -> None:
        endpoint = container.endpoints.pop(network.name, None)
        if endpoint is None:
            return
        if endpoint.publications and container.task is not None and container.task.shim is not None:
            await container.task.shim.release([port_name(one) for one in endpoint.publications])
        self._parts.bridge.disconnect(container.id, network.network_id, lives_on=True)
        place = container.record.place
        places = {name: ident for name, ident in place.networks.items() if name != network.name}
        container.record = replace(container.record, place=replace(place, networks=places))


def network_change(network: Network, action: str) -> Event:
    """A network comes or goes."""
    attributes = {"name": network.name, "type": network.driver}
    return Event(type="network", action=action, id=network.network_id, attributes=attributes)


def _is_wanted(network: Network, wanted: Filters) -> bool:
    until_ns = times.parse_timestamp(wanted.get("until", [""])[0]) if wanted.get("until") else 0
    if until_ns and times.from_rfc3339(network.created) >= until_ns:
        return False
    is_labelled = labels_match(network.labels, wanted.get("label", ()))
    return is_labelled and not (wanted.get("label!") and labels_match(network.labels, wanted["label!"]))
