"""Whom a resolver asks, and from which network."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from corten.shim import servers
from corten.shim.servers import FALLBACK, HostServers, Place, of_host, of_user, read

RICH = """\
# nameserver 192.0.2.1
; nameserver 192.0.2.2
nameserver 9.9.9.9
 nameserver\t2001:db8::1
nameserver fe80::1%eth0
nameserver bogus
nameserver
search nameserver 192.0.2.3
options rotate
"""


class Nowhere(Place):
    def __init__(self) -> None:
        self._netns_fd = -1


def test_servers_are_read_as_resolv_conf_has_them(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(RICH)
    assert read(str(path)) == ("9.9.9.9", "2001:db8::1", "fe80::1%eth0")


@pytest.mark.parametrize("text", ["", "# nobody\n", "nameserver x\n"])
def test_a_host_that_names_none_has_public_ones(tmp_path: Path, text: str) -> None:
    path = tmp_path / "resolv.conf"
    assert read(str(path)) == FALLBACK
    path.write_text(text)
    assert read(str(path)) == FALLBACK


def test_behind_the_stub_of_systemd_are_its_own_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, own = tmp_path / "resolv.conf", tmp_path / "own"
    monkeypatch.setattr(servers, "SYSTEMD_RESOLV_CONF", str(own))
    path.write_text("nameserver 127.0.0.53\noptions edns0\n")
    assert read(str(path)) == ("127.0.0.53",), "it is not systemd's"
    own.write_text("nameserver 192.0.2.53\n")
    assert read(str(path)) == ("192.0.2.53",)
    path.write_text("nameserver 127.0.0.53\nnameserver 192.0.2.1\n")
    assert read(str(path)) == ("127.0.0.53", "192.0.2.1")


def test_a_file_that_changes_is_read_again_a_second_later_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_LOOK_S", 1000.0)
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    host = HostServers(str(path))
    assert host.now() == ("192.0.2.1",)
    path.write_text("nameserver 192.0.2.22\n")
    assert host.now() == ("192.0.2.1",)
    host._looked -= 1000
    assert host.now() == ("192.0.2.22",)
    path.unlink()
    host._looked -= 1000
    assert host.now() == FALLBACK


def test_the_hosts_loopback_and_what_the_container_cannot_reach_is_asked_from_the_host() -> None:
    place = Nowhere()
    found = ("127.0.0.53", "9.9.9.9", "::1", "2001:db8::1", "fe80::1%eth0")
    assert [one.place is None for one in of_host(found, place, has_ipv6=True)] == [True, False, True, False, True]
    assert [one.place is None for one in of_host(found, place, has_ipv6=False)] == [True, False, True, True, True]


def test_the_users_own_are_asked_from_the_container_but_never_the_resolver_itself() -> None:
    place = Nowhere()
    found = of_user(["127.0.0.1", "127.0.0.11", "::1"], place)
    assert [(one.address, one.place) for one in found] == [("127.0.0.1", place), ("::1", place)]
    assert [one.family for one in found] == [socket.AF_INET, socket.AF_INET6]


def test_a_place_that_is_let_go_twice_is_let_go_once() -> None:
    place = Nowhere()
    place.close()
    place.close()
