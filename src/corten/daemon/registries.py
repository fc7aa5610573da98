"""What daemon.json and flags say about registries: mirrors, insecure ones, limits, proxies."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from corten.errors import InvalidArgument
from corten.registry.proxies import check as check_proxy
from corten.registry.proxies import masked

PROXIES: Final = ("http-proxy", "https-proxy", "no-proxy")
FLAGS: Final = frozenset(  # whose values are checked where they are given
    {*PROXIES, "insecure-registries", "max-concurrent-downloads", "max-concurrent-uploads", "max-download-attempts"}
    | {"registry-mirrors"}
)
_GROUP: Final = "proxies"  # the object of daemon.json that holds them

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HOST: Final = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])")

_LIMITS: Final = {
    "max-concurrent-downloads": "invalid max concurrent downloads",
    "max-concurrent-uploads": "invalid max concurrent uploads",
    "max-download-attempts": "invalid max download attempts",
}


def flat(file: Mapping[str, Any]) -> dict[str, Any]:
    """daemon.json with the members of `proxies` as keys of their own, under the names of their flags.

    Raises InvalidArgument for what stands in both places, and for a `proxies` that is no object.
    """
    out = dict(file)
    if _GROUP not in out:
        return out
    group = out.pop(_GROUP)
    if not isinstance(group, dict):
        raise InvalidArgument("proxies: not an object")
    if strange := [key for key in group if key not in PROXIES]:
        raise InvalidArgument(f"the following directives don't match any configuration option: {', '.join(strange)}")
    if twice := [key for key in group if key in out]:
        raise InvalidArgument(f"{twice[0]}: stands in proxies as well")
    return out | group


def limit(key: str, value: Any) -> int:
    """A number; 0 counts as not given, as dockerd takes it from the file."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgument(f"{key}: not a number")
    if value < 0:
        raise InvalidArgument(f"{_LIMITS[key]}: {value}")
    return value


def proxy(key: str, value: Any) -> str:
    """A proxy's URL, or the list of where none is used."""
    if not isinstance(value, str):
        raise InvalidArgument(f"{key}: not a string")
    if key != "no-proxy":
        try:
            check_proxy(value)
        except InvalidArgument as error:
            raise InvalidArgument(f"{key}: {error.text}") from error
    return value


def mirrors(key: str, value: Any) -> tuple[str, ...]:
    """URLs, each once and with one slash at its end."""
    return tuple(dict.fromkeys(_mirror(text) for text in _texts(key, value)))


def insecure(key: str, value: Any) -> tuple[str, ...]:
    """`host`, `host:port` and networks in CIDR form; a scheme in front is dropped."""
    return tuple(_insecure(text) for text in _texts(key, value))


def _texts(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise InvalidArgument(f"{key}: not a list of strings")
    return tuple(value)


def _mirror(text: str) -> str:
    try:
        parts = urlsplit(text)
        has_host = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError as error:
        raise InvalidArgument(f'invalid mirror: "{text}" is not a valid URI') from error
    if parts.scheme not in ("http", "https"):
        raise InvalidArgument(f'invalid mirror: unsupported scheme "{parts.scheme}" in "{text}"')
    if parts.query or parts.fragment:
        raise InvalidArgument(f'invalid mirror: query or fragment at end of the URI "{text}"')
    if parts.username is not None:
        shown = text.replace(parts.netloc, f"{parts.username}:xxxxx@{parts.netloc.rpartition('@')[2]}", 1)
        raise InvalidArgument(f'invalid mirror: username/password not allowed in URI "{shown}"')
    if not has_host:
        raise InvalidArgument(f'invalid mirror: "{text}" is not a valid URI')
    return text.removesuffix("/") + "/"


def _insecure(text: str) -> str:
    bare = re.sub(r"^https?://", "", text, flags=re.IGNORECASE)
    if _SCHEME.match(bare):
        raise InvalidArgument(f"insecure registry {text} should not contain '://'")
    if "/" in bare:
        try:
            return str(ipaddress.ip_network(bare, strict=False))
        except ValueError as error:
            raise InvalidArgument(f'insecure registry {text} is not valid: invalid host "{bare}"') from error
    host, port = (f"[{bare}]", None) if _is_ipv6(bare) else _host_and_port(bare)
    if not _HOST.fullmatch(host):
        raise InvalidArgument(f'insecure registry {text} is not valid: invalid host "{bare}"')
    if port is not None and not (port.isascii() and port.isdecimal() and int(port) <= 65535):
        raise InvalidArgument(f'insecure registry {text} is not valid: invalid port "{port}"')
    return bare


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def _host_and_port(text: str) -> tuple[str, str | None]:
    if text.startswith("["):
        host, closing, rest = text.partition("]")
        return host + closing, rest[1:] if rest.startswith(":") else (rest or None)
    host, colon, port = text.partition(":")
    return host, port if colon else None


def shown(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration to print: proxies in their object, without passwords."""
    out = {key: value for key, value in values.items() if key not in PROXIES}
    group = {key: masked(values[key]) for key in PROXIES if values.get(key)}
    return out | {_GROUP: group}
