"""Driver options of one endpoint: the sysctls of its interface.

`com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=2`: each names
the interface as IFNAME, so none is of the whole namespace (docker run, "Connect a container to a network").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from corten.errors import InvalidArgument

SYSCTLS: Final = "com.docker.network.endpoint.sysctls"
_NAME: Final = re.compile(
    r"net\.(ipv4|ipv6|mpls)\.(conf|neigh)\.(?:IFNAME|ifname)\.([a-z0-9_]+)", re.ASCII
)  # docker CLI 28.2 sends small letters
_VALUE: Final = re.compile(r"[\w .:/+-]*", re.ASCII)

Sysctls = tuple[tuple[str, str], ...]


def sysctls(options: Mapping[str, str]) -> Sysctls:
    """(`ipv4/conf/{}/log_martians`, `1`) and so on, in the order given.  Raises InvalidArgument."""
    text = options.get(SYSCTLS, "")
    return tuple(_one(part) for part in text.split(",")) if text else ()


def _one(part: str) -> tuple[str, str]:
    name, equals, value = part.partition("=")
    found = _NAME.fullmatch(name)
    if not equals or found is None:
        raise InvalidArgument(
            f"invalid sysctl {part!r} in {SYSCTLS}: it must be of the form net.{{ipv4,ipv6,mpls}}.X.IFNAME.Y=VALUE"
        )
    if not _VALUE.fullmatch(value):
        raise InvalidArgument(f"invalid sysctl {part!r} in {SYSCTLS}: invalid value")
    return f"{found[1]}/{found[2]}/{{}}/{found[3]}", value


def for_interface(found: Sysctls, interface: str) -> tuple[tuple[str, str], ...]:
    """The files below /proc/sys/net of an interface, and what is written."""
    return tuple((path.format(interface), value) for path, value in found)
