"""A container's resolv.conf: the host's, daemon.json's and its own words put together, and written.

A file that somebody edited in the container stays as it is while the container runs (dockerd keeps a hash of what it
wrote, and so do we).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from typing import Final

from corten.engine.effective import Effective
from corten.engine.settings import Settings
from corten.network import files
from corten.network.files import Overrides, ResolvConf
from corten.network.values import PREDEFINED
from corten.sys.rtnetlink import IPAddress

HASH_SUFFIX: Final = ".hash"


def of_host() -> ResolvConf:
    """The host's own; systemd-resolved's where it names nothing but its stub."""
    found = files.parse_resolv_conf(read(files.RESOLV_CONF))
    if files.is_systemd_stub(found):
        found = files.parse_resolv_conf(read(files.SYSTEMD_RESOLV_CONF), files.SYSTEMD_RESOLV_CONF)
    return found


def overrides(effective: Effective, settings: Settings) -> Overrides:
    """What daemon.json says of DNS counts as it is at this start (dockerd)."""
    host = effective.host
    return Overrides(
        tuple(host.dns or settings.dns),
        tuple(host.dns_search or settings.dns_search),
        tuple(host.dns_options or settings.dns_opts),
    )


def has_ndots(effective: Effective, settings: Settings) -> bool:
    """Whether somebody chose how many dots make a name whole: then the resolver asks nobody for a name without one."""
    options = overrides(effective, settings).options or of_host().options
    return any(one.partition(":")[0] == "ndots" for one in options)


def text(effective: Effective, settings: Settings, *, addresses: Iterable[IPAddress]) -> str:
    """The file of a container with a network of its own, or none.  Raises InvalidArgument for a bad `--dns`.

    addresses: its own.
    """
    has_names = any(name not in PREDEFINED for name in effective.asked_networks)
    make = files.resolv_conf_with_resolver if has_names else files.resolv_conf
    return make(of_host(), overrides(effective, settings), has_ipv6=has_ipv6(addresses))


def has_ipv6(addresses: Iterable[IPAddress]) -> bool:
    """Whether one of them is such."""
    return any(one.version == 6 for one in addresses)


def remember(path: str, written: str) -> None:
    """What was written into the file of a container that starts."""
    with open(path + HASH_SUFFIX, "w", encoding="ascii") as file:
        file.write(_hash(written))


def lead_to_resolver(effective: Effective, path: str, settings: Settings, *, addresses: Iterable[IPAddress]) -> None:
    """For a running container that is on its first network with names: in place, unless somebody edited the file."""
    if read(path + HASH_SUFFIX) != _hash(read(path)):
        return
    wanted = overrides(effective, settings)
    written = files.resolv_conf_with_resolver(of_host(), wanted, has_ipv6=has_ipv6(addresses))
    with open(path, "w", encoding="utf-8") as file:
        file.write(written)
    remember(path, written)


def read(path: str) -> str:
    """A text file; '' when it cannot be read."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
    return ""


def _hash(written: str) -> str:
    return f"sha256:{hashlib.sha256(written.encode(errors='replace')).hexdigest()}"
