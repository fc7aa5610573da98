"""The engine's firewall beside other programs: what they flush is back at once, what they drop is let through or told.

Everything is in namespaces of the test's own.  The "other programs" are nft and iptables as they are.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from corten.daemon import firewallcheck
from corten.errors import FailedPrecondition
from corten.network import admission
from corten.network import watch as watching
from corten.network.bridge import BridgeDriver, Published
from corten.network.defaults import Defaults
from corten.network.host import Host
from corten.network.ports import parse_bindings
from corten.network.values import Network
from corten.network.watch import Watch
from corten.sys import rtnetlink
from support import summary
from support.netlab import MemoryJournal, MemoryStore, Node, TcpServer, UdpServer, ask_tcp, ask_udp, join

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

ENGINE = "0123abcd"
TABLE, BRIDGE = f"inet corten-{ENGINE}", f"ctn-{ENGINE}"
HOST, CLIENT, SERVER = "192.0.2.1", "192.0.2.9", "172.17.0.2"
HOST6, CLIENT6 = "2001:db8:1::1", "2001:db8:1::9"
PATIENCE_S = 60.0
LEGACY = ("iptables-legacy", "-w")  # one lock for the whole machine: others, and the watch, have it by turns


@dataclass
class Guarded:
    """A host with an engine's network, a client beside it, and one container with port 80 at the host's 8080."""

    host: Node
    client: Node
    server: Node
    engine_host: Host
    driver: BridgeDriver
    journal: MemoryJournal
    watch: Watch
    published: Published

    def nft(self, *commands: str) -> None:
        """Another program's change."""
        self.host.run(["nft", "; ".join(commands)])

    def listed(self) -> str:
        """The engine's table without what changes by itself."""
        return self.host.run(["nft", "-s", "list", "table", *TABLE.split()])

    def repairs(self, count: int) -> None:
        """Waits until the watch has put the table right so many times."""
        wait_until(lambda: self.watch.repaired.times >= count)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture(autouse=True)
def _looks_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK_EVERY_S", 0.02)


@pytest.fixture
def guarded() -> Iterator[Guarded]:
    with guarding() as made:
        yield made


@contextmanager
def guarding(
    *, prepare: Callable[[Node], None] = lambda host: None, respects: bool = False, is_direct: bool = False
) -> Iterator[Guarded]:
    with Node("host") as host, Node("client") as client, Node("server") as server:
        host.sysctl("ipv4/ip_forward", "0")
        join(host, "world", f"{HOST}/24", client, "eth0", f"{CLIENT}/24")
        prepare(host)
        engine_host, journal = host.call(Host), MemoryJournal()
        settings = Defaults(respects_host=respects, is_direct=is_direct)
        driver = BridgeDriver(ENGINE, store=MemoryStore(), journal=journal, host=engine_host, settings=settings)
        host.call(driver.ensure)
        watch = host.call(driver.watch)
        try:
            endpoint = host.call(lambda: driver.connect("server", server.netns_fd))
            bindings = parse_bindings([], {"80/tcp": [("", "8080")], "80/udp": [("", "8080")]})
            published = host.call(lambda: driver.publish(endpoint, "server", bindings))
            with published, TcpServer(server, 80), UdpServer(server, 80):
                yield Guarded(host, client, server, engine_host, driver, journal, watch, published)
        finally:
            driver.close()
            driver.settle()
            engine_host.close()


