"""Namespaces of the calling thread: `unshare(2)` and the loopback device of a new network namespace."""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct

from corten.sys.libc import fail, function

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000

_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


def unshare(flags: int) -> None:
    """Leave the namespaces named by CLONE_NEW* flags for new ones."""
    if function("unshare")(ctypes.c_int(flags)) != 0:
        fail()


def raise_loopback() -> None:
    """Set `lo` up in the current network namespace (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as handle:
        request = struct.pack("16sh14x", b"lo", 0)
        flags: int = struct.unpack_from("16xh", fcntl.ioctl(handle, _SIOCGIFFLAGS, request))[0]
        fcntl.ioctl(handle, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
