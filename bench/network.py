"""Rows about networks: what one costs at a start, what goes through it, how fast names are answered.

All contenders by their own command line, in turns.  The cost of a network is the difference of two runs that follow
each other, with it and without.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import netengines
from harness import Budget, Once, Row, Sample, budgets, interleave, seconds, words
from netengines import (
    CONNECT_PORT,
    CONNECT_PUBLISHED,
    DOCKERDS,
    IMAGE,
    NETWORK,
    NO_PROXY,
    PEER,
    SERVER,
    STREAM_PORT,
    STREAM_PUBLISHED,
    Contender,
    Tools,
)

from support.neighbour import HOST

NETWORKS: Mapping[str, tuple[str, ...]] = {
    "none": ("--network", "none"),
    "bridge": ("--network", "bridge"),
    "a network of its own": ("--network", NETWORK),
    "a published port": ("--network", "bridge", "-p", "18080:80"),
}
COST_BUDGET = "1/5"
BEST_PATH = "0.97"
STREAM_S, CONNECT_S, RESOLVE_S = "1", "1", "1"
TRANSFER_ROUNDS = 10
QUERIES_AT_ONCE = (1, 16)
_MEGA = 8e6  # bits in a megabyte


def rows(folder: Path, rounds: int) -> list[Row]:
    """The rows of this file; the image is made in `folder`."""
    found = netengines.tools(folder)
    with netengines.lab(netengines.archive(folder, found)) as everyone:
        ordinary = [one for one in everyone if one.name != NO_PROXY]
        few = min(rounds, TRANSFER_ROUNDS)
        return [
            *start_rows(ordinary, rounds),
            *connect_rows(ordinary, rounds),
            *stream_rows(everyone, found, few),
            *connection_rows(everyone, found, few),
            *name_rows(ordinary, few),
        ]


def start_rows(engines: Sequence[Contender], rounds: int) -> list[Row]:
    """`run --rm … true` on each network, and what each costs beside none."""
    contenders: dict[str, Once] = {}
    texts: dict[str, dict[str, str]] = {network: {} for network in NETWORKS}
    for one in engines:
        for network, options in NETWORKS.items():
            args = ("run", "--rm", *options, IMAGE, "true")
            contenders[_key(one.name, network)] = _running(one, args)
            texts[network][one.name] = one.text(*args)
    samples = interleave(contenders, rounds, warm=2)
    by_network = {network: {one.name: samples[_key(one.name, network)] for one in engines} for network in NETWORKS}
    made = [Row(f"run --rm, {network}", "ms", by_network[network], (), texts[network]) for network in NETWORKS]
    for network in list(NETWORKS)[1:]:
        costs = {name: difference(of, by_network["none"][name]) for name, of in by_network[network].items()}
        limit = budgets(COST_BUDGET, *DOCKERDS)
        made.append(Row(f"  of it: {network} against none", "ms", costs, limit, texts[network]))
    return made


def _key(contender: str, network: str) -> str:
    return f"{contender}: {network}"


def _running(one: Contender, args: Sequence[str]) -> Once:
    def once() -> None:
        one.run(*args)

    return once


def difference(with_it: Sample, without: Sample) -> Sample:
    """Round by round."""
    return Sample(tuple(one - other for one, other in zip(with_it.values, without.values, strict=True)))


def connect_rows(engines: Sequence[Contender], rounds: int) -> list[Row]:
    """`network connect` of a running container, and `network disconnect`."""
    left: dict[str, list[float]] = {one.name: [] for one in engines}
    for one in engines:
        one.run("run", "-d", "--name", "guest", "--network", "bridge", IMAGE, "sleep", "100000")

    def once(one: Contender) -> Once:
        def call() -> float:
            times = [time.perf_counter()]
            for verb in ("connect", "disconnect"):
                one.run("network", verb, NETWORK, "guest")
                times.append(time.perf_counter())
            left[one.name].append((times[2] - times[1]) * 1000)
            return times[1] - times[0]

        return call

    samples = interleave({one.name: once(one) for one in engines}, rounds, warm=2)
    for one in engines:
        one.run("rm", "-f", "guest")
    after = {name: Sample(tuple(values[2:])) for name, values in left.items()}
    names = ("network connect", "network disconnect")
    texts = [{one.name: one.text(*name.split(), NETWORK, "guest") for one in engines} for name in names]
    return [Row(name, "ms", of, (), text) for name, of, text in zip(names, (samples, after), texts, strict=True)]


Measured = Callable[[Contender], float]


def _measured(
    name: str, unit: str, engines: Sequence[Contender], rounds: int, measure: Measured, text: str, limit: Sequence[str]
) -> Row:
    contenders: dict[str, Once] = {one.name: lambda one=one: measure(one) for one in engines}  # type: ignore[misc]
    samples = interleave(contenders, rounds, unit=seconds)
    budget = tuple(Budget(BEST_PATH, peer, least=True) for peer in limit)
    return Row(name, unit, samples, budget, {"": text})


def stream_rows(engines: Sequence[Contender], found: Tools, rounds: int) -> list[Row]:
    """One TCP stream of iperf3 to the published port from the client and from localhost, and between containers.

    Beside each what it takes of the processors, at both ends: other programs on the machine change that least.
    """
    argv = ("iperf3", "-J", "-t", STREAM_S, "-c")
    paths: dict[str, tuple[Callable[[Contender], str], str]] = {
        "stream from another host to a published port": (
            lambda one: found.run(one.client, *_streamed(found, HOST[4])),
            words([*argv, HOST[4], "-p", str(STREAM_PUBLISHED)]),
        ),
        "stream from localhost to a published port": (
            lambda one: found.run(one.host, *_streamed(found, "127.0.0.1")),
            words([*argv, "127.0.0.1", "-p", str(STREAM_PUBLISHED)]),
        ),
        "stream between containers": (
            lambda one: one.run("exec", PEER, *argv, SERVER, "-p", str(STREAM_PORT)),
            words(["exec", PEER, *argv, SERVER, "-p", str(STREAM_PORT)]),
        ),
    }
    return [row for name, (call, text) in paths.items() for row in _stream_rows(name, engines, rounds, call, text)]


def _stream_rows(
    name: str, engines: Sequence[Contender], rounds: int, call: Callable[[Contender], str], text: str
) -> list[Row]:
    costs: dict[str, list[float]] = {one.name: [] for one in engines}

    def measure(one: Contender) -> float:
        report = call(one)
        costs[one.name].append(stream_cost(report))
        return stream_rate(report)

    made = _measured(name, "MB/s", engines, rounds, measure, text, (*DOCKERDS, NO_PROXY))
    taken = {label: Sample(tuple(values[1:])) for label, values in costs.items()}
    return [made, Row("  beside it: CPU for each GB", "ms", taken, (), {"": f"{text}, cpu_utilization_percent"})]


def _streamed(found: Tools, address: str) -> tuple[str, ...]:
    return (str(found.iperf3), "-J", "-t", STREAM_S, "-c", address, "-p", str(STREAM_PUBLISHED))


def stream_rate(report: str) -> float:
    """MB/s in a report of iperf3 -J, as the receiver counted."""
    return float(json.loads(report)["end"]["sum_received"]["bits_per_second"]) / _MEGA


def stream_cost(report: str) -> float:
    """Milliseconds of processor for each GB in a report of iperf3 -J, of the two ends together (kernel included)."""
    end = json.loads(report)["end"]
    percent = end["cpu_utilization_percent"]["host_total"] + end["cpu_utilization_percent"]["remote_total"]
    received = end["sum_received"]
    return float(percent * received["seconds"] * 10 / (received["bytes"] / 1e9))


def connection_rows(engines: Sequence[Contender], found: Tools, rounds: int) -> list[Row]:
    """Connections a second, one after the other, a byte there and back in each."""
    netload, port = str(found.netload), str(CONNECT_PUBLISHED)
    paths: dict[str, tuple[Measured, str]] = {
        "connections from another host to a published port": (
            lambda one: connection_rate(found.run(one.client, netload, "connect", HOST[4], port, CONNECT_S)),
            f"netload connect {HOST[4]} {port} {CONNECT_S}",
        ),
        "connections from localhost to a published port": (
            lambda one: connection_rate(found.run(one.host, netload, "connect", "127.0.0.1", port, CONNECT_S)),
            f"netload connect 127.0.0.1 {port} {CONNECT_S}",
        ),
        "connections between containers": (
            lambda one: connection_rate(one.run("exec", PEER, *_connecting(one))),
            f"exec {PEER} netload connect ADDRESS-OF-{SERVER} {CONNECT_PORT} {CONNECT_S}",
        ),
    }
    limit = (*DOCKERDS, NO_PROXY)
    return [_measured(name, "/s", engines, rounds, call, text, limit) for name, (call, text) in paths.items()]


def _connecting(one: Contender) -> tuple[str, ...]:
    address = one.run("exec", SERVER, "hostname", "-i").split()[0]
    return ("netload", "connect", address, str(CONNECT_PORT), CONNECT_S)


def connection_rate(said: str) -> float:
    """Of what netload connect says; raises RuntimeError when one of the connections failed."""
    done, failed = map(int, said.split())
    if failed:
        raise RuntimeError(f"{failed} of {done + failed} connections failed")
    return done / float(CONNECT_S)


def name_rows(engines: Sequence[Contender], rounds: int) -> list[Row]:
    """A queries for SERVER, asked in PEER: how many a second, and the 99th percentile of how long one takes."""
    made: list[Row] = []
    for at_once in QUERIES_AT_ONCE:
        late: dict[str, list[float]] = {one.name: [] for one in engines}

        def measure(one: Contender, at_once: int = at_once, late: dict[str, list[float]] = late) -> float:
            argv = ("netload", "resolve", _resolver(one), SERVER, RESOLVE_S, str(at_once))
            rate, p99_us, lost = map(float, one.run("exec", PEER, *argv).split())
            if lost:
                raise RuntimeError(f"{one.name}: {lost:.0f} queries had no answer")
            late[one.name].append(p99_us / 1000)
            return rate

        name = f"queries of names, {at_once} at once"
        text = f"exec {PEER} netload resolve RESOLVER {SERVER} {RESOLVE_S} {at_once}"
        made.append(_measured(name, "/s", engines, rounds, measure, text, ()))
        percentiles = {label: Sample(tuple(values[1:])) for label, values in late.items()}
        made.append(Row("  beside it: 99th percentile", "ms", percentiles, (), {"": text}))
    return made


def _resolver(one: Contender) -> str:
    """The first name server of a container."""
    found = re.search(r"^nameserver (\S+)", one.run("exec", PEER, "cat", "/etc/resolv.conf"), re.M)
    if found is None:
        raise RuntimeError(f"{one.name}: no name server in {PEER}")
    return found.group(1)
