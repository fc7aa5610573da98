"""Names as containers see them: asked with dnspython from their own namespaces, of a real cortend."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import dns.message
import pytest

from corten.core import resolver
from support import images
from support.asking import addresses, ask, await_answer, name_of, told
from support.engine import CortenEngine
from support.nameserver import NameServer
from support.networld import HOST6_AT_RESOLVER, HOST_AT_RESOLVER, RESOLVER, RESOLVER6, World

FRONT, BACK, INNER = "10.60.0.0/24", "10.61.0.0/24", "10.62.0.0/24"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as made, made.corten() as engine:
        for name, subnet, *more in (("front", FRONT), ("back", BACK), ("inner", INNER, "--internal")):
            engine.docker("network", "create", "--subnet", subnet, *more, name, check=True)
        yield made


@pytest.fixture(scope="module")
def engine(world: World) -> CortenEngine:
    assert isinstance(world.engine, CortenEngine)
    return world.engine


@pytest.fixture(autouse=True)
def cleaned(world: World) -> Iterator[None]:
    yield
    world._end_containers()
    world.names.asked.clear()


def resolv_conf(engine: CortenEngine, name: str) -> list[str]:
    """The lines that count."""
    text = engine.docker("exec", name, "cat", "/etc/resolv.conf", check=True).stdout
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_names_aliases_and_addresses_of_the_networks_are_answered(world: World, engine: CortenEngine) -> None:
    asker = world.container("--network", "front", "--ip", "10.60.0.10", name="asker")
    world.container("--network", "front", "--network-alias", "web", "--ip", "10.60.0.21", name="one")
    world.container("--network", "front", "--network-alias", "Web", "--ip", "10.60.0.22", "-h", "deux", name="two")
    world.container("--network", "back", name="stranger")
    assert resolv_conf(engine, "asker") == ["nameserver 127.0.0.11", "options ndots:0"]
    for name, expected in (("one", "21"), ("ONE.front", "21"), ("deux", "22"), (world.inspect("two")["Id"][:12], "22")):
        assert addresses(asker, name) == [f"10.60.0.{expected}"]
    assert addresses(asker, "web") == ["10.60.0.21", "10.60.0.22"]
    assert {told(ask(asker, "web"))[0] for _ in range(40)} == {"10.60.0.21", "10.60.0.22"}
    assert told(ask(asker, "web", by_tcp=True)) in (["10.60.0.21", "10.60.0.22"], ["10.60.0.22", "10.60.0.21"])
    assert addresses(asker, "one", "AAAA") == []
    assert name_of(asker, "10.60.0.22") == ["two.front."]
    assert ask(asker, "one", size=1232).edns == 0
    assert world.names.asked == []
    assert addresses(asker, "stranger") == ["NXDOMAIN"]
    assert world.names.names() == ["stranger"]


def test_what_is_not_known_is_asked_of_the_hosts_server_by_udp_and_tcp(world: World) -> None:
    asker = world.container("--network", "front")
    assert addresses(asker, "www.example.test") == ["203.0.113.7"]
    assert addresses(asker, "www.example.test", "AAAA") == ["2001:db8:7::7"]
    assert name_of(asker, "2001:db8:7::7") == ["www.example.test."]
    cut = ask(asker, "many.example.test")
    assert (bool(cut.flags & 0x0200), cut.answer) == (True, [])
    assert len(told(ask(asker, "many.example.test", size=4096))) == 200
    assert len(told(ask(asker, "many.example.test", by_tcp=True))) == 200
    assert told(ask(asker, "broken.example.test")) == ["SERVFAIL"]
    assert [one.transport for one in world.names.asked if one.name == "many.example.test"] == ["udp", "udp", "tcp"]
    assert {one.client for one in world.names.asked} == {HOST_AT_RESOLVER}


def test_nothing_leaves_an_internal_network_alone(world: World, engine: CortenEngine) -> None:
    asker = world.container("--network", "inner", name="asker")
    other = world.container("--network", "inner", name="other")
    for by_tcp in (False, True):
        assert told(ask(asker, "www.example.test", by_tcp=by_tcp)) == ["SERVFAIL"]
    assert name_of(asker, "203.0.113.7") == ["SERVFAIL"]
    assert addresses(asker, "other") == [world.address("other", "inner")]
    assert world.names.asked == []
    engine.docker("network", "connect", "front", "asker", check=True)
    assert addresses(asker, "www.example.test") == ["203.0.113.7"]
    assert addresses(other, "www.example.test") == ["SERVFAIL"]
    engine.docker("network", "disconnect", "front", "asker", check=True)
    assert addresses(asker, "www.example.test") == ["SERVFAIL"]
    assert len(world.names.asked) == 1


def test_names_follow_connect_rename_disconnect_and_end(world: World, engine: CortenEngine) -> None:
    asker = world.container("--network", "front", name="asker")
    moved = world.container(name="moved")
    assert resolv_conf(engine, "moved") == [f"nameserver {RESOLVER}"]
    engine.docker("network", "connect", "--alias", "other", "--ip", "10.60.0.31", "front", "moved", check=True)
    assert resolv_conf(engine, "moved") == ["nameserver 127.0.0.11", "options ndots:0"]
    assert addresses(asker, "other") == addresses(asker, "moved") == addresses(moved, "moved") == ["10.60.0.31"]
    engine.docker("rename", "moved", "renamed", check=True)
    assert (addresses(asker, "moved"), addresses(asker, "renamed")) == (["NXDOMAIN"], ["10.60.0.31"])
    engine.docker("rename", "renamed", "moved", check=True)
    assert addresses(asker, "moved") == ["10.60.0.31"]
    engine.docker("network", "disconnect", "front", "moved", check=True)
    assert addresses(asker, "other") == ["NXDOMAIN"]
    world.container("--network", "front", "--network-alias", "other", "--ip", "10.60.0.32", name="brief")
    assert addresses(asker, "other") == ["10.60.0.32"]
    engine.docker("kill", "brief", check=True)
    assert addresses(asker, "other") == ["NXDOMAIN"]


def test_a_resolv_conf_that_somebody_edited_stays(world: World, engine: CortenEngine) -> None:
    world.container(name="edited")
    engine.docker("exec", "edited", "sh", "-c", "echo 'nameserver 192.0.2.1' > /etc/resolv.conf", check=True)
    engine.docker("network", "connect", "front", "edited", check=True)
    assert resolv_conf(engine, "edited") == ["nameserver 192.0.2.1"]


def test_the_hosts_servers_are_asked_as_they_are_now_and_from_where_they_are_reached(world: World) -> None:
    asker = world.container("--network", "front")
    before = world.resolv_conf.read_text()
    try:
        with NameServer(world.host) as stub:
            rename_servers(world, "nameserver 127.0.0.1\n")
            assert addresses(asker, "www.example.test") == ["203.0.113.7"]
            assert ([one.client for one in stub.asked], world.names.asked) == (["127.0.0.1"], [])
        rename_servers(world, f"nameserver {RESOLVER6}\n")
        assert addresses(asker, "www.example.test") == ["203.0.113.7"]
        assert [one.client for one in world.names.asked] == [HOST6_AT_RESOLVER]
    finally:
        rename_servers(world, before)


def rename_servers(world: World, text: str) -> None:
    """The host's file is looked at once a second."""
    world.resolv_conf.write_text(text)
    time.sleep(1.1)


