"""Rows about memory, idle CPU, logs and streams."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from api import KeptConnection
from engines import IMAGE, Engines
from harness import Row, Sample

from support import peers
from support.dockerd import DockerClient, client_environment

LOG_MB = 40
_LINE = "x" * 99


def rows(engines: Engines, count: int) -> list[Row]:
    """The rows of this file; `count` containers for the memory rows."""
    idle, per_container, cpu = {}, {}, {}
    for label, engine in engines.items():
        idle[label] = Sample((_pss_mb(_processes(engine)),))
        with _Sleepers(engine, count):
            workload = _workload(engine)
            total = _pss_mb(pid for pid in _processes(engine) if pid not in workload)
            per_container[label] = Sample(((total - idle[label].median) / count,))
            cpu[label] = Sample((_cpu_ms(engine, seconds=10),))
    found = [
        Row(
            "PSS of the idle engine",
            "MB",
            idle,
            "≤ 80 MB",
            "sum of Pss in /proc/PID/smaps_rollup over the engine's processes",
        ),
        Row(
            f"PSS per container at {count}, without the workload",
            "MB",
            per_container,
            "≤ 1 MB",
            "the same with sleep 10000, network none",
        ),
        Row(
            f"CPU in 10 s with {count} idle containers",
            "ms",
            cpu,
            "≤ 0.2 % of a core",
            "utime + stime of /proc/PID/stat",
        ),
    ]
    return [*found, *log_rows(engines), attach_row(engines)]


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
        time.sleep(1)

    def __exit__(self, *_: object) -> None:
        for container_id in self._ids:
            self._connection.remove(container_id)
        self._connection.close()


def _mark(engine: DockerClient) -> str:
    return Path(engine.socket).parent.name


def _processes(engine: DockerClient) -> list[int]:
    """Every process that belongs to the engine: by the folder's name in its command line, and their descendants."""
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
        if mark in command and b"bench/run.py" not in command:
            found.add(int(name))
    changed = True
    while changed:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        changed = bool(more)
    return sorted(found)


def _workload(engine: DockerClient) -> set[int]:
    """The container's own processes among them: they sleep."""
    return {pid for pid in _processes(engine) if b"sleep\x0010000" in Path("/proc", str(pid), "cmdline").read_bytes()}


def _pss_mb(pids: Iterable[int]) -> float:
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
    for pid in _processes(engine):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += int(fields[11]) + int(fields[12])
    return total


def _cpu_ms(engine: DockerClient, seconds: float) -> float:
    before = _ticks(engine)
    time.sleep(seconds)
    return (_ticks(engine) - before) * 1000 / os.sysconf("SC_CLK_TCK")


def log_rows(engines: Engines) -> list[Row]:
    """json-file log of 100-byte lines: written by the container's side, read back through the API."""
    lines = LOG_MB * 10_000
    wrote, read = {}, {}
    for label, engine in engines.items():
        connection = KeptConnection(engine.socket)
        container_id = connection.create(IMAGE, ["sh", "-c", f"yes {_LINE} | head -n {lines}"], NetworkMode="none")
        started = time.perf_counter()
        connection.start(container_id)
        connection.wait(container_id)
        wrote[label] = Sample((LOG_MB / (time.perf_counter() - started),))
        connection.close()
        started = time.perf_counter()
        got = _drain(engine, f"/v1.41/containers/{container_id}/logs?stdout=1&stderr=1")
        read[label] = Sample((LOG_MB / (time.perf_counter() - started),))
        if got < lines * 100:
            raise RuntimeError(f"{label}: {got} bytes of log, {lines * 100} expected")
        connection.remove(container_id)
        connection.close()
    return [
        Row("json-file log, written", "MB/s", wrote, "≥ 100 MB/s", f"yes | head -n {lines}", bigger_is_better=True),
        Row("json-file log, read", "MB/s", read, "≥ 50 MB/s", "GET /containers/ID/logs", bigger_is_better=True),
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
    samples = {}
    for label, engine in engines.items():
        argv = [str(peers.docker_cli()), "-H", engine.host, "run", "--rm", "-i", "--network", "none", IMAGE, "cat"]
        started = time.perf_counter()
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=client_environment()) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            feeder = subprocess.Popen(["sh", "-c", f"yes {_LINE} | head -c {LOG_MB}000000"], stdout=process.stdin)
            process.stdin.close()
            got = 0
            while data := process.stdout.read1(1 << 20):  # type: ignore[attr-defined]
                got += len(data)
            feeder.wait()
        if got != LOG_MB * 1_000_000:
            raise RuntimeError(f"{label}: {got} bytes came back")
        samples[label] = Sample((LOG_MB / (time.perf_counter() - started),))
    return Row(
        "attach, stdin to stdout, with log", "MB/s", samples, "≥ 100 MB/s", "docker run -i … cat", bigger_is_better=True
    )
