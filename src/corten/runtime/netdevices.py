"""Devices of the host that become the container's: moved, renamed, with their permanent addresses, and up.

The container's init waits meanwhile.  No thread of ours stays in its network namespace: a socket is made there, once,
and used from here.  A failure takes back what was moved, with name, addresses and state as they were; so does a delete
of a container that was not started, whoever was killed meanwhile: the record tells before the first is moved.
Rules: runtime-spec config-linux.md, "Network Devices"; rtnetlink(7).
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from corten.errors import FailedPrecondition, NotFound, Unavailable
from corten.runtime.parentsteps import Change
from corten.sys import netlink, netns, rtnetlink
from corten.sys.netlink import NetlinkError, Request
from corten.sys.rtnetlink import Socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from corten.runtime.launching import Creation
    from corten.runtime.state import State

ENODEV = 19
IFA_FLAGS = 8
IFA_F_PERMANENT = 0x80
# what is set by whoever adds an address: nodad, home address, managed temporary, no prefix route, multicast join
ASKED_FOR = 0x02 | 0x10 | 0x100 | 0x200 | 0x400
SCOPE_GLOBAL = 0
GET_ADDRESSES = Request("addresses", rtnetlink.RTM_GETADDR, netlink.NLM_F_DUMP, rtnetlink.IFADDR.pack(0, 0, 0, 0, 0))


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
        body = rtnetlink.IFADDR.pack(self.family, self.prefix, self.flags & 0xFF, SCOPE_GLOBAL, index)
        body += netlink.attribute(rtnetlink.IFA_LOCAL, self.local) + netlink.attribute(rtnetlink.IFA_ADDRESS, self.peer)
        if self.broadcast:
            body += netlink.attribute(rtnetlink.IFA_BROADCAST, self.broadcast)
        body += netlink.u32(IFA_FLAGS, self.flags)
        flags = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
        return Request(f"address {self.local.hex(':')}/{self.prefix}", rtnetlink.RTM_NEWADDR, flags, body)

    def to_obj(self) -> list[object]:
        """As the record has it."""
        ends = (self.local, self.peer, self.broadcast)
        return [self.family, self.prefix, self.flags, *[end.hex() for end in ends]]

    @classmethod
    def from_obj(cls, obj: list[Any]) -> Address:
        """The inverse of `to_obj`."""
        family, prefix, flags, *ends = obj
        return cls(family, prefix, flags, *[bytes.fromhex(end) for end in ends])


@dataclass(frozen=True, slots=True)
class Device:
    """One device to move: what it is outside, and its name inside."""

    name: str
    inside: str
    is_up: bool
    addresses: tuple[Address, ...]

    def to_obj(self) -> dict[str, object]:
        """As the record has it."""
        addresses = [address.to_obj() for address in self.addresses]
        return {"name": self.name, "inside": self.inside, "up": self.is_up, "addresses": addresses}

    @classmethod
    def from_obj(cls, obj: dict[str, Any]) -> Device:
        """The inverse of `to_obj`."""
        addresses = tuple(Address.from_obj(address) for address in obj["addresses"])
        return cls(obj["name"], obj["inside"], obj["up"], addresses)


class Moved(Change):
    """Devices that are in a container's namespace: `undo` takes them back, `settle` leaves them."""

    def __init__(self, netns_fd: int, devices: Iterable[Device] = ()) -> None:
        self._netns = os.dup(netns_fd)
        self._own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._here, self._there = Socket(), netns.inside(netns_fd, Socket)
        self._devices = list(devices)

    def check(self, wanted: Mapping[str, str]) -> list[Device]:
        """What is to be moved; raises NotFound, or FailedPrecondition for a name that is taken."""
        return check(wanted, self._here, self._there)

    def move(self, devices: Iterable[Device]) -> None:
        """Moves devices; raises FailedPrecondition in the kernel's words at the first that stays."""
        for device in devices:
            try:
                _go(self._here, self._there, device.name, device.inside, self._netns)
                self._devices.append(device)
                _furnish(self._there, device.inside, device.addresses, up=True)
            except NetlinkError as error:
                raise FailedPrecondition(f"move network device {device.name}: {error.strerror}") from error

    def undo(self) -> list[str]:
        """Takes back what was moved, with name, addresses and state as they were, as far as the kernel lets us."""
        complaints = []
        for device in reversed(self._devices):
            try:
                if self._there.link(device.inside) is None:
                    continue  # whoever was to move it was killed before
                _go(self._there, self._here, device.inside, device.name, self._own)
                _furnish(self._here, device.name, device.addresses, up=device.is_up)
            except NetlinkError as error:
                # somebody has taken the name meanwhile; the others can still go
                complaints.append(f"take back network device {device.name}: {error.strerror}")
        self.settle()
        return complaints

    def settle(self) -> None:
        """Closes everything; the devices stay where they are."""
        self._devices = []
        self._here.close()
        self._there.close()
        os.close(self._netns)
        os.close(self._own)


