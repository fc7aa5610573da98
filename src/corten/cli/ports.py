"""`-p` in all its forms: `[[ip:][hostPort[-end]]:]containerPort[-end][/proto]` (docs of `docker run`, "Publish")."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from corten import errors
from corten.cli.flags import go_integer
from corten.spec.address import is_address

_PORT = re.compile("[0-9]{1,9}")


def parse_ports(specs: Iterable[str]) -> tuple[dict[str, Any], dict[str, list[dict[str, str]]]]:
    """ExposedPorts and PortBindings.  Raises `InvalidArgument` with Docker's words."""
    bindings: dict[str, list[dict[str, str]]] = {}
    for spec in specs:
        for key, binding in _parse(spec):
            bindings.setdefault(key, []).append(binding)
    return {key: {} for key in bindings}, bindings


def _parse(spec: str) -> list[tuple[str, dict[str, str]]]:
    if "=" in spec:
        spec = _long_form(spec)
    body, slash, proto = spec.partition("/")
    proto = proto.lower() if slash else "tcp"
    if proto not in ("tcp", "udp", "sctp"):
        raise errors.InvalidArgument(f"invalid proto: {proto}")
    address, host, inside = _split(body)
    if address and not is_address(address):
        raise errors.InvalidArgument(f"invalid IP address: {address}")
    if not inside:
        raise errors.InvalidArgument(f"no port specified: {spec}<empty>")
    first, last = _range(inside, "containerPort")
    host_first, host_last = _range(host, "hostPort") if host else (0, 0)
    if host and host_last - host_first != last - first and first != last:
        raise errors.InvalidArgument(f"invalid ranges specified for container and host Ports: {inside} and {host}")
    found = []
    for offset in range(last - first + 1):
        published = ""
        if host:
            published = host if first == last else str(host_first + offset)
        found.append((f"{first + offset}/{proto}", {"HostIp": address, "HostPort": published}))
    return found


def _split(body: str) -> tuple[str, str, str]:
    """(address, host ports, container ports); an IPv6 address stands in brackets."""
    rest, _, inside = body.rpartition(":")
    address, _, host = rest.rpartition(":")
    if address.startswith("["):
        address = address.strip("[]")
    elif ":" in address:
        raise errors.InvalidArgument(f"invalid port specification: {body!r}: put an IPv6 address in brackets")
    return address, host, inside


def _range(text: str, what: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    if not _PORT.fullmatch(first) or (dash and not _PORT.fullmatch(last)):
        raise errors.InvalidArgument(f"invalid {what}: {text}")
    numbers = int(first), int(last) if dash else int(first)
    if numbers[0] > numbers[1] or numbers[1] > 65535:
        raise errors.InvalidArgument(f"invalid {what}: {text}")
    return numbers


def _long_form(spec: str) -> str:
    for part in spec.split(","):
        if not all(part.partition("=")):
            raise errors.InvalidArgument(f"invalid publish opts format (should be name=value but got '{part}')")
    given = dict(part.partition("=")[::2] for part in spec.split(","))
    unknown = sorted(set(given) - {"target", "published", "protocol", "mode"})
    if unknown:
        raise errors.InvalidArgument(f"invalid field key {unknown[0]}")
    return f"{given.get('published', '')}:{given.get('target', '')}/{given.get('protocol', 'tcp')}"


def parse_exposed(text: str) -> list[str]:
    """`--expose`: `port[-port][/proto]` → keys of ExposedPorts.  Raises `InvalidArgument` with Docker's words."""
    ports, slash, proto = text.partition("/")
    first, dash, last = ports.partition("-")
    if ":" in text:
        raise errors.InvalidArgument(f"invalid port format for --expose: {text}")
    wrong = f"invalid range format for --expose: {text}, error: "
    if not ports:
        raise errors.InvalidArgument(f"{wrong}empty string specified for ports")
    try:
        numbers = [go_integer(number, 1 << 16, is_signed=False, base=10) for number in (first, last if dash else first)]
    except errors.InvalidArgument as error:
        raise errors.InvalidArgument(wrong + error.text) from None
    if numbers[0] > numbers[1]:
        raise errors.InvalidArgument(f"{wrong}invalid range specified for port: {ports}")
    return [f"{number}/{proto if slash else 'tcp'}" for number in range(numbers[0], numbers[1] + 1)]