def test_a_container_may_have_port_53_itself_and_be_its_own_server(world: World) -> None:
    asker = world.container("--network", "front", "--dns", "127.0.0.1", name="server")
    with NameServer(asker) as own:
        assert addresses(asker, "www.example.test") == ["203.0.113.7"]
        assert addresses(asker, "server") == [world.address("server", "front")]
        assert told(ask(asker, "www.example.test", server="127.0.0.1")) == ["203.0.113.7"]
        assert own.names() == ["www.example.test"] * 2
    assert world.names.asked == []


def test_names_are_answered_while_cortend_is_dead_and_by_the_same_resolver_after(
    world: World, engine: CortenEngine
) -> None:
    asker = world.container("--network", "front", name="asker")
    world.container("--network", "front", "--ip", "10.60.0.41", name="stays")
    world.container("--network", "front", "--ip", "10.60.0.42", name="ends")
    pid, ends = resolver.pid_of(str(engine.exec_root)), int(world.inspect("ends")["State"]["Pid"])
    engine.kill9()
    assert addresses(asker, "stays") == ["10.60.0.41"]
    assert addresses(asker, "www.example.test") == ["203.0.113.7"]
    os.kill(ends, signal.SIGKILL)
    engine.start()
    assert resolver.pid_of(str(engine.exec_root)) == pid
    assert addresses(asker, "stays") == ["10.60.0.41"]
    await_answer(asker, "ends", ["NXDOMAIN"])  # its shim may tell of the end after cortend has begun to answer
    late = world.container("--network", "front", "--ip", "10.60.0.43", name="late")
    assert (addresses(asker, "late"), addresses(late, "asker")) == (["10.60.0.43"], [world.address("asker", "front")])


