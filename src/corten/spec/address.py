"""Internet addresses as text."""

from __future__ import annotations

import ipaddress
import re


def is_address(text: str) -> bool:
    """Whether it is an IPv4 or IPv6 address, without brackets, port or prefix (RFC 4291, 2.2)."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


_MACS = re.compile(r"(?i)[0-9a-f]{2}(:[0-9a-f]{2}){5}|[0-9a-f]{2}(-[0-9a-f]{2}){5}|[0-9a-f]{4}(\.[0-9a-f]{4}){2}")


def mac_address(text: str) -> str:
    """An address of six bytes in one of the forms that Go reads, with colons; '' for anything else."""
    if not _MACS.fullmatch(text):
        return ""
    digits = re.sub(r"[:.-]", "", text).lower()
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))
