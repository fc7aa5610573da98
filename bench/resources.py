"""Rows about memory, idle CPU, logs and streams."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from pathlib import Path

from api import KeptConnection
from engines import IMAGE, Engines
from harness import REST_S, Budget, Once, Row, Sample, budgets, interleave, rate, words

from support import peers
from support.dockerd import DockerClient, client_environment

ROUNDS = 3
PEER_MEMORY_ROUNDS = 2  # dockerd needs half a minute for each
IDLE_S = 10
TICKS = os.sysconf("SC_CLK_TCK")
LOG_MB = 40
LINES = LOG_MB * 10_000
_LINE = "x" * 99
SHIM = b"corten-shim moby/"


def rows(engines: Engines, count: int) -> list[Row]:
    """The rows of this file; `count` containers for the memory rows."""
    return [*memory_rows(engines, count), *log_rows(engines), attach_row(engines)]


def memory_rows(engines: Engines, count: int) -> list[Row]:
    """Memory of the idle engines and for each container, and CPU while all are idle, every turn with new containers.

    The peers are left out of the last turn.
    """
    idle: dict[str, list[float]] = {label: [] for label in engines}
    each: dict[str, list[float]] = {label: [] for label in engines}
    cpu: dict[str, list[float]] = {label: [] for label in engines}
    _memory_turn(engines, 2)  # the warm round
    ours = {"corten": engines["corten"]}
    for turn in range(ROUNDS):
        taking_part = engines if turn < PEER_MEMORY_ROUNDS else ours
        for label, (before, after, spent) in _memory_turn(taking_part, count, IDLE_S).items():
            idle[label].append(before)
            each[label].append((after - before) / count)
            cpu[label].append(spent)

    def row(name: str, unit: str, taken: dict[str, list[float]], budget: tuple[Budget, ...], text: str) -> Row:
        samples = {label: Sample(tuple(values)) for label, values in taken.items()}
        return Row(name, unit, samples, budget, {"": text})

    pss = "sum of Pss in /proc/PID/smaps_rollup over the engine's processes"
    more = f"the same with {count} × POST /containers/create, start of sleep 10000, network none, "
    more += f"{REST_S} s after the last start; less the idle engine"
    ticks = (
        f"utime + stime of /proc/PID/stat over the same processes, of all engines that take part in the same {IDLE_S} s"
    )
    return [
        row("PSS of the idle engine", "MB", idle, budgets("80"), pss),
        row(f"PSS per container at {count}, without the workload", "MB", each, budgets("1"), more),
        row(f"CPU with {count} idle containers", "% of a core", cpu, budgets("0.2"), ticks),
    ]


def _memory_turn(engines: Engines, count: int, idle_s: float = 0) -> dict[str, tuple[float, float, float]]:
    """For each engine: MB before, MB with `count` containers, CPU in % of a core in `idle_s` of rest."""
    before = {label: pss_mb(processes(engine)) for label, engine in engines.items()}
    with ExitStack() as stack:
        after = {}
        for engine in engines.values():
            stack.enter_context(_Sleepers(engine, count))
        time.sleep(REST_S)
        for label, engine in engines.items():
            own = processes(engine)
            after[label] = pss_mb(set(own) - workload(own))
        ticks = {label: _ticks(engine) for label, engine in engines.items()}
        time.sleep(idle_s)
        taken = {label: (_ticks(engine) - ticks[label]) / TICKS for label, engine in engines.items()}
        spent = {label: seconds * 100 / (idle_s or 1) for label, seconds in taken.items()}
    return {label: (before[label], after[label], spent[label]) for label in engines}


class _Sleepers:
    """`count` running containers without a network."""

    def __init__(self, engine: DockerClient, count: int) -> None:
        self._connection = KeptConnection(engine.socket)
        self._count = count
        self._ids: list[str] = []

    def __enter__(self) -> None:
        for _ in range(self._count):
            self._ids.append(self._connection.create(IMAGE, ["sleep", "10000"], NetworkMode="none"))
            self._connection.start(self._ids[-1])

    def __exit__(self, *_: object) -> None:
        for container_id in self._ids:
            self._connection.remove(container_id)
        self._connection.close()


def _mark(engine: DockerClient) -> str:
    return Path(engine.socket).parent.name


def processes(engine: DockerClient, ids: Collection[str] = ()) -> list[int]:
    """Every process that belongs to the engine: by the folder's name in its command line, and their descendants.

    ids: containers whose shims are the engine's though a cortend of before has started them.
    """
    mark = _mark(engine).encode()
    parents: dict[int, int] = {}
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = Path("/proc", name, "stat").read_text()
            command = Path("/proc", name, "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(name)] = int(stat.rpartition(")")[2].split()[1])
        is_shim = command.startswith(SHIM) and command[len(SHIM) :].strip(b"\0").decode() in ids
        if is_shim or (mark in command and b"bench/" not in command):
            found.add(int(name))
    changed = True
    while changed:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        changed = bool(more)
    return sorted(found)


def workload(pids: Iterable[int]) -> set[int]:
    """The containers' own processes among them: they sleep."""
    return {pid for pid in pids if b"sleep\x0010000" in Path("/proc", str(pid), "cmdline").read_bytes()}