def test_a_killed_resolver_is_followed_by_one_that_knows_everything(world: World, engine: CortenEngine) -> None:
    asker = world.container("--network", "front", name="asker")
    world.container("--network", "front", "--ip", "10.60.0.51", "--network-alias", "other", name="stays")
    pid = resolver.pid_of(str(engine.exec_root))
    resolver.kill(str(engine.exec_root))
    seconds = await_answer(asker, "other", ["10.60.0.51"])
    print(f"answered {seconds:.2f} s after the kill")
    assert resolver.pid_of(str(engine.exec_root)) not in (0, pid)
    assert told(ask(asker, "stays", by_tcp=True)) == ["10.60.0.51"]
    engine.kill9()
    resolver.kill(str(engine.exec_root))
    engine.start()
    await_answer(asker, "other", ["10.60.0.51"])
    late = world.container("--network", "front", name="late")
    assert addresses(late, "other") == ["10.60.0.51"]


def test_a_link_is_a_name_that_its_container_alone_has(world: World) -> None:
    world.container("--network", "front", "--ip", "10.60.0.61", name="database")
    linked = world.container("--network", "front", "--link", "database:db", name="linked")
    assert addresses(linked, "db") == ["10.60.0.61"]
    other = world.container("--network", "front", name="other")
    assert addresses(other, "db") == ["NXDOMAIN"]


def test_one_that_asks_without_end_does_not_keep_others_from_their_answers(world: World) -> None:
    asker = world.container("--network", "front", name="asker")
    greedy = world.container("--network", "front", name="greedy")
    question = dns.message.make_query("silent.example.test", "A").to_wire()
    with greedy.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as flood:
        flood.connect(("127.0.0.11", 53))
        for _ in range(3000):
            flood.send(question)
    assert addresses(asker, "greedy") == [world.address("greedy", "front")]
    assert addresses(asker, "www.example.test") == ["203.0.113.7"]


def test_a_resolver_that_answers_nobody_is_told_by_doctor_and_ended(world: World, engine: CortenEngine) -> None:
    world.container("--network", "front", name="brief")
    world.remove("brief")
    root = str(engine.exec_root)
    pid = resolver.pid_of(root)
    with process_of(pid) as pidfd:
        os.kill(pid, signal.SIGSTOP)  # else it ends by itself
        engine.kill9()
        told = doctor(engine)
        assert (told.returncode, told.stdout) == (1, f"process {pid}, the resolver of {root}: nobody asks it\n")
        assert doctor(engine, "--fix").returncode == 0
        assert select.select([pidfd], [], [], 60) == ([pidfd], [], [])
    assert resolver.pid_of(root) == 0
    engine.start()
    late = world.container("--network", "front", "--ip", "10.60.0.71", name="late")
    assert addresses(late, "late") == ["10.60.0.71"]


