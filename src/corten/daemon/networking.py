"""Keys of daemon.json about networks, and the value that the driver of bridges gets.

The keys and their meaning are those of dockerd's reference ("Daemon configuration file").  What would take away what
keeps networks apart is refused with the reason; all raise InvalidArgument that names the key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, Final

from corten.engine.settings import Settings
from corten.errors import InvalidArgument
from corten.network import defaults, options
from corten.network.defaults import Defaults, Family
from corten.network.pools import Pool
from corten.sys.rtnetlink import IPAddress, IPInterface, IPNetwork

DRIVERS: Final = ("bridge", "ipvlan", "macvlan")
FIXED: Final = {"firewall-backend": "nftables", "ip6tables": True, "iptables": True}  # what there is one way of
CHECKED: Final = ("bridge", *defaults.KEYS[4], *defaults.KEYS[6])
RESPECT: Final = "respect"
_U32: Final = (1 << 32) - 1
_WITHOUT: Final = "is not supported: an nftables table of Corten's own keeps networks apart and publishes ports"


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidArgument(f"{key}: not a string")
    return value


def _cidr(key: str, value: Any, version: int) -> IPInterface:
    """`172.20.0.1/16`."""
    text = _text(key, value)
    try:
        found = ip_interface(text)
    except ValueError:
        found = None
    if found is None or "/" not in text or not text.partition("/")[2].isdigit():
        raise InvalidArgument(f"{key}: invalid CIDR address: {text}")
    if found.version != version:
        raise InvalidArgument(f"{key}: {text} is not of IPv{version}")
    return found


def address4(key: str, value: Any) -> str:
    """`bip`, `fixed-cidr`: an IPv4 address with the length of its subnet's prefix; empty is not given."""
    return str(_cidr(key, value, 4)) if value != "" else ""


def address6(key: str, value: Any) -> str:
    """`bip6`, `fixed-cidr-v6`."""
    return str(_cidr(key, value, 6)) if value != "" else ""


def _address(key: str, value: Any) -> IPAddress:
    text = _text(key, value)
    try:
        return ip_address(text)
    except ValueError:
        raise InvalidArgument(f"{key}: invalid IP address: {text}") from None


def gateway4(key: str, value: Any) -> str:
    """`default-gateway`."""
    return _of(key, value, 4)


def gateway6(key: str, value: Any) -> str:
    """`default-gateway-v6`."""
    return _of(key, value, 6)


def _of(key: str, value: Any, version: int) -> str:
    if value == "":
        return ""
    found = _address(key, value)
    if found.version != version:
        raise InvalidArgument(f"{key}: {found} is not of IPv{version}")
    return str(found)


def host_ip(key: str, value: Any) -> str:
    """`ip`: where ports are published that name no address."""
    return str(_address(key, value)) if value != "" else ""


def mtu(key: str, value: Any) -> int:
    """Of the default bridge; 0 is 1500."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgument(f"{key}: not a number")
    if value and not options.MIN_MTU <= value <= options.MAX_MTU:
        raise InvalidArgument(f"{key}: invalid default MTU: {value}")
    return value


def bridge(key: str, value: Any) -> str:
    """The name of a bridge that is there, or `none`."""
    text = _text(key, value)
    try:
        options.parse({options.NAME: text})
    except InvalidArgument as error:
        raise InvalidArgument(f"{key}: {text!r} is not the name of a device") from error
    return text


def always(key: str, value: Any) -> None:
    """`iptables`, `ip6tables`: true is the only way there is."""
    if not isinstance(value, bool):
        raise InvalidArgument(f"{key}: not true or false")
    if not value:
        raise InvalidArgument(f"{key}: false {_WITHOUT}")


def backend(key: str, value: Any) -> None:
    """`firewall-backend`: nftables is the only one."""
    if _text(key, value) not in ("", "nftables"):
        raise InvalidArgument(f"{key}: {value} {_WITHOUT}")


def host_firewall(key: str, value: Any) -> str:
    """`host-firewall`: `respect`, where the host's input chains say who reaches published ports (of Corten)."""
    text = _text(key, value)
    if text not in ("", RESPECT):
        raise InvalidArgument(f'{key}: {text!r} is not "{RESPECT}"')
    return text


def mark(key: str, value: Any) -> str:
    """`bridge-accept-fwmark`: `value[/mask]`, as of iptables."""
    text = _text(key, value)
    _mark(key, text)
    return text


def _mark(key: str, text: str) -> tuple[int, int] | None:
    if not text:
        return None
    number, slash, mask = text.partition("/")
    found = _number(number), _number(mask) if slash else _U32
    if not all(one is not None and one <= _U32 for one in found):
        raise InvalidArgument(f"{key}: invalid firewall mark {text!r}: it is a number, or two as value/mask")
    return found  # type: ignore[return-value]  # both are numbers


def _number(text: str) -> int | None:
    if not re.fullmatch(r"0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10}", text):
        return None
    return int(text, 16) if text[:2].lower() == "0x" else int(text)


