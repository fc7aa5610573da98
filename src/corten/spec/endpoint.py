"""A TCP address as Docker's programs complete it (moby opts/hosts.go, ParseTCPAddr; facts only)."""

from __future__ import annotations

from typing import Final

DEFAULT_HOST: Final = "localhost"  # never every interface: who reaches the engine is root
DEFAULT_PORT: Final = 2375


def address_port(text: str) -> tuple[str, int]:
    """`127.0.0.1:9323`, `[::1]:9323`, `:9323` (every interface).  Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdecimal() and int(port) <= 0xFFFF):
        raise ValueError(f"not an address and a port: {text}")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"too many colons in address: {text}")
    return host.strip("[]"), int(port)


def tcp_endpoint(text: str) -> tuple[str, int]:
    """Host, without brackets, and port of what follows `tcp://`; either may be left out.  Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon:
        host, port = text, ""
    if port and not (port.isdecimal() and int(port) <= 0xFFFF):
        raise ValueError(f"invalid port: {port}")
    return host.strip("[]") or DEFAULT_HOST, int(port or DEFAULT_PORT)