def pss_mb(pids: Iterable[int]) -> float:
    """Sum of their proportional set sizes; processes that are gone have none."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += int(re.search(r"^Pss:\s+(\d+)", text, re.M).group(1))  # type: ignore[union-attr]
    return total / 1024


def _ticks(engine: DockerClient) -> int:
    total = 0
    for pid in processes(engine):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += int(fields[11]) + int(fields[12])
    return total


def log_rows(engines: Engines) -> list[Row]:
    """json-file log of 100-byte lines: written by the container's side, read back through the API."""
    connections = {label: KeptConnection(engine.socket) for label, engine in engines.items()}
    ids: dict[str, str] = {}
    command = ["sh", "-c", f"yes {_LINE} | head -n {LINES}"]

    def write(label: str) -> float:
        connection = connections[label]
        if label in ids:
            connection.remove(ids[label])
        connection.asked.clear()
        ids[label] = connection.create(IMAGE, command, NetworkMode="none")
        started = time.perf_counter()
        connection.start(ids[label])
        connection.wait(ids[label])
        return time.perf_counter() - started

    def read(label: str) -> float:
        started = time.perf_counter()
        got = _drain(engines[label], f"/v1.41/containers/{ids[label]}/logs?stdout=1&stderr=1")
        if got < LINES * 100:
            raise RuntimeError(f"{label}: {got} bytes of log, {LINES * 100} expected")
        return time.perf_counter() - started

    def contenders(what: Callable[[str], float]) -> dict[str, Once]:
        return {label: (lambda label=label: what(label)) for label in engines}  # type: ignore[misc]

    wrote = interleave(contenders(write), ROUNDS, unit=rate(LOG_MB))
    drained = interleave(contenders(read), ROUNDS, unit=rate(LOG_MB))
    texts = {label: connection.text() for label, connection in connections.items()}
    for label, connection in connections.items():
        connection.remove(ids[label])
        connection.close()
    get = {"": "GET /v1.41/containers/ID/logs?stdout=1&stderr=1"}
    return [
        Row("json-file log, written", "MB/s", wrote, budgets("100", least=True), texts),
        Row("json-file log, read", "MB/s", drained, budgets("50", least=True), get),
    ]


def _drain(engine: DockerClient, target: str) -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(engine.socket))
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n".encode())
        total, buffer = 0, bytearray(1 << 20)
        while size := connection.recv_into(buffer):
            total += size
        return total


def attach_row(engines: Engines) -> Row:
    """stdin to stdout through an attached `cat`, with the log."""
    argvs = {
        label: [str(peers.docker_cli()), "-H", engine.host, "run", "--rm", "-i", "--network", "none", IMAGE, "cat"]
        for label, engine in engines.items()
    }
    feed = f"yes {_LINE} | head -c {LOG_MB}000000"
    contenders: dict[str, Once] = {label: lambda argv=argv: _through(feed, argv) for label, argv in argvs.items()}  # type: ignore[misc]
    samples = interleave(contenders, ROUNDS, unit=rate(LOG_MB))
    texts = {label: f"{feed} | {words(argv)}" for label, argv in argvs.items()}
    return Row("attach, stdin to stdout, with log", "MB/s", samples, budgets("100", least=True), texts)


def _through(feed: str, argv: list[str]) -> float:
    """Seconds until everything that a shell command writes has come back through a program."""
    started = time.perf_counter()
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=client_environment()) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        feeder = subprocess.Popen(["sh", "-c", feed], stdout=process.stdin)
        process.stdin.close()
        got = 0
        while data := process.stdout.read1(1 << 20):  # type: ignore[attr-defined]
            got += len(data)
        feeder.wait()
    if got != LOG_MB * 1_000_000:
        raise RuntimeError(f"{argv}: {got} bytes came back")
    return time.perf_counter() - started
