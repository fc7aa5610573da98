"""The three networks there are: bridge, none and host, as `docker network ls` and `inspect` show them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from corten.engine.container import Container
from corten.engine.filters import Filters, check_keys, labels_match
from corten.engine.patterns import Regexps
from corten.errors import NotFound
from corten.network.inspect import Network, member, network_resource
from corten.network.values import Bridge

Json = dict[str, Any]

_FILTERS: Final = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})


def fixed_id(engine_id: str, name: str) -> str:
    """The id of a network that has no driver to remember one: 64 hex digits that stay."""
    return hashlib.sha256(f"{engine_id} network {name}".encode()).hexdigest()


class Networks:
    """Answers of NetworkList and NetworkInspect."""

    def __init__(self, engine_id: str, bridge: Bridge, bridge_id: str, created: str) -> None:
        """`created`: RFC 3339."""
        self.ids = {"bridge": bridge_id, "host": fixed_id(engine_id, "host"), "none": fixed_id(engine_id, "none")}
        self._bridge = bridge
        self._networks = {name: Network(name, id, created) for name, id in self.ids.items()}

    def driver_of(self, name: str) -> str:
        """Docker's name of the driver."""
        return self._networks[name].driver

    def list(self, filters: Filters) -> list[Json]:
        """Those that match, without their containers.  Raises InvalidArgument for an unknown filter."""
        check_keys(filters, _FILTERS)
        patterns = {key: Regexps(key, filters.get(key, ())) for key in ("name", "driver", "scope")}
        found = (network for network in self._networks.values() if _matches(network, filters, patterns))
        return [network_resource(network, self._bridge_of(network), None) for network in found]

    def _bridge_of(self, network: Network) -> Bridge | None:
        return self._bridge if network.name == "bridge" else None

    def find(self, ref: str) -> str:
        """The name for a name, id or prefix of an id.  Raises NotFound: `network foo not found`."""
        if ref in self.ids:
            return ref
        found = [name for name, id in self.ids.items() if ref and id.startswith(ref)]
        if len(found) != 1:
            raise NotFound(f"network {ref} not found")
        return found[0]

    def inspect(self, ref: str, containers: Iterable[Container]) -> Json:
        """One network with the running containers in it."""
        network = self._networks[self.find(ref)]
        members = {
            one.id: member(one.name, one.endpoint, one.record.place.endpoint_id)
            for one in containers
            if one.is_running and one.record.place.network == network.name
        }
        return network_resource(network, self._bridge_of(network), members)


def _matches(network: Network, filters: Filters, patterns: Mapping[str, Regexps]) -> bool:
    ids = filters.get("id", ())
    return (
        patterns["name"].match(network.name)
        and (not ids or any(network.network_id.startswith(value) for value in ids))
        and patterns["driver"].match(network.driver)
        and patterns["scope"].match("local")
        and labels_match({}, filters.get("label", ()))
        and "custom" not in filters.get("type", ())
        and not {"true", "1"} & set(filters.get("dangling", ()))
    )
