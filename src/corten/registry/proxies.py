"""Which proxy a request to a registry goes through, by the rules of Go's programs.

`no_proxy` is a list with commas: `*`, a name (it and all below it), `.name` or `*.name` (what is below it alone), an
address, a network in CIDR form; each but the network with `:port` if one wants.  The local machine is never asked for
through a proxy.  Rules: golang.org/x/net/http/httpproxy, "Config".
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, urlsplit

from corten.errors import InvalidArgument

_PORTS: Final = {"http": 80, "https": 443}
_MASK: Final = "xxxxx:xxxxx"

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies for http:// and https:// requests, empty for none, and where none is used."""

    http: str = field(default="", repr=False)  # may hold a password
    https: str = field(default="", repr=False)
    no_proxy: str = ""

    def of(self, url: str) -> str:
        """The proxy's URL (`http://[user:password@]host[:port]`) for a request to `url`; empty for none."""
        parts = urlsplit(url)
        proxy = {"http": self.http, "https": self.https}.get(parts.scheme, "")
        if not proxy or _is_direct(parts, self.no_proxy):
            return ""
        return proxy if "://" in proxy else f"http://{proxy}"


def from_environment(environment: Mapping[str, str]) -> Proxies:
    """What HTTP_PROXY, HTTPS_PROXY and NO_PROXY say, or their names in small letters."""

    def value(name: str) -> str:
        return environment.get(name) or environment.get(name.lower()) or ""

    return Proxies(value("HTTP_PROXY"), value("HTTPS_PROXY"), value("NO_PROXY"))


def check(proxy: str) -> None:
    """Raises InvalidArgument unless it is empty or a proxy that can be used."""
    if not proxy:
        return
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        is_whole = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_whole = False
    else:
        if parts.scheme not in _PORTS:
            raise InvalidArgument(f"invalid proxy: {masked(proxy)!r}: only http:// and https:// are supported")
    if not is_whole:
        raise InvalidArgument(f"invalid proxy: {masked(proxy)!r}: not http://[user:password@]host[:port]")


def masked(url: str) -> str:
    """`url` without the name and password in it, as dockerd shows proxies."""
    scheme, separator, rest = url.rpartition("://")
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    return f"{scheme}{separator}{_MASK}@{host}{slash}{path}" if at and user else url


def _is_direct(parts: SplitResult, no_proxy: str) -> bool:
    """Whether no proxy is used for this URL."""
    try:
        host, port = (parts.hostname or "").lower(), parts.port or _PORTS[parts.scheme]
    except ValueError:
        return True
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    return any(_matches(rule, host, port, address) for rule in _rules(no_proxy))


def _rules(no_proxy: str) -> Iterator[str]:
    return filter(None, (rule.strip().lower() for rule in no_proxy.split(",")))


def _matches(rule: str, host: str, port: int, address: _Address | None) -> bool:
    if rule == "*":
        return True
    if "/" in rule:
        try:
            return address is not None and address in ipaddress.ip_network(rule, strict=False)
        except ValueError:
            return False
    name, wanted = _split(rule)
    if wanted and wanted != str(port):
        return False
    if (other := _address(name)) is not None:
        return other == address
    if name.startswith(("*.", ".")):
        return host.endswith(name.removeprefix("*"))
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _split(rule: str) -> tuple[str, str]:
    """(name, port), the port empty when there is none; a bare IPv6 address has colons of its own."""
    if rule.startswith("["):
        name, _, rest = rule[1:].partition("]")
        return name, rest.removeprefix(":")
    name, colon, port = rule.partition(":")
    return (name, port) if colon and ":" not in port else (rule, "")


def _address(text: str) -> _Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
