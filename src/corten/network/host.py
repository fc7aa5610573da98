"""The host's side of the network: its links, its firewall and its sysctls, behind one value that a test can wrap.

Everything belongs to the network namespace of the thread that makes the `Host`.  The kernel shows a thread the sysctls
of its own namespace, so writing them from a thread of another one is refused.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Sequence

from corten.errors import Internal, InvalidArgument
from corten.sys import netlink, netns, rtnetlink
from corten.sys.nft import Nft
from corten.sys.rtnetlink import IPAddress, IPInterface

log = logging.getLogger(__name__)

RUNNING_TIMEOUT_S = 1.0

_SYSCTLS = "/proc/sys/net"


class Host:
    """Sockets and contexts that live as long as the engine."""

    def __init__(self) -> None:
        self.links = rtnetlink.Socket()
        self.tracking = netlink.Socket(netlink.NETLINK_NETFILTER)
        self.nft = Nft()
        self._namespace = _namespace()

    def close(self) -> None:
        """Closes everything."""
        self.links.close()
        self.tracking.close()
        self.nft.close()

    def sysctl(self, name: str) -> str:
        """The value of `ipv4/ip_forward` and its like; '' when the kernel has no such switch."""
        return read_sysctl(name)

    def set_sysctl(self, name: str, value: str) -> None:
        """Writes a sysctl when it differs, and says so in the log; raises Internal in another namespace's thread."""
        before = read_sysctl(name)
        if before not in ("", value):
            if _namespace() != self._namespace:
                raise Internal(f"sysctl net/{name}: this thread is in another network namespace")
            write_sysctl(name, value)
            log.info("sysctl net/%s: %s -> %s", name, before, value)

    def keep_advertisements(self) -> None:
        """Before the host forwards IPv6: interfaces that take routes from advertisements go on taking them.

        As a router the kernel ignores advertisements where accept_ra is 1, and the host's default route would end with
        its lifetime (ip-sysctl.rst, accept_ra).
        """
        for name in sorted({"default", *(link.name for link in self.links.links())}):
            if self.sysctl(f"ipv6/conf/{name}/accept_ra") == "1":
                self.set_sysctl(f"ipv6/conf/{name}/accept_ra", "2")

    def identity(self) -> str:
        """Names this boot and this namespace: what was true of its sysctls holds only here."""
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        return f"{boot} {self._namespace}"

    def await_running(self, *names: str) -> None:
        """Waits until packets go through these devices.

        A veth end and a bridge that came up before their other side notice it in a work item of the kernel (linkwatch).
        Until that has run they drop everything, the first ARP request too, which is sent again only a second later:
        3 of 100 first connections took 1 s.  Since kernel 6.8 RTM_GETLINK runs that work; before, it takes about 1 ms.
        """
        end = time.monotonic() + RUNNING_TIMEOUT_S
        for name in names:
            while (link := self.links.link(name)) is not None and not link.is_running:
                if time.monotonic() > end:
                    log.warning("%s has no carrier yet", name)
                    return
                time.sleep(0.0005)

    def configure_inside(
        self,
        netns_fd: int,
        interface: str,
        addresses: Sequence[IPInterface],
        gateways: Sequence[IPAddress] = (),
        *,
        sysctls: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Gives the container's end its addresses, brings it up, and makes `gateways` the namespace's default routes.

        Without an IPv6 address IPv6 is off on it.  `sysctls`: files below /proc/sys/net, written before it is up.
        """
        has_ipv6 = any(one.version == 6 for one in addresses)
        with netns.inside(netns_fd, lambda: _enter(interface, has_ipv6=has_ipv6, sysctls=sysctls)) as socket:
            link = _link(socket, interface)
            socket.send(
                rtnetlink.set_up(interface),
                *(rtnetlink.new_address(link.index, one) for one in addresses),
                *(rtnetlink.replace_default_route(one, link.index) for one in gateways),
            )

    def add_addresses(self, netns_fd: int, interface: str, addresses: Sequence[IPInterface]) -> None:
        """Gives an interface of a namespace more addresses."""
        with netns.inside(netns_fd, rtnetlink.Socket) as socket:
            link = _link(socket, interface)
            socket.send(*(rtnetlink.new_address(link.index, one) for one in addresses))

    def lead_out(self, netns_fd: int, gateways: Sequence[tuple[str, IPAddress]]) -> None:
        """Makes these (interface, gateway) the namespace's default routes, each in place of another of its version."""
        with netns.inside(netns_fd, rtnetlink.Socket) as socket:
            for interface, gateway in gateways:
                socket.send(rtnetlink.replace_default_route(gateway, _link(socket, interface).index))


def _link(socket: rtnetlink.Socket, interface: str) -> rtnetlink.Link:
    link = socket.link(interface)
    if link is None:
        raise netlink.NetlinkError(errno.ENODEV, f"{interface}: no such device")
    return link


def _namespace() -> int:
    """The calling thread's."""
    return os.stat("/proc/thread-self/ns/net").st_ino


def _enter(interface: str, *, has_ipv6: bool, sysctls: Sequence[tuple[str, str]]) -> rtnetlink.Socket:
    """Runs inside: IPv6 on or off for this interface before it comes up, as Docker does; ::1 on lo stays."""
    switch, wanted = f"ipv6/conf/{interface}/disable_ipv6", "0" if has_ipv6 else "1"
    if read_sysctl(switch) not in ("", wanted):
        write_sysctl(switch, wanted)
    for name, value in sysctls:
        try:
            write_sysctl(name, value)
        except OSError as error:
            shown = f"{name.replace('/', '.')}={value}"
            raise InvalidArgument(f"sysctl net.{shown}: {(error.strerror or '').lower()}") from error
    return rtnetlink.Socket()


def read_sysctl(name: str) -> str:
    """A file below /proc/sys/net of the calling thread's namespace; '' when there is none."""
    try:
        with open(f"{_SYSCTLS}/{name}") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""


def write_sysctl(name: str, value: str) -> None:
    """Writes such a file; raises OSError."""
    with open(f"{_SYSCTLS}/{name}", "w") as file:
        file.write(value)
