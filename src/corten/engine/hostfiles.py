"""hostname, hosts and resolv.conf of a container, below `<data-root>/containers/<id>`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from corten.engine import resolvconf
from corten.engine.effective import Effective
from corten.engine.inspect import Paths
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
    if effective.network == "host":
        hosts = files.hosts_on_host_network(resolvconf.read(_HOSTS), extra=extra)
        overrides = resolvconf.overrides(effective, settings)
        resolv_conf = files.resolv_conf_on_host_network(resolvconf.of_host(), overrides)
    else:
        hosts = files.hosts(config.hostname, domainname=config.domainname, addresses=addresses, extra=extra)
        resolv_conf = resolvconf.text(effective, settings)
    texts = (
        (paths.hostname, files.hostname_file(config.hostname)),
        (paths.hosts, hosts),
        (paths.resolv_conf, resolv_conf),
    )
    for path, text in texts:
        _replace(path, text)
        if effective.id_map is not None:
            os.chown(path, *effective.id_map.root)
    resolvconf.remember(paths.resolv_conf, resolv_conf)


def _replace(path: str, text: str) -> None:
    """In place: a container that still has the file bound sees the new text."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
