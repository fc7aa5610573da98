"""`--network` of `run` and `create`: a name, or `name=NAME,alias=…,ip=…` (docs of `docker run`, "Networking").

The flags `--ip`, `--network-alias` and their like are of the first network.  Wording is that of Docker's CLI 28.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from corten import errors
from corten.cli.flags import go_integer, quoted

_LONG: Final = re.compile(r"\w+=\w+")
_PREDEFINED: Final = ("default", "bridge", "host", "none")
_MAC: Final = re.compile(r"([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A network, and what a container asks of it."""

    name: str
    aliases: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    ip: str = ""
    ip6: str = ""
    link_local: tuple[str, ...] = ()
    mac: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0

    @property
    def is_own(self) -> bool:
        """A network that somebody made; the others have no aliases."""
        return self.name not in _PREDEFINED and not self.name.startswith("container:")


def parse_network(text: str) -> Wanted:
    """One `--network`.  Raises InvalidArgument with the reason."""
    if not _LONG.search(text):
        return Wanted(text)
    found = Wanted("")
    for word in _fields(text):
        key, equals, value = word.lower().partition("=")
        if not equals or not key:
            raise errors.InvalidArgument(f"invalid field {word}")
        found = _set(found, key.strip(), value.strip())
    if not found.name:
        raise errors.InvalidArgument("network name/id is not specified")
    return found


def _fields(text: str) -> list[str]:
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise errors.InvalidArgument(f"parse error on line 1: {error}") from None


def _set(found: Wanted, key: str, value: str) -> Wanted:
    match key:
        case "name":
            return replace(found, name=value)
        case "alias":
            return replace(found, aliases=(*found.aliases, value))
        case "ip":
            return replace(found, ip=value)
        case "ip6":
            return replace(found, ip6=value)
        case "mac-address":
            return replace(found, mac=value)
        case "link-local-ip":
            return replace(found, link_local=(*found.link_local, value))
        case "driver-opt":
            pair = option_pair(value, "invalid key value pair format in driver options")
            return replace(found, options={**found.options, **pair})
        case "gw-priority":
            return replace(found, priority=_priority(value))
    raise errors.InvalidArgument(f"invalid field key {key}")


def _priority(text: str) -> int:
    try:
        return go_integer(text, base=10)
    except errors.InvalidArgument as error:
        raise errors.InvalidArgument(f"invalid gw-priority ({text}): {error.text.rpartition(': ')[2]}") from None


def option_pair(text: str, wrong: str) -> dict[str, str]:
    """`name=value` of a driver's option.  Raises InvalidArgument with `wrong`."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise errors.InvalidArgument(wrong)
    return {name.strip(): value.strip()}


def check_mac(text: str) -> None:
    """Raises InvalidArgument."""
    if text and not _MAC.fullmatch(text):
        raise errors.InvalidArgument(f"{text} is not a valid mac address")


def networking(given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(NetworkMode, EndpointsConfig) of the flags.  Raises InvalidArgument."""
    found = [parse_network(text) for text in given["network"]] or [Wanted("default")]
    found[0] = _with_flags(found[0], given)
    endpoints: dict[str, Any] = {}
    for one in found:
        _check(one)
        if one.name in endpoints:
            raise errors.InvalidArgument(f"network {quoted(one.name)} is specified multiple times")
        endpoints[one.name] = _endpoint(one)
    if len({one.is_own for one in found}) > 1:
        raise errors.InvalidArgument(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
        )
    if len(found) == 1 and not endpoints[found[0].name]:
        endpoints = {}
    return found[0].name, endpoints


# (field, flag, its option, what the long form calls it)
_FIRST: Final[Sequence[tuple[str, str, str, str]]] = (
    ("aliases", "network_alias", "--network-alias", "alias"),
    ("ip", "ip", "--ip", "IPv4 address"),
    ("ip6", "ip6", "--ip6", "IPv6 address"),
    ("mac", "mac_address", "--mac-address", "MAC address"),
    ("link_local", "link_local_ip", "--link-local-ip", "link-local IP addresses"),
)


def _with_flags(one: Wanted, given: Mapping[str, Any]) -> Wanted:
    """The first network with the flags that are for it."""
    for name, flag, option, words in _FIRST:
        if not given[flag]:
            continue
        if getattr(one, name):
            raise errors.InvalidArgument(f"conflicting options: cannot specify both {option} and per-network {words}")
        one = replace(one, **{name: given[flag]})
    return replace(one, links=tuple(given["link"])) if one.is_own else one


def _check(one: Wanted) -> None:
    if not one.name.strip():
        raise errors.InvalidArgument("no name set for network")
    if one.aliases and not one.is_own:
        raise errors.InvalidArgument("network-scoped aliases are only supported for user-defined networks")
    check_mac(one.mac)


def _endpoint(one: Wanted) -> dict[str, Any]:
    """EndpointSettings without what is not said."""
    addresses = {"IPv4Address": one.ip, "IPv6Address": one.ip6, "LinkLocalIPs": list(one.link_local)}
    said = {
        "IPAMConfig": {key: value for key, value in addresses.items() if value},
        "Links": list(one.links),
        "Aliases": list(one.aliases),
        "MacAddress": one.mac,
        "DriverOpts": dict(one.options),
        "GwPriority": one.priority,
    }
    return {key: value for key, value in said.items() if value}
