"""hostname, hosts and resolv.conf of a container, below `<data-root>/containers/<id>`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from typing import Final

from corten.engine import resolvconf
from corten.engine.container import Container
from corten.engine.effective import Effective
from corten.engine.inspect import Paths
from corten.engine.settings import Settings
from corten.network import files
from corten.sys.rtnetlink import IPAddress

_HOSTS: Final = "/etc/hosts"
_MOST: Final = 1 << 20  # bytes of a container's own hosts file that are read


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
        resolv_conf = resolvconf.text(effective, settings, addresses=addresses)
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


def connected(container: Container, path: str, addresses: Iterable[IPAddress]) -> None:
    """Its own name behind the addresses on a network that a running container has joined; what else it has stays."""
    with contextlib.suppress(FileNotFoundError), open(path, "ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        gap = b"\n" if file.read() not in (b"", b"\n") else b""
        file.write(gap + b"".join(_own_lines(container, addresses)))


def disconnected(container: Container, path: str, addresses: Iterable[IPAddress]) -> None:
    """These lines are taken out again, as far as the container has not changed them, or made the file huge."""
    gone = _own_lines(container, addresses)
    with contextlib.suppress(FileNotFoundError), open(path, "rb+") as file:
        text = file.read(_MOST + 1)
        kept = b"".join(line for line in text.splitlines(keepends=True) if line not in gone)
        if len(kept) < len(text) <= _MOST:
            file.seek(0)
            file.write(kept)
            file.truncate()


def _own_lines(container: Container, addresses: Iterable[IPAddress]) -> list[bytes]:
    config = container.record.effective.config
    return [line.encode() for line in files.own_lines(config.hostname, config.domainname, addresses)]
