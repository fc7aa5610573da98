"""Networks made and removed.

Sources: NetworkCreate, NetworkDelete and NetworkPrune of the Engine API; the texts are dockerd 26.1's.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import Any, Final

from corten.core.events import Event
from corten.engine import networkkinds, times
from corten.engine.filters import Filters, check_keys, labels_match
from corten.engine.ipamrequest import check_driver, enabled, subnets_of
from corten.engine.naming import Naming
from corten.engine.parts import Parts
from corten.errors import Conflict, InvalidArgument, PermissionDenied
from corten.network.values import PREDEFINED, Network
from corten.spec.docker import IPAM, NetworkCreateRequest

Json = dict[str, Any]

DRIVER: Final = "bridge"
_PRUNE_FILTERS: Final = frozenset({"label", "label!", "until"})


class NetworkOps:
    """What clients do with networks."""

    def __init__(self, parts: Parts, naming: Naming) -> None:
        self._parts = parts
        self._naming = naming

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
        if not name.strip() or not name.isprintable():
            raise InvalidArgument(f"invalid name: {name!r}" if name.strip() else "invalid name:")
        networkkinds.check(request, driver)
        ipam = request.ipam or IPAM()
        check_driver(ipam.driver)
        defaults = {} if networkkinds.source_of(request) else self._parts.bridge.settings.options.get(driver, {})
        said = {**defaults, **(request.options or {})}
        versions = enabled(request, said)
        made = Network(
            network_id=secrets.token_hex(32),
            name=name,
            driver=networkkinds.CONFIG_DRIVER if request.config_only else driver,
            created=times.rfc3339(time.time_ns()),
            subnets=subnets_of(ipam.config or (), versions, is_single=driver == DRIVER),
            options=said,
            labels=dict(request.labels or {}),
            ipam_driver=ipam.driver or "default",
            ipam_options=dict(ipam.options) if ipam.options is not None else None,
            has_ipv4=4 in versions,
            has_ipv6=6 in versions,
            internal=request.internal,
            attachable=request.attachable,
            config_only=request.config_only,
        )
        return networkkinds.configured(made, request, self._parts.networks.all())

    async def remove(self, ref: str) -> None:
        """Raises NotFound, PermissionDenied while containers are on it."""
        network = self._parts.networks.find(ref)
        if network.name in PREDEFINED:
            raise PermissionDenied(f"{network.name} is a pre-defined network and cannot be removed")
        if any(network.name in one.endpoints for one in self._parts.roster):
            raise PermissionDenied(
                f"error while removing network: network {network.name} id {network.network_id} has active endpoints"
            )
        networkkinds.check_unused(network, self._parts.networks.all())
        self._parts.bridge.remove(network.network_id)
        await self._naming.forget_network(network)
        if network.config_only:
            return
        self._parts.bus.publish(network_change(network, "destroy"))

    async def prune(self, wanted: Filters, dry_run: bool = False) -> Json:
        """Removes networks that no container is on or is made for.  `dry_run`: says what would go."""
        check_keys(wanted, _PRUNE_FILTERS)
        gone = [one for one in self._unused() if _is_wanted(one, wanted)]
        if not dry_run:
            for one in gone:
                await self.remove(one.network_id)
            self._parts.bus.publish(Event(type="network", action="prune", id="", attributes={"reclaimed": "0"}))
        return {"NetworksDeleted": [one.name for one in gone] or None}

    def _unused(self) -> Iterator[Network]:
        used = {name for one in self._parts.roster for name in one.endpoints}
        free = (one for one in self._parts.bridge.networks() if not one.config_only)
        return (one for one in free if one.name not in used | PREDEFINED)


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
