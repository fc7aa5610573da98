"""Driver options of a bridge network: their names, and what their texts mean.

Names and texts are those of Docker's bridge driver (`docker network create`, "Bridge driver options"); what nobody
knows is kept and means nothing, as there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import Final

from corten.errors import InvalidArgument
from corten.sys.rtnetlink import IPAddress

DRIVER: Final = "com.docker.network"
NAME: Final = f"{DRIVER}.bridge.name"
ICC: Final = f"{DRIVER}.bridge.enable_icc"
MASQUERADE: Final = f"{DRIVER}.bridge.enable_ip_masquerade"
HOST_IP: Final = f"{DRIVER}.bridge.host_binding_ipv4"
DEFAULT: Final = f"{DRIVER}.bridge.default_bridge"
INHIBIT: Final = f"{DRIVER}.bridge.inhibit_ipv4"
TRUSTED: Final = f"{DRIVER}.bridge.trusted_host_interfaces"
MODES: Final = {4: f"{DRIVER}.bridge.gateway_mode_ipv4", 6: f"{DRIVER}.bridge.gateway_mode_ipv6"}
SOURCES: Final = {4: f"{DRIVER}.host_ipv4", 6: f"{DRIVER}.host_ipv6"}
PREFIX: Final = f"{DRIVER}.container_iface_prefix"
MTU: Final = f"{DRIVER}.driver.mtu"
ENABLE: Final = {4: f"{DRIVER}.enable_ipv4", 6: f"{DRIVER}.enable_ipv6"}

MIN_MTU, MAX_MTU = 68, 65535  # of a veth pair (RFC 791; net/core, ETH_MAX_MTU)
MIN_MTU6 = 1280  # RFC 8200: a link with less has no IPv6
NAME_BYTES = 15

# Go's strconv.ParseBool
_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})


class Mode(StrEnum):
    """How a family's packets get in and out.

    NAT         outside they have the host's address; from outside, published ports only
    ROUTED      they keep their addresses; from outside, published ports at the container's own address
    UNPROTECTED as NAT; from outside every port at the container's own address
    ISOLATED    of an internal network: not even the host has an address there
    """

    NAT = "nat"
    ROUTED = "routed"
    UNPROTECTED = "nat-unprotected"
    ISOLATED = "isolated"


@dataclass(frozen=True, slots=True)
class BridgeOptions:
    """What the options of a bridge network say."""

    name: str = ""
    mtu: int = 0
    has_icc: bool = True
    masquerades: bool = True
    inhibits_ipv4: bool = False
    host_ip: IPAddress | None = None  # where ports are published that name no address
    trusted: tuple[str, ...] = ()
    prefix: str = ""
    mode4: Mode = Mode.NAT
    mode6: Mode = Mode.NAT
    source4: IPAddress | None = None  # seen outside in place of the address of the way out
    source6: IPAddress | None = None

    def mode(self, version: int) -> Mode:
        """Of IPv4 or IPv6."""
        return self.mode4 if version == 4 else self.mode6


def parse(options: Mapping[str, str]) -> BridgeOptions:
    """Raises InvalidArgument in dockerd's words."""
    return BridgeOptions(
        name=_device(NAME, options.get(NAME, "")),
        mtu=_mtu(options.get(MTU, "")),
        has_icc=_boolean(options, ICC, default=True),
        masquerades=_boolean(options, MASQUERADE, default=True),
        inhibits_ipv4=_boolean(options, INHIBIT, default=False),
        host_ip=_address(options, HOST_IP),
        trusted=tuple(_device(TRUSTED, one) for one in options.get(TRUSTED, "").split(":") if one),
        prefix=_device(PREFIX, options.get(PREFIX, "")),
        mode4=_mode(options, 4),
        mode6=_mode(options, 6),
        source4=_source(options, 4),
        source6=_source(options, 6),
    )


def check(options: Mapping[str, str], *, internal: bool, has_ipv6: bool) -> None:
    """What the options of a new network must be.  Raises InvalidArgument."""
    found = parse(options)
    for version, label in MODES.items():
        if found.mode(version) is Mode.ISOLATED and not internal:
            raise InvalidArgument(f"gateway mode 'isolated' can only be used for an internal network: {label}")
    if found.mtu and has_ipv6 and found.mtu < MIN_MTU6:
        raise InvalidArgument(f"invalid MTU number: {found.mtu}: IPv6 needs {MIN_MTU6}")


def is_enabled(options: Mapping[str, str], version: int) -> bool | None:
    """The option for a family, None where it says nothing.  Raises InvalidArgument."""
    label = ENABLE[version]
    if label not in options:
        return None
    value = options[label]
    if value not in _TRUE | _FALSE:
        raise InvalidArgument(f'driver-opt "{label}" is not a valid bool')
    return value in _TRUE


def _wrong(label: str, value: str, reason: str) -> InvalidArgument:
    return InvalidArgument(f"failed to parse {label} value: {value} ({reason})")


def _boolean(options: Mapping[str, str], label: str, *, default: bool) -> bool:
    value = options.get(label)
    if value is None:
        return default
    if value not in _TRUE | _FALSE:
        raise _wrong(label, value, f'strconv.ParseBool: parsing "{value}": invalid syntax')
    return value in _TRUE


def _mtu(text: str) -> int:
    if not text:
        return 0
    digits = text[1:] if text[0] in "+-" else text
    if not digits.isascii() or not digits.isdigit():
        raise _wrong(MTU, text, f'strconv.Atoi: parsing "{text}": invalid syntax')
    if len(digits) > 18:
        raise _wrong(MTU, text, f'strconv.Atoi: parsing "{text}": value out of range')
    number = int(text)
    if number < 0 or (number and not MIN_MTU <= number <= MAX_MTU):
        raise InvalidArgument(f"invalid MTU number: {number}")
    return number


def _address(options: Mapping[str, str], label: str) -> IPAddress | None:
    value = options.get(label)
    if value is None:
        return None
    try:
        return ip_address(value)
    except ValueError:
        raise _wrong(label, value, "nil ip") from None


def _source(options: Mapping[str, str], version: int) -> IPAddress | None:
    found = _address(options, SOURCES[version])
    if found is not None and found.version != version:
        raise _wrong(SOURCES[version], str(found), f"not an IPv{version} address")
    return found


def _mode(options: Mapping[str, str], version: int) -> Mode:
    value = options.get(MODES[version])
    if value is None:
        return Mode.NAT
    try:
        return Mode(value)
    except ValueError:
        raise _wrong(MODES[version], value, f"unknown gateway mode {value}") from None


def _device(label: str, value: str) -> str:
    """A name that a device can have (dev_valid_name of the kernel), and that no file of sysctls is confused by."""
    is_wrong = value in (".", "..") or any(one in '/:%\\"' or one.isspace() or not one.isprintable() for one in value)
    if is_wrong or len(value.encode()) > NAME_BYTES:
        raise _wrong(label, value, f"not the name of a device: at most {NAME_BYTES} bytes")
    return value
