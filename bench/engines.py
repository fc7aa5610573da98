"""Rows about engines: docker run and exec by CLI and API, starts from eight clients, list, inspect, restart."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping

from api import KeptConnection
from harness import Once, Row, Sample, interleave

from support import images, peers
from support.dockerd import DockerClient, client_environment

IMAGE = images.BUSYBOX_REF
Engines = Mapping[str, DockerClient]  # contender → engine
_TRUE = ["true"]


def _cli(engine: DockerClient, *args: str) -> Once:
    argv = [str(peers.docker_cli()), "-H", engine.host, *args]
    environment = client_environment()

    def once() -> None:
        subprocess.run(
            argv,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )

    return once


def rows(engines: Engines, rounds: int) -> list[Row]:
    """The rows of this file."""
    return [
        cli_row(engines, 1, "docker run --rm, none, first", "none", "", warm=0),
        cli_row(engines, rounds, "docker run --rm, none", "none", "≤ 1/8"),
        cli_row(engines, rounds, "docker run --rm, bridge", "bridge", "≤ 1/8"),
        api_row(engines, rounds, "API create+start+wait+remove, none", {"NetworkMode": "none"}, "≤ 1/12"),
        api_row(engines, rounds, "API …, bridge", {"NetworkMode": "bridge"}, "≤ 1/12"),
        api_row(
            engines,
            rounds,
            "API …, published port",
            {"NetworkMode": "bridge", "PortBindings": {"80/tcp": [{"HostPort": "18080"}]}},
            "≤ 1/12",
        ),
        exec_row(engines, rounds, "docker exec", by_cli=True),
        exec_row(engines, rounds, "API exec", by_cli=False),
        storm_row(engines, "100 starts from 8 API connections", by_cli=False),
        storm_row(engines, "100 starts from 8 docker CLIs", by_cli=True),
        list_row(engines, rounds),
    ]


def cli_row(engines: Engines, rounds: int, name: str, network: str, budget: str, *, warm: int = 2) -> Row:
    """`docker run --rm … true` by the real CLI."""
    args = ("run", "--rm", "--network", network, IMAGE, *_TRUE)
    contenders = {label: _cli(engine, *args) for label, engine in engines.items()}
    return Row(name, "ms", interleave(contenders, rounds, warm=warm), budget, "docker " + " ".join(args))


def api_row(engines: Engines, rounds: int, name: str, host_config: Mapping[str, object], budget: str) -> Row:
    """The same on a kept API connection."""
    connections = {label: KeptConnection(engine.socket) for label, engine in engines.items()}

    def once(connection: KeptConnection) -> Once:
        return lambda: connection.run(IMAGE, _TRUE, **host_config)

    contenders = {label: once(connection) for label, connection in connections.items()}
    samples = interleave(contenders, rounds, warm=2)
    for connection in connections.values():
        connection.close()
    return Row(name, "ms", samples, budget, f"create {dict(host_config)}, start, wait, delete?force=1")


def exec_row(engines: Engines, rounds: int, name: str, *, by_cli: bool) -> Row:
    """exec of true in a running container."""
    contenders: dict[str, Once] = {}
    running = []
    for label, engine in engines.items():
        connection = KeptConnection(engine.socket)
        container_id = connection.create(IMAGE, ["sleep", "1000"], NetworkMode="none")
        connection.start(container_id)
        running.append((connection, container_id))
        contenders[label] = (
            _cli(engine, "exec", container_id, *_TRUE)
            if by_cli
            else (lambda c=connection, i=container_id: c.execute(i, _TRUE))  # type: ignore[misc]
        )
    samples = interleave(contenders, rounds, warm=2)
    for connection, container_id in running:
        connection.remove(container_id)
        connection.close()
    return Row(name, "ms", samples, "≤ 1/3 dockerd+runc, ≤ 1/2 dockerd+crun", "exec true in a running container")


def storm_row(engines: Engines, name: str, *, by_cli: bool, total: int = 100, clients: int = 8) -> Row:
    """Containers a second, started by `clients` at once; the generator's own CPU stands with the command."""
    samples = {}
    cpu = []
    for label, engine in engines.items():
        make = _cli_runner if by_cli else _api_runner
        make(engine)()()
        before = _generator_cpu()
        samples[label] = Sample((total / _storm(make(engine), total, clients),))
        cpu.append(f"{label} {(_generator_cpu() - before) * 1000 / total:.1f} ms")
    command = f"{total} × run true, network none; the generator's own CPU for each: {', '.join(cpu)}"
    return Row(name, "/s", samples, "" if by_cli else "≥ 6 ×", command, bigger_is_better=True)


def _generator_cpu() -> float:
    """Seconds of this process and of the CLIs that it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _api_runner(engine: DockerClient) -> Callable[[], Callable[[], None]]:
    def connect() -> Callable[[], None]:
        connection = KeptConnection(engine.socket)
        return lambda: connection.run(IMAGE, _TRUE, NetworkMode="none")

    return connect


def _cli_runner(engine: DockerClient) -> Callable[[], Callable[[], None]]:
    once = _cli(engine, "run", "--rm", "--network", "none", IMAGE, *_TRUE)

    def run() -> None:
        once()

    return lambda: run


def _storm(make: Callable[[], Callable[[], None]], total: int, clients: int) -> float:
    """Seconds for `total` runs shared by `clients` threads."""
    left = list(range(total))
    failures: list[BaseException] = []

    def client() -> None:
        try:
            once = make()
            while left:
                try:
                    left.pop()
                except IndexError:
                    return
                once()
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            failures.append(error)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.perf_counter() - started
    if failures:
        raise failures[0]
    return spent


def list_row(engines: Engines, rounds: int, count: int = 100) -> Row:
    """GET /containers/json with `count` created containers."""
    contenders: dict[str, Once] = {}
    made = []
    for label, engine in engines.items():
        connection = KeptConnection(engine.socket)
        made.append((connection, [connection.create(IMAGE, _TRUE, NetworkMode="none") for _ in range(count)]))
        contenders[label] = lambda c=connection: c.call("GET", "/containers/json?all=1") and None  # type: ignore[misc]
    samples = interleave(contenders, rounds, warm=2)
    for connection, ids in made:
        for container_id in ids:
            connection.remove(container_id)
        connection.close()
    return Row(f"list of {count} containers", "ms", samples, "≤ 10 ms", "GET /containers/json?all=1")
