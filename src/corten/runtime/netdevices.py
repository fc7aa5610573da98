"""Devices of the host that become the container's: moved, renamed, with their permanent addresses, and up.

The container's init waits meanwhile.  No thread of ours stays in its network namespace: a socket is made there, once,
and used from here.  A failure takes back what was moved, with name, addresses and state as they were.
Rules: runtime-spec config-linux.md, "Network Devices"; rtnetlink(7).
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from corten.errors import FailedPrecondition, NotFound
from corten.runtime.parentsteps import Change
from corten.sys import netlink, netns
from corten.sys.netlink import Link, NetlinkError, Request, Socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from corten.runtime.launching import Creation

ENODEV = 19
IFA_FLAGS = 8
IFA_F_PERMANENT = 0x80
# what is set by whoever adds an address: nodad, home address, managed temporary, no prefix route, multicast join
ASKED_FOR = 0x02 | 0x10 | 0x100 | 0x200 | 0x400
SCOPE_GLOBAL = 0
GET_ADDRESSES = Request("addresses", netlink.RTM_GETADDR, netlink.NLM_F_DUMP, netlink.IFADDR.pack(0, 0, 0, 0, 0))


@dataclass(frozen=True, slots=True)
class Address:
    """A permanent address of global scope, of either family."""

    family: int
    prefix: int
    flags: int
    local: bytes
    peer: bytes
    broadcast: bytes

    def request(self, index: int) -> Request:
        """Adds it to a device; the kernel adds the route to its subnet."""
        body = netlink.IFADDR.pack(self.family, self.prefix, self.flags & 0xFF, SCOPE_GLOBAL, index)
        body += netlink.attribute(netlink.IFA_LOCAL, self.local) + netlink.attribute(netlink.IFA_ADDRESS, self.peer)
        if self.broadcast:
            body += netlink.attribute(netlink.IFA_BROADCAST, self.broadcast)
        body += netlink.u32(IFA_FLAGS, self.flags)
        flags = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
        return Request(f"address {self.local.hex(':')}/{self.prefix}", netlink.RTM_NEWADDR, flags, body)


@dataclass(frozen=True, slots=True)
class Device:
    """One device to move: what it is outside, and its name inside."""

    link: Link
    inside: str
    addresses: tuple[Address, ...]


class Moved(Change):
    """Devices that are in a container's namespace: `undo` takes them back, `settle` leaves them."""

    def __init__(self, netns_fd: int) -> None:
        self._netns = os.dup(netns_fd)
        self._own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._here, self._there = Socket(), netns.inside(netns_fd, Socket)
        self._devices: list[Device] = []

    def move(self, wanted: Mapping[str, str]) -> None:
        """Moves every device or none.

        Raises NotFound and FailedPrecondition before the first is moved, or in the kernel's words after the others
        have been taken back.
        """
        for device in check(wanted, self._here, self._there):
            name = device.link.name
            try:
                _go(self._here, self._there, name, device.inside, self._netns)
                self._devices.append(device)
                _furnish(self._there, device.inside, device.addresses, up=True)
            except NetlinkError as error:
                raise FailedPrecondition(f"move network device {name}: {error.strerror}") from error

    def undo(self) -> None:
        """Takes back what was moved, with name, addresses and state as they were, as far as the kernel lets us."""
        for device in reversed(self._devices):
            try:
                _go(self._there, self._here, device.inside, device.link.name, self._own)
                _furnish(self._here, device.link.name, device.addresses, up=device.link.is_up)
            except NetlinkError:
                continue  # somebody has taken the name meanwhile; the others can still go
        self.settle()

    def settle(self) -> None:
        """Closes everything; the devices stay where they are."""
        self._devices = []
        self._here.close()
        self._there.close()
        os.close(self._netns)
        os.close(self._own)


def run(making: Creation, pid: int) -> None:
    """Every device of the configuration into the network namespace of `pid`."""
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        moved = Moved(fd)
    finally:
        os.close(fd)
    making.undoing.append(moved)
    moved.move(making.prepared.config.linux.net_devices)


def check(wanted: Mapping[str, str], here: Socket, there: Socket) -> list[Device]:
    """The devices with all that is to be kept; raises NotFound, or FailedPrecondition for a name that is taken."""
    devices = []
    for name, inside in wanted.items():
        link = here.link(name)
        if link is None:
            raise NotFound(f"link not found for interface {name} on runtime namespace")
        if there.link(inside) is not None:
            raise FailedPrecondition(f"link already exist with name {inside} on container namespace")
        devices.append(Device(link, inside, addresses_of(here, link.index)))
    return devices


def addresses_of(socket: Socket, index: int) -> tuple[Address, ...]:
    """The permanent addresses of global scope of one device."""
    found = []
    for body in socket.dump(GET_ADDRESSES):
        family, prefix, flags, scope, owner = netlink.IFADDR.unpack_from(body)
        known = netlink.attributes(body[netlink.IFADDR.size :])
        if IFA_FLAGS in known:
            (flags,) = struct.unpack("=I", known[IFA_FLAGS])
        if owner != index or scope != SCOPE_GLOBAL or not flags & IFA_F_PERMANENT:
            continue
        peer = known[netlink.IFA_ADDRESS]
        local = known.get(netlink.IFA_LOCAL, peer)
        broadcast = known.get(netlink.IFA_BROADCAST, b"")
        found.append(Address(family, prefix, flags & ASKED_FOR, local, peer, broadcast))
    return tuple(found)


def _go(before: Socket, after: Socket, old: str, new: str, netns_fd: int) -> None:
    """One device from the namespace of `before` into that of `after`, whose descriptor is given, under its new name.

    One request: the kernel takes it down, moves and renames it, or leaves it alone.  It loses its addresses.
    """
    link = before.link(old)
    if link is None:
        raise NetlinkError(ENODEV, f"{old}: no such device")
    body = netlink.IFINFO.pack(0, 0, link.index, 0, 0)
    body += netlink.text(netlink.IFLA_IFNAME, new) + netlink.u32(netlink.IFLA_NET_NS_FD, netns_fd)
    before.send(Request(f"move {old}", netlink.RTM_SETLINK, 0, body))


def _furnish(socket: Socket, name: str, addresses: tuple[Address, ...], *, up: bool) -> None:
    link = socket.link(name)
    if link is None:
        raise NetlinkError(ENODEV, f"{name}: no such device")
    socket.send(*[address.request(link.index) for address in addresses], *([netlink.set_up(name)] if up else []))
