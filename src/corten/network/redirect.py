"""127.0.0.11 in a container's namespace: the sockets of its resolver, and the rule that leads there.

The sockets have ports of the kernel's choice, so that the container may have port 53 of every address itself.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address

from corten.errors import Internal
from corten.sys import netns
from corten.sys.nft import Nft, NftError

ADDRESS = IPv4Address("127.0.0.11")
TABLE = "corten-names"
_BACKLOG = 32


def open_sockets(netns_fd: int) -> tuple[socket.socket, socket.socket]:
    """A UDP and a listening TCP socket in the namespace behind `netns_fd`, with the rules that lead to them.

    Raises Internal.
    """
    try:
        return netns.inside(netns_fd, _enter)
    except (OSError, NftError) as error:
        raise Internal(f"resolver at {ADDRESS}: {error}") from error


def _enter() -> tuple[socket.socket, socket.socket]:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    nft = Nft()
    try:
        for one in (udp, tcp):
            one.bind((str(ADDRESS), 0))
        tcp.listen(_BACKLOG)
        nft.run(ruleset(udp.getsockname()[1], tcp.getsockname()[1]))
    except BaseException:
        udp.close()
        tcp.close()
        raise
    finally:
        nft.close()
    return udp, tcp


def ruleset(udp_port: int, tcp_port: int) -> str:
    """The commands; they may be repeated, with other ports as well."""
    rules = ((protocol, port) for protocol, port in (("udp", udp_port), ("tcp", tcp_port)))
    return "\n".join(
        [
            f"add table ip {TABLE}",
            f"add chain ip {TABLE} output {{ type nat hook output priority -100; policy accept; }}",
            f"flush chain ip {TABLE} output",
            *(
                f"add rule ip {TABLE} output ip daddr {ADDRESS} {protocol} dport 53 dnat to {ADDRESS}:{port}"
                for protocol, port in rules
            ),
            "",
        ]
    )
