"""The network after kill -9 at every point, after somebody's flush, and after --destroy."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.core.journal import Journal
from corten.core.metadata import Database
from corten.errors import Internal
from corten.network.bridge import BridgeDriver
from corten.network.host import Host
from corten.network.ports import parse_bindings
from corten.network.store import DatabaseStore
from corten.sys import rtnetlink
from support import killpoints, paths, summary
from support.netkill import BETWEEN, ENGINE
from support.netlab import Node, TcpServer, UdpServer, ask_tcp, ask_udp, join

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

GATE_SAMPLE = 14
HOST, CLIENT, BRIDGE = "192.0.2.1", "192.0.2.9", f"ctn-{ENGINE}"
WEB = {"80/tcp": [("", "8080")], "53/udp": [("", "53")]}


def netns(node: Node) -> str:
    return f"/proc/{os.getpid()}/fd/{node.netns_fd}"


def victim(host: Node, database: Path, point: int, one: Node, two: Node) -> subprocess.CompletedProcess[bytes]:
    """Runs support.netkill in the host's namespace."""
    code = (
        f"import sys; sys.path[:0] = {[str(paths.REPOSITORY / part) for part in ('src', 'tests')]}; "
        "from support.netkill import main; main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])"
    )
    argv = [sys.executable, "-c", code, str(database), str(point), netns(one), netns(two)]
    process = host.spawn(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(argv, process.returncode, output, errors)


class Engine:
    """The network of an engine in a host node, as a new process would make it."""

    def __init__(self, host: Node, database: Path) -> None:
        self.database = Database(str(database))
        self.store = DatabaseStore(self.database)
        self.journal = Journal(self.database)
        self.host = host.call(Host)
        self.driver = host.call(lambda: BridgeDriver(ENGINE, store=self.store, journal=self.journal, host=self.host))

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.settle()
        self.host.close()
        self.database.close()


def ours(host: Node) -> set[str]:
    """Every device and table of the engine in a namespace."""
    devices = {link.name for link in host.links.links() if link.name.startswith(("ct0123", "ctn-", "br-"))}
    tables = json.loads(host.run(["nft", "-j", "list", "tables"]))["nftables"]
    return devices | {one["table"]["name"] for one in tables if "table" in one}


def point_names(tmp_path: Path) -> list[str]:
    with Node("host") as host, Node("one") as one, Node("two") as two:
        lived = victim(host, tmp_path / "count.db", 0, one, two)
        assert lived.returncode == 0, lived.stderr.decode()
        return lived.stdout.decode().splitlines()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("most", [GATE_SAMPLE, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_kill_at_any_point_leaves_nothing_that_restore_does_not_settle(tmp_path: Path, most: int) -> None:
    lines = point_names(tmp_path)
    between = lines.index(BETWEEN)
    points = lines[:between] + lines[between + 1 :]
    hit = 0
    for point, name in killpoints.sample(list(enumerate(points, 1)), most):
        for alive in ((), ("second",)) if point > between else ((),):
            survive(tmp_path / f"{point}-{len(alive)}.db", point, name, alive)
            hit += 1
    summary.add("network kill points", f"{len(points)} points hit, {hit} kills (those of the second container twice)")


def survive(database: Path, point: int, name: str, alive: tuple[str, ...]) -> None:
    """Kills at one point, restores twice, then uses and destroys the network."""
    with Node("host") as host, Node("one") as one, Node("two") as two, Node("next") as late:
        died = victim(host, database, point, one, two)
        assert died.returncode == -signal.SIGKILL, f"{name}: {died.stderr.decode()}"
        with Engine(host, database) as engine:
            host.call(lambda: engine.driver.restore(alive))
            assert host.call(lambda: engine.driver.restore(alive)) == [], name
            known = {one.link for one in engine.store.endpoints()}
            assert {one.container_id for one in engine.store.endpoints()} <= set(alive), name
            bridges = {engine.driver.bridge(one.network_id).name for one in engine.store.networks()}
            assert bridges | {f"corten-{ENGINE}"} <= ours(host) <= bridges | {f"corten-{ENGINE}", *known}, name
            assert engine.driver.leftovers() == [], name
            announced = {one.name for one in engine.journal.entries() if one.kind == "link"}
            assert announced == bridges | known, name
            works(engine, host, late)
            host.call(engine.driver.destroy)
            host.call(engine.driver.destroy)
            assert ours(host) == set(), name
            assert engine.store.endpoints() == [], name
            assert engine.journal.entries() == [], name


def works(engine: Engine, host: Node, late: Node) -> None:
    """A new container gets an address and a port that answers."""
    endpoint = host.call(lambda: engine.driver.connect("next", late.netns_fd))
    published = host.call(lambda: engine.driver.publish(endpoint, "next", parse_bindings([], {"80/tcp": [("", "")]})))
    with published, TcpServer(late, 80):
        port = published.endpoint.publications[0].host_port
        assert ask_tcp(host, "127.0.0.1", port) == "172.17.0.1"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[Node, Node, Node, Engine]]:
    """host, client, a container with WEB published, its engine."""
    with Node("host") as host, Node("client") as client, Node("one") as one:
        join(host, "world", f"{HOST}/24", client, "eth0", f"{CLIENT}/24")
        with Engine(host, tmp_path / "engine.db") as engine:
            host.call(engine.driver.ensure)
            endpoint = host.call(lambda: engine.driver.connect("one", one.netns_fd))
            with host.call(lambda: engine.driver.publish(endpoint, "one", parse_bindings([], WEB))):
                yield host, client, one, engine


def test_ports_work_while_no_daemon_runs_and_after_it_came_back(
    world: tuple[Node, Node, Node, Engine], tmp_path: Path
) -> None:
    host, client, one, engine = world
    with TcpServer(one, 80), UdpServer(one, 53):
        assert ask_tcp(client, HOST, 8080) == CLIENT
        with Engine(host, tmp_path / "engine.db") as again:
            assert host.call(lambda: again.driver.restore({"one"})) == []
            assert (ask_tcp(client, HOST, 8080), ask_udp(client, HOST, 53)) == (CLIENT, CLIENT)
            assert again.driver.endpoint("one") == engine.driver.endpoint("one")


def test_after_somebody_flushed_everything_restore_brings_it_back(world: tuple[Node, Node, Node, Engine]) -> None:
    host, client, one, engine = world
    with TcpServer(one, 80), UdpServer(one, 53):
        host.run(["nft", "flush", "ruleset"])
        assert ask_tcp(client, HOST, 8080) == "refused"
        host.call(lambda: engine.driver.restore({"one"}))
        assert (ask_tcp(client, HOST, 8080), ask_udp(client, HOST, 53)) == (CLIENT, CLIENT)


def test_after_somebody_deleted_the_bridge_restore_puts_the_links_back(world: tuple[Node, Node, Node, Engine]) -> None:
    host, client, one, engine = world
    with TcpServer(one, 80):
        host.links.send(rtnetlink.delete_link(BRIDGE))
        assert ask_tcp(client, HOST, 8080, timeout=0.3) != CLIENT
        host.call(lambda: engine.driver.restore({"one"}))
        assert ask_tcp(client, HOST, 8080, timeout=60) == CLIENT
        assert ask_tcp(one, HOST, 8080) == "172.17.0.1", "hairpin is on again"


def test_connect_makes_a_bridge_again_that_somebody_deleted(world: tuple[Node, Node, Node, Engine]) -> None:
    host, _, _, engine = world
    host.links.send(rtnetlink.delete_link(BRIDGE))
    with Node("two") as two:
        host.call(lambda: engine.driver.connect("two", two.netns_fd))
        with TcpServer(two, 80):
            assert ask_tcp(host, "172.17.0.3", 80) == "172.17.0.1"


def test_publish_makes_a_table_again_that_somebody_deleted(world: tuple[Node, Node, Node, Engine]) -> None:
    host, client, one, engine = world
    host.run(["nft", "flush", "ruleset"])
    with Node("two") as two:
        endpoint = host.call(lambda: engine.driver.connect("two", two.netns_fd))
        with (
            host.call(lambda: engine.driver.publish(endpoint, "two", parse_bindings([], {"80/tcp": [("", "8090")]}))),
            TcpServer(one, 80),
            TcpServer(two, 80),
        ):
            assert (ask_tcp(client, HOST, 8080), ask_tcp(client, HOST, 8090)) == (CLIENT, CLIENT)


def test_a_port_that_cannot_be_opened_leaves_no_trace(world: tuple[Node, Node, Node, Engine]) -> None:
    host, _, _, engine = world
    host.run(["nft", f"add element inet corten-{ENGINE} by_port {{ tcp . 8090 : 172.17.0.9 . 99 }}"])
    with Node("two") as two:
        endpoint = host.call(lambda: engine.driver.connect("two", two.netns_fd))
        before = engine.journal.entries()
        with pytest.raises(Internal, match="File exists"):
            host.call(lambda: engine.driver.publish(endpoint, "two", parse_bindings([], {"80/tcp": [("", "8090")]})))
        assert engine.driver.endpoint("two") == endpoint
        assert engine.journal.entries() == before
        with host.call(lambda: socket.create_server(("", 8090))):
            pass


def test_what_no_record_names_is_found_and_removed(world: tuple[Node, Node, Node, Engine]) -> None:
    host, _, _, engine = world
    with Node("lost") as lost:
        host.links.send(rtnetlink.new_veth("ct0123deadbeef", "eth0", "02:00:00:00:00:01", lost.netns_fd))
        host.links.send(rtnetlink.new_veth("other", "eth1", "02:00:00:00:00:02", lost.netns_fd))
        host.links.send(rtnetlink.set_alias("other", f"corten-{ENGINE} somebody"))
        host.links.send(rtnetlink.new_veth("ct0123cafecafe", "eth2", "02:00:00:00:00:03", lost.netns_fd))
        host.links.send(rtnetlink.set_alias("ct0123cafecafe", "corten-01230000 of another engine"))
        host.run(["nft", f"add element inet corten-{ENGINE} by_port {{ tcp . 99 : 172.17.0.9 . 99 }}"])
        found = {one.name for one in engine.driver.leftovers()}
        assert found == {"ct0123deadbeef", "other", "by_port tcp . 99 : 172.17.0.9 . 99"}
        host.call(lambda: engine.driver.restore({"one"}))
        assert engine.driver.leftovers() == []
        assert host.links.link("ct0123cafecafe") is not None


def test_restore_forgets_the_containers_that_are_gone(world: tuple[Node, Node, Node, Engine]) -> None:
    host, client, one, engine = world
    host.call(lambda: engine.driver.restore(()))
    assert engine.store.endpoints() == []
    assert [one.name for one in engine.journal.entries()] == [BRIDGE]
    with TcpServer(one, 80):
        assert ask_tcp(client, HOST, 8080) == "refused"


def test_restoring_without_a_pause_loses_no_connection(world: tuple[Node, Node, Node, Engine]) -> None:
    host, client, one, engine = world
    answers: dict[str, int] = {}
    with TcpServer(one, 80), UdpServer(one, 53):
        for _ in range(300):
            pending = host.call_later(lambda: engine.driver.restore({"one"}))
            for answer in (ask_tcp(client, HOST, 8080), ask_udp(client, HOST, 53)):
                answers[answer] = answers.get(answer, 0) + 1
            pending.result()
    assert answers == {CLIENT: 600}


def test_a_subnet_is_kept_while_a_container_has_an_address_in_it(world: tuple[Node, Node, Node, Engine]) -> None:
    host, _, _, engine = world
    host.run(["ip", "route", "add", "172.17.8.0/24", "via", CLIENT])
    host.call(lambda: engine.driver.restore({"one"}))
    assert str(engine.driver.bridge().addresses[0]) == "172.17.0.1/16"
    host.call(lambda: engine.driver.restore(()))
    assert str(engine.driver.bridge().addresses[0]) == "172.18.0.1/16", "nobody would miss it: the route goes first"
    assert "172.18.0.1/16" in [str(one.interface) for one in host.links.addresses()]
    assert "172.17.0.1/16" not in [str(one.interface) for one in host.links.addresses()]
