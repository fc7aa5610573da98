"""Published ports: how they are asked for, taken and held (with sockets on loopback)."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

import pytest

from corten import errors
from corten.network import ports
from corten.network.ports import Place, PortTable, Reservation, parse_bindings, places
from corten.network.values import ANY, ANY6, LOOPBACK6, Endpoint, PortBinding, PortConflict, Publication
from corten.sys.rtnetlink import IPAddress

LOCAL = IPv4Address("127.0.0.1")


def test_a_binding_is_read() -> None:
    (one,) = parse_bindings([], {"53/udp": [("127.0.0.1", "5353")]})
    assert one == PortBinding("udp", 53, LOCAL, 5353, 5353)


@pytest.mark.parametrize(
    ("key", "host_port", "expected"),
    [
        ("80", "8080", PortBinding("tcp", 80, None, 8080, 8080)),
        ("80/TCP", "8080", PortBinding("tcp", 80, None, 8080, 8080)),
        ("080/tcp", "8080", PortBinding("tcp", 80, None, 8080, 8080)),
        ("80/tcp", "", PortBinding("tcp", 80, None, 0, 0)),
        ("80/tcp", "0", PortBinding("tcp", 80, None, 0, 0)),
        ("80/tcp", "7000-7002", PortBinding("tcp", 80, None, 7000, 7002)),
        ("80/tcp", "7000-7002/tcp", PortBinding("tcp", 80, None, 7000, 7002)),
    ],
)
def test_spellings_that_dockerd_takes_are_taken(key: str, host_port: str, expected: PortBinding) -> None:
    assert parse_bindings([], {key: [("", host_port)]}) == (expected,)


@pytest.mark.parametrize(
    ("key", "host_port", "shown"),
    [
        ("x/tcp", "1", "x"),
        ("80-82/tcp", "1", "80-82"),
        ("80/tcp", "70000", "70000"),
        ("80/tcp", "9-3", "9-3"),
        ("80/tcp", "a", "a"),
        ("80/tcp", "-1", "-1"),
        ("80/tcp", "²", "²"),
    ],
)
def test_what_is_no_port_is_refused_in_dockers_words(key: str, host_port: str, shown: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        parse_bindings([], {key: [("", host_port)]})
    assert str(caught.value) == f'invalid port specification: "{shown}"'


def test_what_is_no_address_or_protocol_is_refused() -> None:
    with pytest.raises(errors.InvalidArgument, match="invalid proto: foo"):
        parse_bindings([], {"80/foo": [("", "1")]})
    for text in ("zz", "fe80::1%eth0", "127.0.0.1:80"):
        with pytest.raises(errors.InvalidArgument, match=f'invalid host IP address: "{text}"'):
            parse_bindings([], {"80/tcp": [(text, "1")]})


def test_ipv6_addresses_and_sctp_are_taken() -> None:
    found = parse_bindings(
        [], {"80/sctp": [("::", "1")], "81/tcp": [("::1", "2")], "82/tcp": [("::ffff:127.0.0.1", "3")]}
    )
    assert [(one.transport, one.host_ip, one.first) for one in found] == [
        ("tcp", LOCAL, 3),
        ("tcp", LOOPBACK6, 2),
        ("sctp", ANY6, 1),
    ]


# --- where


def endpoint(*, v4: bool = True, v6: bool = False) -> Endpoint:
    return Endpoint(
        endpoint_id="e" * 64,
        container_id="c" * 64,
        network_id="n" * 64,
        address=IPv4Interface("172.17.0.2/16") if v4 else None,
        gateway=None,
        mac="",
        link="",
        address6=IPv6Interface("fd00::2/64") if v6 else None,
    )


GLOBAL6 = IPv6Address("2001:db8::1")


@pytest.mark.parametrize(
    ("asked", "has", "relay", "listenable", "expected"),
    [
        (None, endpoint(), True, True, [Place(ANY), Place(ANY6, True)]),
        (None, endpoint(), False, True, [Place(ANY)]),
        (None, endpoint(), True, False, [Place(ANY)]),
        (None, endpoint(v6=True), True, True, [Place(ANY), Place(ANY6, True)]),  # for ::1
        (None, endpoint(v6=True), False, True, [Place(ANY), Place(ANY6)]),
        (None, endpoint(v4=False, v6=True), True, True, [Place(ANY6, True)]),
        (ANY, endpoint(v6=True), True, True, [Place(ANY)]),
        (ANY6, endpoint(), True, False, [Place(ANY6, True)]),
        (LOOPBACK6, endpoint(), True, True, [Place(LOOPBACK6, True)]),
        (LOOPBACK6, endpoint(), False, True, []),
        (GLOBAL6, endpoint(v6=True), True, True, [Place(GLOBAL6)]),
        (GLOBAL6, endpoint(), True, True, [Place(GLOBAL6, True)]),
        (LOCAL, endpoint(v4=False, v6=True), True, True, []),
    ],
)
def test_a_port_is_published_where_nat_or_the_relay_can_lead_it(
    asked: IPAddress | None, has: Endpoint, relay: bool, listenable: bool, expected: list[Place]
) -> None:
    binding = PortBinding("tcp", 80, asked, 8080, 8080)
    found = places(binding, ANY, has, has_relay=relay, is_v6_listenable=listenable)
    assert list(found) == expected


def test_an_address_of_the_network_stands_for_all_and_sctp_is_not_relayed() -> None:
    binding = PortBinding("tcp", 80, None, 8080, 8080)
    assert places(binding, LOCAL, endpoint(), has_relay=True, is_v6_listenable=True) == (Place(LOCAL),)
    assert places(binding, ANY6, endpoint(), has_relay=True, is_v6_listenable=True) == (Place(ANY6, True),)
    sctp = PortBinding("sctp", 80, None, 8080, 8080)
    assert places(sctp, ANY, endpoint(), has_relay=True, is_v6_listenable=True) == (Place(ANY),)
    assert places(sctp, ANY, endpoint(v6=True), has_relay=True, is_v6_listenable=True) == (Place(ANY), Place(ANY6))


def test_named_ports_come_first_and_then_larger_ones_as_with_docker() -> None:
    found = parse_bindings([], {"80/tcp": [("", ""), ("", "81")], "90/udp": [("", "")], "90/tcp": [("", "")]})
    assert [(one.container_port, one.transport, one.first) for one in found] == [
        (80, "tcp", 81),
        (90, "tcp", 0),
        (90, "udp", 0),
        (80, "tcp", 0),
    ]


def test_publish_all_adds_the_exposed_ports_that_have_no_binding() -> None:
    found = parse_bindings(["80/tcp", "70-71/udp", "443"], {"80/tcp": [("", "8080")]}, publish_all=True)
    assert [(one.container_port, one.transport) for one in found] == [
        (80, "tcp"),
        (443, "tcp"),
        (71, "udp"),
        (70, "udp"),
    ]
    assert parse_bindings(["80/tcp"], {}) == ()
    assert parse_bindings(["80/tcp"], {"80/tcp": []}) == ()


# --- the table, with sockets on loopback


def reserve(table: PortTable, binding: PortBinding) -> Reservation:
    assert binding.host_ip is not None
    (found,) = table.reserve(binding, (Place(binding.host_ip),))
    return found


def unused(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_port_of_ours_is_refused_in_dockers_words() -> None:
    table, port = PortTable(), unused()
    with reserve(table, PortBinding("tcp", 80, LOCAL, port, port)).socket:
        with pytest.raises(PortConflict) as caught:
            reserve(table, PortBinding("tcp", 80, LOCAL, port, port))
        assert str(caught.value) == f"Bind for 127.0.0.1:{port} failed: port is already allocated"
        with reserve(table, PortBinding("udp", 80, LOCAL, port, port)).socket:
            pass


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_port_of_another_program_is_refused_in_dockers_words(transport: str) -> None:
    kind = socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, transport == "tcp")
        other.bind(("127.0.0.1", 0))
        if transport == "tcp":
            other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortConflict) as caught:
            reserve(PortTable(), PortBinding(transport, 80, LOCAL, port, port))  # type: ignore[arg-type]
    assert str(caught.value) == (
        f"Error starting userland proxy: listen {transport}4 127.0.0.1:{port}: bind: address already in use"
    )


def test_an_address_that_the_host_has_not_is_refused() -> None:
    with pytest.raises(PortConflict, match=r"listen tcp4 198\.51\.100\.1:80: bind: cannot assign requested address"):
        reserve(PortTable(), PortBinding("tcp", 80, IPv4Address("198.51.100.1"), 80, 80))


def test_a_range_skips_what_is_taken_and_goes_on_behind_the_last() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        busy = other.getsockname()[1]
        table = PortTable()
        binding = PortBinding("tcp", 80, LOCAL, busy, min(busy + 20, 65535))
        first, second = reserve(table, binding), reserve(table, binding)
        with first.socket, second.socket:
            assert busy < first.publication.host_port < second.publication.host_port
            table.release(first.publication)
        third = reserve(table, binding)
        with third.socket:
            assert third.publication.host_port > second.publication.host_port


def test_a_range_that_is_used_up_says_so() -> None:
    table = PortTable()
    for port in (7000, 7001):
        table.take(Publication("tcp", LOCAL, port, 80))
    with pytest.raises(PortConflict, match="all ports are allocated"):
        reserve(table, PortBinding("tcp", 80, LOCAL, 7000, 7001))


def test_ephemeral_ports_come_from_the_hosts_range_in_order() -> None:
    port = unused()
    table = PortTable((port, port + 5))
    one = reserve(table, PortBinding("tcp", 80, LOCAL))
    with one.socket:
        assert one.publication == Publication("tcp", LOCAL, one.publication.host_port, 80)
        assert port <= one.publication.host_port <= port + 5


def test_all_addresses_of_a_binding_have_one_number_or_none_is_taken() -> None:
    other_local = IPv4Address("127.0.0.2")
    with socket.socket() as other:
        other.bind(("127.0.0.2", 0))
        busy = other.getsockname()[1]
        table, on = PortTable((busy, busy + 5)), (Place(LOCAL), Place(other_local))
        found = table.reserve(PortBinding("tcp", 80), on)
        for one in found:
            one.socket.close()
        assert len({one.publication.host_port for one in found}) == 1
        assert found[0].publication.host_port != busy
        with pytest.raises(PortConflict, match=rf"listen tcp4 127\.0\.0\.2:{busy}"):
            table.reserve(PortBinding("tcp", 80, None, busy, busy), on)
    with reserve(table, PortBinding("tcp", 80, LOCAL, busy, busy)).socket:
        pass


def test_nowhere_takes_nothing() -> None:
    assert PortTable().reserve(PortBinding("tcp", 80), ()) == ()


def test_an_ipv6_port_of_ours_is_refused_in_dockers_words() -> None:
    table = PortTable()
    table.take(Publication("tcp", ANY6, 8080, 80))
    with pytest.raises(PortConflict) as caught:
        table.reserve(PortBinding("tcp", 80, None, 8080, 8080), (Place(ANY6),))
    assert str(caught.value) == "Bind for :::8080 failed: port is already allocated"


def test_a_held_port_refuses_connections_and_other_listeners() -> None:
    port = unused()
    with ports.bind(Publication("tcp", LOCAL, port, 80)), socket.socket() as other:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="already in use"):
            other.bind(("127.0.0.1", port))


def test_a_port_with_closed_connections_is_had_and_then_held() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            server.accept()[0].close()  # this side closes first, and stays in TIME_WAIT
            assert client.recv(1) == b""
    with socket.socket() as plain, pytest.raises(OSError, match="already in use"):
        plain.bind(("127.0.0.1", port))
    with ports.bind(Publication("tcp", LOCAL, port, 80)), socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="already in use"):
            other.bind(("127.0.0.1", port))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


def test_a_held_udp_port_keeps_no_datagram() -> None:
    port = unused(socket.SOCK_DGRAM)
    with (
        ports.bind(Publication("udp", LOCAL, port, 80)) as held,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker,
    ):
        asker.sendto(b"lost", ("127.0.0.1", port))
        held.settimeout(0.1)
        with pytest.raises(TimeoutError):
            held.recv(10)


@pytest.mark.parametrize(
    ("spec", "shown"),
    [("80", "80/tcp"), ("53/UDP", "53/udp"), ("80/sctp", "80/sctp"), ("foo", "0/tcp"), ("1-9/tcp", "0/tcp"),
     ("9" * 5000, "0/tcp"), ("70000/tcp", "0/tcp")],
)  # fmt: skip
def test_whatever_an_image_exposes_can_be_shown(spec: str, shown: str) -> None:
    assert ports.exposed_port(spec) == shown


def test_more_ports_than_there_are_cannot_be_published() -> None:
    exposed = [f"{'0' * zeros}1-65535/tcp" for zeros in range(5)]
    with pytest.raises(errors.InvalidArgument, match="more than 131072 ports are exposed"):
        parse_bindings(exposed, {}, publish_all=True)


def test_a_port_of_any_number_of_digits_is_refused() -> None:
    with pytest.raises(errors.InvalidArgument, match="invalid port specification"):
        parse_bindings([], {"9" * 5000: [("", "")]})
