"""Published ports as dockerd 26.1 has them: where, in which order, and what is said of those that cannot be had.

The tables are what dockerd 26.1 does (a slow test asks it); what Corten does otherwise, on purpose, is OTHERWISE.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from support.images import BUSYBOX_REF as IMAGE
from support.networld import HOST6, World

BUSY = (socket.AF_INET, "0.0.0.0", 7777), (socket.AF_INET6, "::", 7778)  # by other programs
BOTH = "0.0.0.0 {0} :: {0}"
PROXY = "Error starting userland proxy: "
IN_USE, NO_ADDRESS = "bind: address already in use", "bind: cannot assign requested address"

# what is asked, one container after the other: (ports as inspect has them, or the reason)
ROWS: dict[str, str] = {
    "-p 8080:80": "80/tcp " + BOTH.format(8080),
    "-p [::1]:8081:80": "80/tcp ::1 8081",
    "-p [::]:8082:80": "80/tcp :: 8082",
    "-p 0.0.0.0:8082:80": "80/tcp 0.0.0.0 8082",
    f"-p [{HOST6}]:8083:80": f"80/tcp {HOST6} 8083",
    "-p [::ffff:127.0.0.1]:8090:80": "80/tcp 127.0.0.1 8090",
    "-p 5353:53/udp -p 5353:53/tcp": f"53/tcp {BOTH.format(5353)} 53/udp {BOTH.format(5353)}",
    "-p 9000-9001:80": "80/tcp " + BOTH.format(9000),
    "-p 9000-9001:81": "81/tcp " + BOTH.format(9001),
    "-p 9000-9001:82": "all ports are allocated",
    "-p 9100-9101:90-91": f"90/tcp {BOTH.format(9100)} 91/tcp {BOTH.format(9101)}",
    "-p 9100:80": "Bind for 0.0.0.0:9100 failed: port is already allocated",
    "-p [::]:9100:80": "Bind for :::9100 failed: port is already allocated",
    "-p 7777:80": f"{PROXY}listen tcp4 0.0.0.0:7777: {IN_USE}",
    "-p 7778:80": f"{PROXY}listen tcp6 [::]:7778: {IN_USE}",
    "-p 127.0.0.1:9100:80": f"{PROXY}listen tcp4 127.0.0.1:9100: {IN_USE}",
    "-p 192.0.2.77:80:80": f"{PROXY}listen tcp4 192.0.2.77:80: {NO_ADDRESS}",
    "-p [2001:db8::77]:80:80": f"{PROXY}listen tcp6 [2001:db8::77]:80: {NO_ADDRESS}",
    "-p 8091:80/sctp": f"{PROXY}protocol not supported",
    "-p 8095:80 -p 8095:81": "Bind for 0.0.0.0:8095 failed: port is already allocated",
    "-p 7777-7779:80": f"{PROXY}listen tcp4 0.0.0.0:7777: {IN_USE}",
}
# a range passes over what other programs have
OTHERWISE = {"-p 7777-7779:80": "80/tcp " + BOTH.format(7779)}
# with `userland-proxy: false`
ROWS_WITHOUT: dict[str, str] = {
    "-p 8080:80": "80/tcp 0.0.0.0 8080",
    "-p [::1]:8081:80": "",
    "-p 7778:80": "80/tcp 0.0.0.0 7778",
    "-p 7777:80": f"listen tcp4 0.0.0.0:7777: {IN_USE}",
    "-p 8091:80/sctp": "protocol not supported",
}


@contextmanager
def busy(world: World) -> Iterator[None]:
    """Other programs on the host."""
    with ExitStack() as undo:
        for family, address, port in BUSY:
            made = undo.enter_context(world.host.call(lambda: socket.socket(family)))  # noqa: B023
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind((address, port))
            made.listen()
        yield


def outcomes(world: World, rows: Mapping[str, str]) -> dict[str, str]:
    """What comes of each, side by side with those before it."""
    with busy(world):
        return {args: _outcome(world, args) for args in rows}


def _outcome(world: World, args: str) -> str:
    done = world.engine.docker("run", "-d", *args.split(), IMAGE, "sleep", "1000")
    if done.returncode:
        said = done.stderr.splitlines()[0]
        found = re.fullmatch(r".*external connectivity on endpoint \S+ \([0-9a-f]{64}\): (.*)", said)
        return found[1] if found else said
    ports: dict[str, Any] = world.inspect(done.stdout.strip())["NetworkSettings"]["Ports"]
    return " ".join(
        " ".join([key, *(f"{one['HostIp']} {one['HostPort']}" for one in of)]) for key, of in ports.items() if of
    )


@pytest.mark.timeout(300)
def test_ports_are_those_of_dockerd_and_so_is_what_is_said_of_them() -> None:
    with World() as world, world.corten():
        assert outcomes(world, ROWS) == ROWS | OTHERWISE


def test_without_a_proxy_they_are_those_of_dockerd_without_one() -> None:
    with World() as world, world.corten(config={"userland-proxy": False}):
        assert outcomes(world, ROWS_WITHOUT) == ROWS_WITHOUT


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_tables_of_ports_are_what_dockerd_does() -> None:
    with World() as world, world.dockerd():
        assert outcomes(world, ROWS) == ROWS
    with World() as world, world.dockerd(args=("--userland-proxy=false",)):
        assert outcomes(world, ROWS_WITHOUT) == ROWS_WITHOUT
