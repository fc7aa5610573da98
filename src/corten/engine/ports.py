"""Published and exposed ports: from Docker's maps to a list of bindings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from corten.errors import InvalidArgument
from corten.spec.docker import PortBinding

PROTOCOLS: Final = ("tcp", "udp", "sctp")
_RANGE: Final = re.compile(r"^(\d+)(?:-(\d+))?$")


class PortRequest(msgspec.Struct, frozen=True, order=True):
    """One container port to publish.  host_first..host_last: the range to choose from; 0..0: any free port."""

    port: int
    protocol: str
    host_ip: str = ""
    host_first: int = 0
    host_last: int = 0

    @property
    def key(self) -> str:
        """`80/tcp`, as Docker's maps are keyed."""
        return f"{self.port}/{self.protocol}"


def parse_port(text: str) -> tuple[int, str]:
    """`80/tcp` or `80` → (80, "tcp").  Raises InvalidArgument."""
    number, slash, protocol = text.partition("/")
    first, last = _range(number, number)
    if first != last or not first:
        raise InvalidArgument(f'invalid port specification: "{number}"')
    return first, (protocol.lower() if slash else "tcp")


def _range(text: str, shown: str) -> tuple[int, int]:
    found = _RANGE.match(text)
    if found:
        first, last = int(found[1]), int(found[2] or found[1])
        if first <= last <= 0xFFFF:
            return first, last
    raise InvalidArgument(f'invalid port specification: "{shown}"')


def bindings(port_map: Mapping[str, list[PortBinding] | None] | None) -> list[PortRequest]:
    """HostConfig.PortBindings in the order of ports; raises InvalidArgument in dockerd's words."""
    out: list[PortRequest] = []
    for key, items in (port_map or {}).items():
        port, protocol = parse_port(key)
        if protocol not in ("tcp", "udp"):
            raise InvalidArgument(f"HostConfig.PortBindings: {key}: protocol {protocol} is not supported yet")
        for item in items or (PortBinding(),):
            first, last = _range(item.host_port, item.host_port) if item.host_port else (0, 0)
            if ":" in item.host_ip:
                raise InvalidArgument(
                    f"HostConfig.PortBindings: {key}: publishing on IPv6 address {item.host_ip} is not supported yet"
                )
            out.append(PortRequest(port, protocol, item.host_ip, first, last))
    return sorted(out)


def publish_all(exposed: Iterable[str], taken: Iterable[PortRequest]) -> Iterator[PortRequest]:
    """`-P`: every exposed port that has no binding gets a free one."""
    have = {(request.port, request.protocol) for request in taken}
    for key in exposed:
        port, protocol = parse_port(key)
        if (port, protocol) not in have:
            yield PortRequest(port, protocol)


def check_exposed(exposed: Mapping[str, Any] | None) -> None:
    """Config.ExposedPorts has keys that are ports.  Raises InvalidArgument."""
    for key in exposed or ():
        parse_port(key)