DAMAGES = {
    "everything is flushed": "flush ruleset",
    "the table is deleted": f"delete table {TABLE}",
    "the rules are flushed": f"flush table {TABLE}",
    "one chain is flushed": f"flush chain {TABLE} forward",
    "an accept goes before all": f"insert rule {TABLE} forward accept",
    "a set is emptied": f"flush set {TABLE} ours",
    "a port is taken away": f"flush map {TABLE} by_port",
    "an element is added": f'add element {TABLE} within {{ "a" . "b" }}',
    "the policy is turned": f"chain {TABLE} forward {{ policy drop; }}",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_somebody_changes_in_the_table_is_put_right_at_once(guarded: Guarded, damage: str) -> None:
    before = guarded.listed()
    assert "elements" in before
    guarded.nft(DAMAGES[damage])
    guarded.repairs(1)
    assert guarded.listed() == before
    assert ask_tcp(guarded.client, HOST, 8080) == CLIENT


def test_a_change_that_hides_behind_others_in_one_transaction_is_seen(guarded: Guarded) -> None:
    before = guarded.listed()
    guarded.nft("add table ip other", "add chain ip other x", f"flush chain {TABLE} guard", "add chain ip other y")
    guarded.repairs(1)
    assert guarded.listed() == before


def test_the_engines_own_changes_are_not_taken_for_anothers(guarded: Guarded) -> None:
    with Node("more") as more:
        for number in range(5):
            endpoint = guarded.host.call(lambda: guarded.driver.connect("more", more.netns_fd))
            bindings = parse_bindings([], {"80/tcp": [("", str(9000 + number))]})
            guarded.host.call(lambda e=endpoint, b=bindings: guarded.driver.publish(e, "more", b)).close()  # type: ignore[misc]
            guarded.driver.disconnect("more", lives_on=True)
    guarded.nft(f"flush chain {TABLE} forward")  # the watch is awake, and has heard all before
    guarded.repairs(1)
    assert guarded.watch.repaired.times == 1


def test_the_gap_after_a_flush_is_short(guarded: Guarded) -> None:
    """Measured by who looks from outside: from the flush to the first look at which the rules are there again."""
    gaps = []
    for number in range(1, 6):
        began = time.monotonic()
        guarded.nft("flush ruleset")
        guarded.repairs(number)
        gaps.append((time.monotonic() - began, guarded.watch.repaired.last_s))
    worst, repair = max(gap for gap, _ in gaps), max(last for _, last in gaps)
    words = f"at most {worst * 1000:.0f} ms from the start of nft, of which {repair * 1000:.0f} ms are the repair"
    summary.add("gap after a flush of the firewall", f"5 flushes: {words}")
    assert min(gaps)[0] < 1.0, "the best of five: the machine may be busy"


def test_a_flow_that_began_while_the_rules_were_gone_ends_with_their_return(guarded: Guarded) -> None:
    """A neighbour that routes to the bridge uses the gap; it would go on for ever if `established` were enough."""
    guarded.client.route("eth0", HOST)
    guarded.driver.close()  # nobody watches: the gap is as long as it takes
    guarded.nft("flush ruleset")
    asker = guarded.client.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with asker:
        asker.connect((SERVER, 80))
        asker.settimeout(PATIENCE_S)
        asker.send(b"?")
        assert asker.recv(100).decode() == CLIENT, "in the gap nothing stops it"
        guarded.host.call(guarded.driver.ensure)
        asker.settimeout(0.3)
        asker.send(b"?")
        with pytest.raises(TimeoutError):
            asker.recv(100)


def test_somebody_who_flushes_again_and_again_does_not_win(guarded: Guarded) -> None:
    ended = threading.Event()

    def flush() -> None:
        while not ended.is_set():
            guarded.nft(f"flush chain {TABLE} forward")
            time.sleep(0.01)

    fighter = threading.Thread(target=flush)
    fighter.start()
    try:
        guarded.repairs(8)
    finally:
        ended.set()
        fighter.join()
    wait_until(lambda: "direction reply" in guarded.listed())
    assert ask_tcp(guarded.client, HOST, 8080) == CLIENT


# --- the chains of others


def iptables_drops(host: Node) -> None:
    """What an administrator does, and ufw."""
    host.run(["iptables", "-P", "FORWARD", "DROP"])


def iptables_rejects(host: Node) -> None:
    """As Red Hat's default rules end, whose policy accepts."""
    host.run(["iptables", "-A", "FORWARD", "-j", "REJECT", "--reject-with", "icmp-host-prohibited"])


def docker_drops(host: Node) -> None:
    """What dockerd leaves: its bridge, its chain for others, a policy of drop."""
    host.links.send(rtnetlink.new_bridge("docker0", "02:00:00:00:00:01"), rtnetlink.set_up("docker0"))
    for argv in ("-N DOCKER-USER", "-A DOCKER-USER -j RETURN", "-I FORWARD -j DOCKER-USER", "-P FORWARD DROP"):
        host.run(["iptables", *argv.split()])


def legacy_drops(host: Node) -> None:
    """The same in the tables that nft does not show."""
    host.run([*LEGACY, "-P", "FORWARD", "DROP"])


def legacy_rejects(host: Node) -> None:
    comment = ("-m", "comment", "--comment", "the rest")
    host.run(["iptables-legacy", "-A", "FORWARD", *comment, "-j", "REJECT", "--reject-with", "icmp-host-prohibited"])


def legacy_docker_drops(host: Node) -> None:
    for argv in ("-N DOCKER-USER", "-A DOCKER-USER -j RETURN", "-I FORWARD -j DOCKER-USER", "-P FORWARD DROP"):
        host.run([*LEGACY, *argv.split()])


def wall_drops(host: Node) -> None:
    """A table of the administrator's own."""
    host.run(
        ["nft", "add table inet wall; add chain inet wall fw { type filter hook forward priority 0; policy drop; }"]
    )


def rejecting(host: Node) -> None:
    """A chain that ends as firewalld's do."""
    host.run(["nft", "add table inet fire; add chain inet fire fw { type filter hook forward priority 10; }"])
    host.run(["nft", "add rule inet fire fw ct state established accept; add rule inet fire fw counter reject"])


def reaches_all(guarded: Guarded) -> None:
    with TcpServer(guarded.client, 99):
        assert ask_tcp(guarded.server, CLIENT, 99) == HOST
    assert ask_tcp(guarded.client, HOST, 8080) == CLIENT
    assert ask_udp(guarded.client, HOST, 8080) == CLIENT


@pytest.mark.parametrize(
    ("prepare", "chain"),
    [(iptables_drops, "FORWARD"), (iptables_rejects, "FORWARD"), (docker_drops, "DOCKER-USER")],
)
def test_where_iptables_drops_an_accept_is_put_and_taken_out_again(prepare: Callable[[Node], None], chain: str) -> None:
    states: list[str] = []

    def prepared(host: Node) -> None:
        prepare(host)
        states.append(host.run(["iptables", "-S"]))

    with guarding(prepare=prepared) as guarded:
        reaches_all(guarded)
        said = guarded.host.run(["iptables", "-S", chain])
        assert f"-A {chain} -i {BRIDGE} -m comment --comment corten-{ENGINE} -j ACCEPT" in said
        assert [one.name for one in guarded.journal.entries("nft-rule")] == [f"ip filter {chain}"]
        guarded.driver.close()
        guarded.host.call(guarded.driver.destroy)
        assert guarded.host.run(["iptables", "-S"]) == states[0]
        assert guarded.journal.entries() == []


@pytest.mark.parametrize(
    ("prepare", "chain"),
    [(legacy_drops, "FORWARD"), (legacy_rejects, "FORWARD"), (legacy_docker_drops, "DOCKER-USER")],
)
def test_where_legacy_iptables_drops_it_is_the_same(prepare: Callable[[Node], None], chain: str) -> None:
    states: list[str] = []

    def prepared(host: Node) -> None:
        prepare(host)
        states.append(host.run([*LEGACY, "-S"]))

    with guarding(prepare=prepared) as guarded:
        reaches_all(guarded)
        guarded.host.call(guarded.driver.ensure)
        ways = [f"-A {chain} {end} {BRIDGE} -m comment --comment corten-{ENGINE} -j ACCEPT" for end in ("-i", "-o")]
        said = guarded.host.run([*LEGACY, "-S", chain]).splitlines()
        assert [line for line in said if ENGINE in line] == ways
        assert [one.name for one in guarded.journal.entries("nft-rule")] == [f"iptables-legacy {chain}"]
        guarded.driver.close()
        guarded.host.call(guarded.driver.destroy)
        assert guarded.host.run([*LEGACY, "-S"]) == states[0]
        assert guarded.journal.entries() == []


@pytest.mark.parametrize("prepare", [iptables_drops, legacy_drops])
def test_two_engines_beside_a_drop_come_to_rest(prepare: Callable[[Node], None]) -> None:
    """Each has its rules at the head, and hears of what the other does."""
    with guarding(prepare=prepare, respects=True) as guarded:
        second_host = guarded.host.call(Host)
        settings = Defaults(respects_host=True)
        second = BridgeDriver(
            "89abcdef", store=MemoryStore(), journal=MemoryJournal(), host=second_host, settings=settings
        )
        guarded.host.call(second.ensure)
        guarded.host.call(second.watch)
        with TcpServer(guarded.client, 99):
            assert ask_tcp(guarded.server, CLIENT, 99) == HOST
        wait_until(lambda: handles(guarded) == handles(guarded, after_s=0.3))
        second.close()
        guarded.host.call(second.destroy)
        second_host.close()


def handles(guarded: Guarded, after_s: float = 0.0) -> str:
    """Every rule with its number, which a rule that comes again has not."""
    time.sleep(after_s)
    return guarded.host.run(["nft", "-a", "list", "ruleset"]) + guarded.host.run([*LEGACY, "-S"])


def test_what_goes_to_dockers_bridge_is_left_to_docker() -> None:
    with guarding(prepare=docker_drops) as guarded, Node("docker") as docker:
        bridge = guarded.host.links.link("docker0")
        assert bridge is not None
        guarded.host.links.send(
            rtnetlink.new_veth("port", "eth0", "02:00:00:00:02:01", docker.netns_fd),
            rtnetlink.set_up("port", bridge.index),
        )
        guarded.host.address("docker0", "198.51.100.1/24")
        docker.address("eth0", "198.51.100.2/24")
        docker.route("eth0", "198.51.100.1")
        with TcpServer(docker, 80):
            assert ask_tcp(guarded.server, "198.51.100.2", 80, timeout=0.3) == "silence"
            assert ask_tcp(guarded.host, "198.51.100.2", 80) == "198.51.100.1"


def test_a_policy_that_is_turned_while_the_engine_runs_is_seen(guarded: Guarded) -> None:
    iptables_drops(guarded.host)
    wait_until(lambda: BRIDGE in guarded.host.run(["iptables", "-S", "FORWARD"]))
    reaches_all(guarded)
    guarded.host.run(["iptables", "-F", "FORWARD"])
    wait_until(lambda: BRIDGE in guarded.host.run(["iptables", "-S", "FORWARD"]))
    guarded.host.run(["iptables", "-P", "FORWARD", "ACCEPT"])
    wait_until(lambda: BRIDGE not in guarded.host.run(["iptables", "-S", "FORWARD"]))
    wait_until(lambda: guarded.journal.entries("nft-rule") == [])  # ended after the rule went


@pytest.mark.parametrize(("prepare", "chain"), [(wall_drops, "inet wall fw"), (rejecting, "inet fire fw")])
def test_where_nothing_is_meant_for_others_the_chain_is_named(prepare: Callable[[Node], None], chain: str) -> None:
    named = f"network bridge: chain {chain} of the host's firewall drops"
    with pytest.raises(FailedPrecondition, match=named), guarding(prepare=prepare):
        pass


def test_a_chain_that_names_the_bridges_is_believed() -> None:
    def prepare(host: Node) -> None:
        wall_drops(host)
        for end in ("iifname", "oifname"):
            host.run(["nft", f'add rule inet wall fw {end} "ctn-*" accept'])

    with guarding(prepare=prepare) as guarded:
        reaches_all(guarded)


# --- host-firewall: respect


def input_drops(host: Node) -> None:
    """A host that lets nobody in but by one port, as ufw does."""
    host.run(["iptables", "-P", "INPUT", "DROP"])
    host.run(["iptables", "-A", "INPUT", "-m", "state", "--state", "ESTABLISHED", "-j", "ACCEPT"])


def test_without_respect_a_published_port_is_open_whatever_the_input_chains_say() -> None:
    with guarding(prepare=input_drops) as guarded:
        assert ask_tcp(guarded.client, HOST, 8080) == CLIENT


def test_with_respect_the_input_chains_decide_who_reaches_a_published_port() -> None:
    with guarding(prepare=input_drops, respects=True) as guarded:
        assert ask_tcp(guarded.client, HOST, 8080, timeout=0.3) == "silence"
        assert ask_tcp(guarded.host, HOST, 8080) == HOST, "the host itself is not asked"
        assert ask_tcp(guarded.server, HOST, 8080) == "172.17.0.1", "nor is a container"
        guarded.host.run(["iptables", "-A", "INPUT", "-p", "tcp", "--dport", "8080", "-j", "ACCEPT"])
        assert ask_tcp(guarded.client, HOST, 8080) == CLIENT, "its own address, and the second packet comes through"
        assert ask_udp(guarded.client, HOST, 8080, timeout=0.3) == "silence", "udp was not let in"
        guarded.host.run(["iptables", "-A", "INPUT", "-p", "udp", "--dport", "8080", "-j", "ACCEPT"])
        wait_until(lambda: ask_udp(guarded.client, HOST, 8080, timeout=0.2) == CLIENT)


def test_with_respect_a_client_is_asked_for_again_when_the_hosts_rules_change() -> None:
    with guarding(respects=True) as guarded:
        assert ask_tcp(guarded.client, HOST, 8080) == CLIENT
        guarded.host.run(["iptables", "-A", "INPUT", "-p", "tcp", "--dport", "8080", "-j", "REJECT"])
        wait_until(lambda: ask_tcp(guarded.client, HOST, 8080) == "refused")
        guarded.host.run(["iptables", "-F", "INPUT"])
        with TcpServer(guarded.host, 99):
            assert ask_tcp(guarded.client, HOST, 99) == CLIENT, "what the host listens on itself is not delayed"


def input6_drops(host: Node) -> None:
    """As `input_drops`, by IPv6, where neighbours are to find each other."""
    host.run(["ip6tables", "-P", "INPUT", "DROP"])
    host.run(["ip6tables", "-A", "INPUT", "-p", "ipv6-icmp", "-j", "ACCEPT"])
    host.run(["ip6tables", "-A", "INPUT", "-m", "state", "--state", "ESTABLISHED", "-j", "ACCEPT"])


@contextmanager
def reached_by_ipv6(guarded: Guarded) -> Iterator[Node]:
    """A container of a second network, with port 80 at the host's 8086."""
    guarded.host.address("world", f"{HOST6}/64")
    guarded.client.address("eth0", f"{CLIENT6}/64")
    wide = Network(network_id="6" * 64, name="wide", driver="bridge", created="2026-01-01T00:00:00Z", has_ipv6=True)
    with Node("six") as six:
        guarded.host.call(lambda: guarded.driver.create(wide))
        endpoint = guarded.host.call(lambda: guarded.driver.connect("six", six.netns_fd, network_id=wide.network_id))
        bindings = parse_bindings([], {"80/tcp": [("", "8086")], "80/udp": [("", "8086")]})
        published = guarded.host.call(lambda: guarded.driver.publish(endpoint, "six", bindings))
        with published, TcpServer(six, 80, "::"), UdpServer(six, 80, address="::"):
            yield six


def test_with_respect_the_input_chains_decide_by_ipv6_too() -> None:
    with guarding(prepare=input6_drops, respects=True) as guarded, reached_by_ipv6(guarded) as six:
        assert ask_tcp(guarded.client, HOST6, 8086, timeout=0.3) == "silence"
        assert ask_udp(guarded.client, HOST6, 8086, timeout=0.3) == "silence"
        assert ask_tcp(guarded.host, HOST6, 8086) == HOST6, "the host itself is not asked"
        assert ask_tcp(six, HOST6, 8086) not in ("silence", "refused"), "nor is a container"
        guarded.host.run(["ip6tables", "-A", "INPUT", "-p", "tcp", "--dport", "8086", "-j", "ACCEPT"])
        assert ask_tcp(guarded.client, HOST6, 8086) == CLIENT6
        assert ask_udp(guarded.client, HOST6, 8086, timeout=0.3) == "silence", "udp was not let in"
        guarded.host.run(["ip6tables", "-A", "INPUT", "-p", "udp", "--dport", "8086", "-j", "ACCEPT"])
        wait_until(lambda: ask_udp(guarded.client, HOST6, 8086, timeout=0.2) == CLIENT6)


def test_with_respect_a_client_for_whom_there_is_no_room_is_kept_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a flood of forged senders comes to: nobody is let past the input chains, and nobody is sent away."""
    small = {name: text.replace(f"size {admission.MOST}", "size 1") for name, text in admission.SETS.items()}
    monkeypatch.setattr(admission, "SETS", small)
    with guarding(respects=True) as guarded:
        wait_until(lambda: ask_udp(guarded.client, HOST, 8080, timeout=0.2) == CLIENT)
        assert ask_tcp(guarded.client, HOST, 8080, timeout=0.3) == "silence"
        guarded.nft(f"flush set {TABLE} admitted4")
        assert ask_tcp(guarded.client, HOST, 8080) == CLIENT


# --- what the doctor says of the table


@pytest.mark.parametrize(("respects", "is_direct"), [(True, False), (False, True)])
def test_the_doctor_has_nothing_to_tell_of_a_table_that_is_as_it_should_be(respects: bool, is_direct: bool) -> None:
    with guarding(respects=respects, is_direct=is_direct) as guarded:
        networks = guarded.driver.networks()
        look = lambda: firewallcheck.differences(ENGINE, networks, guarded.driver.settings)  # noqa: E731
        assert guarded.host.call(look) == []
        guarded.driver.close()
        guarded.nft(f"flush chain {TABLE} guard")
        assert guarded.host.call(look) == [f"nftables table corten-{ENGINE}: chain guard is not as it should be"]


def test_the_doctor_does_not_miss_the_bridge_that_daemon_json_wants_not() -> None:
    with Node("host") as host:
        engine_host, store, journal = host.call(Host), MemoryStore(), MemoryJournal()
        for settings in (Defaults(), Defaults(device="none")):
            driver = BridgeDriver(ENGINE, store=store, journal=journal, host=engine_host, settings=settings)
            host.call(driver.ensure)
            found = host.call(lambda s=settings: firewallcheck.differences(ENGINE, store.networks(), s))  # type: ignore[misc]
            assert found == []
        engine_host.close()


def test_an_engine_that_respects_no_more_leaves_nothing_of_it_in_the_table() -> None:
    with guarding(respects=True) as guarded:
        assert "chain input" in guarded.listed()
        guarded.driver.close()
        plain = BridgeDriver(ENGINE, store=MemoryStore(), journal=MemoryJournal(), host=guarded.engine_host)
        guarded.host.call(plain.ensure)
        assert "chain input" not in guarded.listed()
