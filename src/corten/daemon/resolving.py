"""Keys of daemon.json about names: what resolv.conf and hosts of containers say where their requests are silent.

Values are dockerd's (moby daemon/config, opts); all raise InvalidArgument that names the key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, ip_address
from typing import Any, Final

from corten.errors import InvalidArgument
from corten.spec.address import is_address

GATEWAYS: Final = "host-gateway-ips"
GATEWAY: Final = "host-gateway-ip"  # the name that dockerd had before it took two

_LABEL: Final = r"[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]"
_DOMAIN: Final = re.compile(rf"((?:{_LABEL})(?:\.(?:{_LABEL}))*)\.?\s*")


def _texts(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise InvalidArgument(f"{key}: not a list of strings")
    return tuple(value)


def _addresses(key: str, value: Any) -> tuple[str, ...]:
    texts = _texts(key, value)
    for text in texts:
        if not is_address(text):
            raise InvalidArgument(f"{key}: invalid IP address: {text}")
    return tuple(str(ip_address(text)) for text in texts)


def servers(key: str, value: Any) -> tuple[str, ...]:
    """`dns`: addresses."""
    return _addresses(key, value)


def options(key: str, value: Any) -> tuple[str, ...]:
    """`dns-opts`: as they are."""
    return _texts(key, value)


def domains(key: str, value: Any) -> tuple[str, ...]:
    """`dns-search`: domains, or `.` for none; kept as they are."""
    texts = _texts(key, value)
    for text in texts:
        if _domain(text) is None:
            raise InvalidArgument(f"{key}: {text} is not a valid domain")
    return texts


def _domain(text: str) -> str | None:
    """Without the dot at its end; None for what is no domain."""
    stripped = text.strip(" ")
    if stripped == ".":
        return stripped
    found = _DOMAIN.fullmatch(stripped) if re.search("[a-zA-Z]", stripped) else None
    return found[1] if found is not None and len(found[1]) < 255 else None


def gateways(key: str, value: Any) -> tuple[str, ...]:
    """`host-gateway-ips`: what host-gateway stands for: at most one address of each family."""
    found = _addresses(key, value)
    for version in (4, 6):
        if sum(ip_address(one).version == version for one in found) > 1:
            raise InvalidArgument(f"{key}: only one IPv{version} host gateway IP address can be specified")
    return found


def migrated(file: Mapping[str, Any], flags: Mapping[str, Any]) -> Mapping[str, Any]:
    """The file with its `host-gateway-ip` under today's name.  Raises InvalidArgument when both are given."""
    if GATEWAY not in file:
        return file
    if GATEWAYS in file:
        raise InvalidArgument(f"{GATEWAY} and {GATEWAYS} must not both be specified in the config file")
    if GATEWAYS in flags:
        text = "the following directives are specified both as a flag and in the configuration file"
        told = f"(from flag: [{' '.join(flags[GATEWAYS])}], from file: {file[GATEWAY]})"
        raise InvalidArgument(f"{text}: {GATEWAY}: {told}")
    value = file[GATEWAY]
    if not isinstance(value, str):
        raise InvalidArgument(f"{GATEWAY}: not a string")
    if value and not is_address(value):
        raise InvalidArgument(f"{GATEWAY}: invalid IP address: {value}")
    return {**{key: one for key, one in file.items() if key != GATEWAY}, GATEWAYS: [value] if value else []}


def address_of_flag(texts: Sequence[str]) -> list[str]:
    """`--dns ADDRESS`."""
    for text in texts:
        if not is_address(text):
            raise InvalidArgument(f"invalid string being converted to IP address: {text}")
    return list(texts)


def gateway_of_flag(texts: Sequence[str]) -> list[str]:
    """`--host-gateway-ip ADDRESS`."""
    for text in texts:
        if not is_address(text):
            raise InvalidArgument(f'failed to parse IP: "{text}"')
    if len({isinstance(ip_address(text), IPv4Address) for text in texts}) < len(texts):
        gateways(GATEWAYS, texts)
    return list(texts)


def domain_of_flag(texts: Sequence[str]) -> list[str]:
    """`--dns-search DOMAIN`, whose last dot goes, as with dockerd."""
    out = []
    for text in texts:
        found = _domain(text)
        if found is None:
            raise InvalidArgument(f"{text} is not a valid domain")
        out.append(found)
    return out
