"""Network namespaces made by a thread that is used once (corten.sys.netns)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from pathlib import Path

import pytest

from corten.sys import netns
from support.process import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

SIOCGIFFLAGS = 0x8913
IFF_UP = 1


def flags_of_lo() -> int:
    """As the calling thread's namespace has them (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        answer = fcntl.ioctl(handle, SIOCGIFFLAGS, struct.pack("16sh14x", b"lo", 0))
    return int(struct.unpack_from("16xh", answer)[0])


def namespaces_of_threads() -> set[str]:
    """Where the threads of this process are; one that ends meanwhile is nowhere."""
    found = set()
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.add(os.readlink(thread / "ns" / "net"))
    return found


def test_a_new_namespace_has_its_loopback_up_and_nothing_else() -> None:
    fd = netns.make()
    try:
        assert [name for _, name in netns.inside(fd, socket.if_nameindex)] == ["lo"]
        assert netns.inside(fd, flags_of_lo) & IFF_UP
    finally:
        os.close(fd)


def test_each_namespace_is_another_one_and_no_thread_stays_in_it() -> None:
    before = os.readlink("/proc/self/ns/net")
    fds = [netns.make() for _ in range(3)]
    try:
        made = {f"net:[{netns.identity(fd)}]" for fd in fds}
        assert len(made) == 3
        assert before not in made
        assert os.readlink("/proc/self/ns/net") == os.readlink("/proc/thread-self/ns/net") == before
        wait_for(lambda: not made & namespaces_of_threads(), "end of the threads")  # a moment behind their join
    finally:
        for fd in fds:
            os.close(fd)