def run(making: Creation, pid: int) -> None:
    """Every device of the configuration, or none, into the network namespace of `pid`; the record tells before."""
    moved = _moved(pid)
    making.undoing.append(moved)
    devices = moved.check(making.prepared.config.linux.net_devices)
    making.state.devices = [device.to_obj() for device in devices]
    making.state.devices_from = _own_namespace()
    making.state.save()
    moved.move(devices)


def recorded(state: State) -> Moved:
    """What was, or was to be, moved to a container that waits for its start; raises Unavailable.

    It holds the container's namespace: `undo` may wait until all of its processes are dead.
    """
    if state.devices_from != _own_namespace():
        raise Unavailable("network devices of the container came from another network namespace than this one")
    return _moved(state.pid, [Device.from_obj(obj) for obj in state.devices])


def _moved(pid: int, devices: Iterable[Device] = ()) -> Moved:
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return Moved(fd, devices)
    finally:
        os.close(fd)


def _own_namespace() -> str:
    """`net:[4026531840]`: no other has the number as long as a device can come back to it."""
    return os.readlink("/proc/thread-self/ns/net")


def check(wanted: Mapping[str, str], here: Socket, there: Socket) -> list[Device]:
    """The devices with all that is to be kept; raises NotFound, or FailedPrecondition for a name that is taken."""
    devices = []
    for name, inside in wanted.items():
        link = here.link(name)
        if link is None:
            raise NotFound(f"link not found for interface {name} on runtime namespace")
        if there.link(inside) is not None:
            raise FailedPrecondition(f"link already exist with name {inside} on container namespace")
        devices.append(Device(name, inside, link.is_up, addresses_of(here, link.index)))
    return devices


def addresses_of(socket: Socket, index: int) -> tuple[Address, ...]:
    """The permanent addresses of global scope of one device."""
    found = []
    for body in socket.dump(GET_ADDRESSES):
        family, prefix, flags, scope, owner = rtnetlink.IFADDR.unpack_from(body)
        known = netlink.attributes(body[rtnetlink.IFADDR.size :])
        if IFA_FLAGS in known:
            (flags,) = struct.unpack("=I", known[IFA_FLAGS])
        if owner != index or scope != SCOPE_GLOBAL or not flags & IFA_F_PERMANENT:
            continue
        peer = known[rtnetlink.IFA_ADDRESS]
        local = known.get(rtnetlink.IFA_LOCAL, peer)
        broadcast = known.get(rtnetlink.IFA_BROADCAST, b"")
        found.append(Address(family, prefix, flags & ASKED_FOR, local, peer, broadcast))
    return tuple(found)


def _go(before: Socket, after: Socket, old: str, new: str, netns_fd: int) -> None:
    """One device from the namespace of `before` into that of `after`, whose descriptor is given, under its new name.

    One request: the kernel takes it down, moves and renames it, or leaves it alone.  It loses its addresses.
    """
    link = before.link(old)
    if link is None:
        raise NetlinkError(ENODEV, f"{old}: no such device")
    body = rtnetlink.IFINFO.pack(0, 0, link.index, 0, 0)
    body += netlink.text(rtnetlink.IFLA_IFNAME, new) + netlink.u32(rtnetlink.IFLA_NET_NS_FD, netns_fd)
    before.send(Request(f"move {old}", rtnetlink.RTM_SETLINK, 0, body))


def _furnish(socket: Socket, name: str, addresses: tuple[Address, ...], *, up: bool) -> None:
    link = socket.link(name)
    if link is None:
        raise NetlinkError(ENODEV, f"{name}: no such device")
    socket.send(*[address.request(link.index) for address in addresses], *([rtnetlink.set_up(name)] if up else []))