def address_pools(key: str, value: Any) -> tuple[tuple[str, int], ...]:
    """`[{"base": "10.10.0.0/16", "size": 24}]`."""
    if not isinstance(value, list | tuple):
        raise InvalidArgument(f"{key}: not a list of objects")
    return tuple(_pool(f"{key}[{number}]", one) for number, one in enumerate(value))


def _pool(key: str, entry: Any) -> tuple[str, int]:
    if not isinstance(entry, Mapping):
        raise InvalidArgument(f"{key}: not an object")
    for field in entry:
        if field.lower() not in ("base", "size"):
            raise InvalidArgument(f"{key}.{field}: unknown field")
    found = {name.lower(): one for name, one in entry.items()}
    base, size = _text(f"{key}.base", found.get("base", "")), found.get("size", 0)
    try:
        network = ip_network(base, strict=False)
    except ValueError:
        network = None
    if network is None or "/" not in base:
        raise InvalidArgument(f"{key}.base: invalid CIDR address: {base}")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= network.max_prefixlen:
        raise InvalidArgument(f"{key}.size: not the length of a prefix: {size}")
    if size < network.prefixlen:
        raise InvalidArgument(f"{key}: the base {network} has a longer prefix than the target size /{size}")
    return str(network), size


def network_options(key: str, value: Any) -> dict[str, dict[str, str]]:
    """`{"bridge": {"com.docker.network.driver.mtu": "1400"}}`: of new networks that do not say otherwise."""
    if not isinstance(value, dict):
        raise InvalidArgument(f"{key}: not an object")
    for driver, found in value.items():
        if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
            raise InvalidArgument(f"{key}.{driver}: not an object with strings")
        if driver not in DRIVERS:
            raise InvalidArgument(f"{key}.{driver}: no driver of this name: {', '.join(DRIVERS)}")
    try:
        options.parse(value.get("bridge", {}))
        for version in (4, 6):
            options.is_enabled(value.get("bridge", {}), version)
    except InvalidArgument as error:
        raise InvalidArgument(f"{key}.bridge: {error.text}") from error
    return {driver: dict(found) for driver, found in value.items()}


# --- flags


def pools_of_flag(texts: Sequence[str]) -> list[dict[str, Any]]:
    """`--default-address-pool base=10.10.0.0/16,size=24`."""
    out: list[dict[str, Any]] = []
    for text in texts:
        fields: dict[str, Any] = {}
        for part in text.split(","):
            name, equals, value = part.partition("=")
            if not equals:
                raise InvalidArgument(f"invalid field '{part}' must be a key=value pair")
            if name.lower() not in ("base", "size"):
                raise InvalidArgument(f"unexpected key '{name}' in '{part}'")
            fields[name.lower()] = value
        if not re.fullmatch(r"[0-9]{1,3}", fields.get("size", "")):
            raise InvalidArgument(f"invalid size value: {fields.get('size', '')}")
        out.append({**fields, "size": int(fields["size"])})
    return out


def options_of_flag(texts: Sequence[str]) -> dict[str, dict[str, str]]:
    """`--default-network-opt bridge=com.docker.network.driver.mtu=1400`."""
    out: dict[str, dict[str, str]] = {}
    for text in texts:
        driver, equals, rest = text.partition("=")
        name, second, value = rest.partition("=")
        if not equals or not second:
            raise InvalidArgument(f"invalid default network options: {text}: it is DRIVER=NAME=VALUE")
        out.setdefault(driver, {})[name] = value
    return out


# --- the value


def defaults_of(made: Settings) -> Defaults:
    """What the settings come to.  Raises InvalidArgument that names the key."""
    found = Defaults(
        pools=tuple(Pool(ip_network(base), size) for base, size in made.default_address_pools),
        options=made.default_network_opts,
        v4=_family(made.bip, made.fixed_cidr, made.default_gateway),
        v6=_family(made.bip6, made.fixed_cidr_v6, made.default_gateway_v6),
        has_ipv6=made.ipv6,
        device=made.bridge,
        mtu=made.mtu,
        has_icc=made.icc,
        masquerades=made.ip_masq,
        host_ip=made.ip,
        forwards=made.ip_forward,
        drops_others=not made.ip_forward_no_drop,
        is_direct=made.allow_direct_routing,
        mark=_mark("bridge-accept-fwmark", made.bridge_accept_fwmark),
        respects_host=made.host_firewall == RESPECT,
    )
    return replace(found, v6=found.v6 if made.ipv6 else Family())


def _family(address: str, part: str, way_out: str) -> Family:
    return Family(
        address=ip_interface(address) if address else None,
        part=_network(part) if part else None,
        way_out=ip_address(way_out) if way_out else None,
    )


def _network(text: str) -> IPNetwork:
    return ip_network(text, strict=False)


def check(key: str, made: Settings) -> None:
    """What the keys say together, as far as it is this one's fault.  Raises InvalidArgument without the key."""
    if key == "bridge" and made.bridge and (made.bip or made.bip6):
        raise InvalidArgument("You specified -b & --bip, mutually exclusive options. Please specify only one")
    try:
        defaults.check(defaults_of(made))
    except InvalidArgument as error:
        named, _, reason = error.text.partition(": ")
        if named == key:
            raise InvalidArgument(reason) from error
