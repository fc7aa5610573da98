"""hostname, hosts and resolv.conf of a container, below `<data-root>/containers/<id>`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Final

from corten.engine.effective import Effective
from corten.engine.inspect import Paths
from corten.engine.networks import PREDEFINED
from corten.engine.settings import Settings
from corten.network import files
from corten.sys.rtnetlink import IPAddress

_HOSTS: Final = "/etc/hosts"


def write(
    effective: Effective,
    paths: Paths,
    *,
    addresses: Sequence[IPAddress],
    gateway: str,
    settings: Settings,
    linked: Sequence[tuple[str, str]] = (),
) -> None:
    """Write all three; they are those of the container's root.

    addresses: on its networks; gateway: its own address, which host-gateway stands for where daemon.json names
    none; linked: (names, address) of --link.  What daemon.json says of DNS counts as it is at this start (dockerd).
    """
    config, host = effective.config, effective.host
    gateways = settings.host_gateway_ips or (gateway,)
    extra = (*files.parse_extra_hosts(host.extra_hosts or (), gateways), *linked)
    overrides = files.Overrides(
        tuple(host.dns or settings.dns),
        tuple(host.dns_search or settings.dns_search),
        tuple(host.dns_options or settings.dns_opts),
    )
    of_host = files.parse_resolv_conf(_read(files.RESOLV_CONF))
    if files.is_systemd_stub(of_host):
        of_host = files.parse_resolv_conf(_read(files.SYSTEMD_RESOLV_CONF), files.SYSTEMD_RESOLV_CONF)
    if effective.network == "host":
        hosts = files.hosts_on_host_network(_read(_HOSTS), extra=extra)
        resolv_conf = files.resolv_conf_on_host_network(of_host, overrides)
    else:
        hosts = files.hosts(config.hostname, domainname=config.domainname, addresses=addresses, extra=extra)
        has_names = effective.network not in PREDEFINED or bool(effective.networks)
        make = files.resolv_conf_with_resolver if has_names else files.resolv_conf
        resolv_conf = make(of_host, overrides)
    texts = (
        (paths.hostname, files.hostname_file(config.hostname)),
        (paths.hosts, hosts),
        (paths.resolv_conf, resolv_conf),
    )
    for path, text in texts:
        _replace(path, text)
        if effective.id_map is not None:
            os.chown(path, *effective.id_map.root)


def _read(path: str) -> str:
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
    return ""


def _replace(path: str, text: str) -> None:
    """In place: a container that still has the file bound sees the new text."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
