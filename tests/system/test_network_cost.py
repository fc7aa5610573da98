"""What a connection and a published port cost, with records and journal in a real database (design.md §7: 3 ms)."""

from __future__ import annotations

import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from corten.core.journal import Journal
from corten.core.metadata import Database
from corten.network.bridge import BridgeDriver
from corten.network.host import Host
from corten.network.ports import parse_bindings
from corten.network.store import DatabaseStore
from support import summary
from support.netlab import Node

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

BUDGET_MS = 3.0
ROUNDS = 40


def one_start(driver: BridgeDriver) -> tuple[float, float, float]:
    """Milliseconds of connect, publish and disconnect."""
    bindings = parse_bindings([], {"80/tcp": [("", "8080")], "53/udp": [("", "53")]})
    with Node("one") as one:
        times = [time.perf_counter_ns()]
        endpoint = driver.connect("one", one.netns_fd)
        times.append(time.perf_counter_ns())
        published = driver.publish(endpoint, "one", bindings)
        times.append(time.perf_counter_ns())
        published.close()
        begin = time.perf_counter_ns()
        driver.disconnect("one")
        gone = time.perf_counter_ns() - begin
    return (times[1] - times[0]) / 1e6, (times[2] - times[1]) / 1e6, gone / 1e6


def test_connect_and_publish_stay_within_the_budget(tmp_path: Path) -> None:
    """The minimum is held against the budget, since other programs run beside a test; the median is printed."""
    database = Database(str(tmp_path / "engine.db"))
    connects, publishes, sums, disconnects = [], [], [], []
    with Node("host") as host:
        engine_host = host.call(Host)
        driver = host.call(
            lambda: BridgeDriver("0123abcd", store=DatabaseStore(database), journal=Journal(database), host=engine_host)
        )
        host.call(driver.ensure)
        for _ in range(ROUNDS):
            times = host.call(lambda: one_start(driver))
            connects.append(times[0])
            publishes.append(times[1])
            disconnects.append(times[2])
            sums.append(times[0] + times[1])
        assert driver.settle()
        engine_host.close()
    database.close()
    for name, values in (("connect", connects), ("publish", publishes), ("sum", sums), ("disconnect", disconnects)):
        summary.add("network cost, ms", f"{name:10} min {min(values):.2f}  median {statistics.median(values):.2f}")
    assert min(sums) <= BUDGET_MS


def test_eight_threads_connect_a_hundred_containers_to_different_addresses(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "engine.db"))
    with Node("host") as host:
        engine_host = host.call(Host)
        driver = host.call(
            lambda: BridgeDriver("0123abcd", store=DatabaseStore(database), journal=Journal(database), host=engine_host)
        )
        host.call(driver.ensure)
        containers = [Node(f"c{number}") for number in range(100)]
        with ThreadPoolExecutor(8) as pool:
            began = time.perf_counter()
            endpoints = list(pool.map(lambda node: driver.connect(node.name, node.netns_fd), containers))
            took = time.perf_counter() - began
        assert len({one.ip for one in endpoints}) == len({one.link for one in endpoints}) == 100
        summary.add("network cost, ms", f"100 containers by 8 threads: {took * 10:.2f} each")
        assert driver.leftovers() == []
        host.call(driver.destroy)
        for node in containers:
            node.close()
        engine_host.close()
    database.close()
