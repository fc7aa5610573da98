"""Networks as `docker network ls` and `inspect` show them: the bridges there are, `host` and `none`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from corten.engine.container import Container
from corten.engine.filters import Filters, check_keys, flags, labels_match
from corten.engine.patterns import Regexps
from corten.errors import InvalidArgument, NotFound
from corten.network.bridge import BridgeDriver
from corten.network.inspect import member, network_resource
from corten.network.values import DEFAULT_NETWORK, FIXED, PREDEFINED, Bridge, Network

Json = dict[str, Any]

_FILTERS: Final = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})


def fixed_id(engine_id: str, name: str) -> str:
    """The id of a network that has no driver to remember one: 64 hex digits that stay."""
    return hashlib.sha256(f"{engine_id} network {name}".encode()).hexdigest()


class Networks:
    """Answers of NetworkList and NetworkInspect."""

    def __init__(self, engine_id: str, driver: BridgeDriver, created: str) -> None:
        """`created`: of `host` and `none`, RFC 3339."""
        self._driver = driver
        self._fixed = tuple(Network(fixed_id(engine_id, name), name, kind, created) for name, kind in FIXED.items())

    def all(self) -> tuple[Network, ...]:
        """Every network, the bridges first."""
        return (*self._driver.networks(), *self._fixed)

    @property
    def ids(self) -> dict[str, str]:
        """Name → id."""
        return {one.name: one.network_id for one in self.all()}

    def named(self, name: str) -> Network | None:
        """The network of exactly this name."""
        return next((one for one in self.all() if one.name == name), None)

    def driver_of(self, name: str) -> str:
        """Docker's name of the driver; '' when the network is gone."""
        found = self.named(name)
        return found.driver if found is not None else ""

    def sought(self, ref: str) -> Network | None:
        """By name, id or prefix; None when there is none, or more than one."""
        try:
            return self.find(ref)
        except (NotFound, InvalidArgument):
            return None

    def list(self, filters: Filters) -> list[Json]:
        """Those that match, without their containers.  Raises InvalidArgument for an unknown filter."""
        check_keys(filters, _FILTERS)
        patterns = {key: Regexps(key, filters.get(key, ())) for key in ("name", "driver", "scope")}
        kinds, dangling = _kinds(filters.get("type", ())), flags("dangling", filters)
        found = (
            network
            for network in self.all()
            if (network.name not in PREDEFINED) in kinds
            and dangling in (None, network.name not in PREDEFINED)
            and _matches(network, filters, patterns)
        )
        return [network_resource(network, self._bridge_of(network), None) for network in found]

    def _bridge_of(self, network: Network) -> Bridge | None:
        return self._driver.bridge() if network.name == DEFAULT_NETWORK else None

    def find(self, ref: str) -> Network:
        """By name, id or prefix of an id.  Raises NotFound: `network foo not found`, InvalidArgument."""
        every = self.all()
        exact = [one for one in every if ref in (one.name, one.network_id)]
        if exact:
            return exact[0]
        found = [one for one in every if ref and one.network_id.startswith(ref)]
        if len(found) > 1:
            raise InvalidArgument(f"network {ref} is ambiguous ({len(found)} matches found on ID prefix)")
        if not found:
            raise NotFound(f"network {ref} not found")
        return found[0]

    def inspect(self, ref: str, containers: Iterable[Container]) -> Json:
        """One network with the running containers in it."""
        network = self.find(ref)
        members = {
            one.id: member(one.name, one.endpoints.get(network.name), one.record.place.networks[network.name])
            for one in containers
            if one.is_running and network.name in one.record.place.networks
        }
        return network_resource(network, self._bridge_of(network), members)


def _kinds(wanted: Iterable[str]) -> set[bool]:
    """Of the filter `type`, whether networks that somebody made are shown, and others.  Raises InvalidArgument."""
    known = {"custom": True, "builtin": False}
    for one in wanted:
        if one not in known:
            raise InvalidArgument(f"invalid filter: 'type'='{one}'")
    return {known[one] for one in wanted} or {True, False}


def _matches(network: Network, filters: Filters, patterns: Mapping[str, Regexps]) -> bool:
    ids = filters.get("id", ())
    return (
        patterns["name"].match(network.name)
        and (not ids or any(network.network_id.startswith(value) for value in ids))
        and patterns["driver"].match(network.driver)
        and patterns["scope"].match("local")
        and labels_match(network.labels, filters.get("label", ()))
    )