FLOOD = """
import socket, sys
wire, kind = bytes.fromhex(sys.argv[1]), sys.argv[2]
print("begun", flush=True)
while True:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.11", 53))
            for _ in range(1000):
                sock.send(wire if kind == "udp" else len(wire).to_bytes(2, "big") + wire)
    except OSError:
        pass
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("greedy", "udp"), ("silent.example.test", "udp"), ("greedy", "tcp")])
def test_beside_a_flood_that_does_not_end_every_question_is_answered(world: World, name: str, kind: str) -> None:
    asker = world.container("--network", "front", "--ip", "10.60.0.81", name="asker")
    greedy = world.container("--network", "front", name="greedy")
    wire = dns.message.make_query(name, "A").to_wire().hex()
    flood = greedy.spawn([sys.executable, "-c", FLOOD, wire, kind], stdout=subprocess.PIPE)
    try:
        assert flood.stdout is not None
        assert flood.stdout.readline() == b"begun\n"
        taken = []
        for number in range(300):
            began = time.monotonic()
            outside = number % 10 == 0
            expected = "203.0.113.7" if outside else "10.60.0.81"
            assert addresses(asker, "www.example.test" if outside else "asker") == [expected]
            taken.append(time.monotonic() - began)
        assert flood.poll() is None
    finally:
        flood.kill()
        flood.communicate()
    taken.sort()
    print(f"{kind} {name}: median {taken[150] * 1000:.1f} ms, p99 {taken[297] * 1000:.1f} ms")


@pytest.mark.slow
def test_a_resolver_that_hangs_is_followed_by_another(world: World, engine: CortenEngine) -> None:
    asker = world.container("--network", "front", name="asker")
    pid = resolver.pid_of(str(engine.exec_root))
    with process_of(pid) as pidfd:
        os.kill(pid, signal.SIGSTOP)
        late = world.container("--network", "front", name="late")  # after two times 10 s
        assert select.select([pidfd], [], [], 0) == ([pidfd], [], [])
    assert addresses(asker, "late") == [world.address("late", "front")]
    assert addresses(late, "asker") == [world.address("asker", "front")]


def test_with_cortend_and_the_last_container_gone_it_ends_by_itself(world: World, engine: CortenEngine) -> None:
    world.container("--network", "front", name="brief")
    world.remove("brief")
    with process_of(resolver.pid_of(str(engine.exec_root))) as pidfd:
        engine.kill9()
        assert select.select([pidfd], [], [], 60) == ([pidfd], [], [])
    engine.start()


def test_destroy_ends_it_while_containers_run_and_cortend_is_dead() -> None:
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        engine.docker("network", "create", "front", check=True)
        engine.docker("run", "-d", "--network", "front", images.BUSYBOX_REF, "sleep", "1000", check=True)
        with process_of(resolver.pid_of(str(engine.exec_root))) as pidfd:
            engine.kill9()
            subprocess.run(
                [*engine.netns.enter, *engine.argv, "--destroy"],
                check=True,
                capture_output=True,
                env=engine.environment,
            )
            assert select.select([pidfd], [], [], 0) == ([pidfd], [], [])


@contextmanager
def process_of(pid: int) -> Iterator[int]:
    """A descriptor that is readable once the process is dead."""
    assert pid
    pidfd = os.pidfd_open(pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def doctor(engine: CortenEngine, *more: str) -> subprocess.CompletedProcess[str]:
    argv = [*engine.netns.enter, *engine.argv, "--doctor", *more]
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60, env=engine.environment)
