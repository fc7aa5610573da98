"""Internet addresses as text."""

from __future__ import annotations

import ipaddress


def is_address(text: str) -> bool:
    """Whether it is an IPv4 or IPv6 address, without brackets, port or prefix (RFC 4291, 2.2)."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
