"""A machine beside an engine's: a namespace joined to the engine's by a cable, with addresses of both versions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from support.netns import NetNs

HOST = {4: "192.0.2.1", 6: "2001:db8::1"}
CLIENT = {4: "192.0.2.2", 6: "2001:db8::2"}
_LENGTHS = {4: 24, 6: 64}


@contextmanager
def neighbour(host: NetNs) -> Iterator[NetNs]:
    """The client's namespace: CLIENT are its addresses, HOST those of the engine's machine on the same cable."""
    with NetNs() as client:
        host.run(["ip", "link", "add", "world", "type", "veth", "peer", "name", "eth0", "netns", client.name])
        for netns, device, addresses in ((host, "world", HOST), (client, "eth0", CLIENT)):
            for version, address in addresses.items():
                netns.run(["ip", "address", "add", f"{address}/{_LENGTHS[version]}", "dev", device, *_usable(version)])
            netns.run(["ip", "link", "set", device, "up"])
        yield client


def _usable(version: int) -> list[str]:
    """An IPv6 address is used at once, not only when nobody has answered for it."""
    return ["nodad"] if version == 6 else []
