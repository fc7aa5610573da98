"""Rows about engines: docker run and exec by CLI and API, starts from eight clients, list, inspect, restart."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping

from api import KeptConnection
from harness import FIRST, Budget, Once, Row, Sample, budgets, first, interleave, rate, words

from support import images, peers
from support.dockerd import DockerClient, client_environment

IMAGE = images.BUSYBOX_REF
Engines = Mapping[str, DockerClient]  # contender → engine
STORM_ROUNDS = 3
DOCKERDS = ("dockerd+runc", "dockerd+crun")
EXEC_BUDGET = (Budget("1/3", "dockerd+runc"), Budget("1/2", "dockerd+crun"))
_TRUE = ["true"]


def _cli(engine: DockerClient, *args: str) -> tuple[Once, str]:
    """A docker command on an engine, and its text."""
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

    return once, words(argv)


def rows(engines: Engines, rounds: int, starts: int) -> list[Row]:
    """The rows of this file; `starts` in each storm."""
    published = {"NetworkMode": "bridge", "PortBindings": {"80/tcp": [{"HostPort": "18080"}]}}
    api: dict[str, Mapping[str, object]] = {
        "API create+start+wait+remove, none": {"NetworkMode": "none"},
        "API …, bridge": {"NetworkMode": "bridge"},
        "API …, published port": published,
    }
    turns = (0, rounds)  # with cold caches, then warm
    return [
        *(cli_row(engines, n, f"docker run --rm, {net}", net) for net in ("none", "bridge") for n in turns),
        *(api_row(engines, n, name, host_config) for name, host_config in api.items() for n in turns),
        *exec_rows(engines, rounds, "docker exec", by_cli=True),
        *exec_rows(engines, rounds, "API exec", by_cli=False),
        *storm_rows(engines, starts, by_cli=False),
        *storm_rows(engines, starts, by_cli=True),
        list_row(engines, rounds),
    ]


def _sampled(contenders: Mapping[str, Once], rounds: int) -> dict[str, Sample]:
    """`rounds` warm ones; for 0 the first ones."""
    return interleave(contenders, rounds, warm=2) if rounds else first(contenders)


def cli_row(engines: Engines, rounds: int, name: str, network: str) -> Row:
    """`docker run --rm … true` by the real CLI; with cold caches for 0 rounds."""
    args = ("run", "--rm", "--network", network, IMAGE, *_TRUE)
    made = {label: _cli(engine, *args) for label, engine in engines.items()}
    samples = _sampled({label: once for label, (once, _) in made.items()}, rounds)
    texts = {label: text for label, (_, text) in made.items()}
    return _row(name, rounds, samples, "1/8", texts)


def _row(name: str, rounds: int, samples: Mapping[str, Sample], limit: str, texts: Mapping[str, str]) -> Row:
    """Of the warm rounds with a budget against both dockerds; without one for the first ones."""
    if not rounds:
        return Row(name + FIRST, "ms", samples, (), texts)
    return Row(name, "ms", samples, budgets(limit, *DOCKERDS), texts)


def api_row(engines: Engines, rounds: int, name: str, host_config: Mapping[str, object]) -> Row:
    """The same on a kept API connection."""
    connections = {label: KeptConnection(engine.socket) for label, engine in engines.items()}

    def once(connection: KeptConnection) -> Once:
        return lambda: connection.run(IMAGE, _TRUE, **host_config)

    contenders = {label: once(connection) for label, connection in connections.items()}
    samples = _sampled(contenders, rounds)
    texts = {label: connection.text() for label, connection in connections.items()}
    for connection in connections.values():
        connection.close()
    return _row(name, rounds, samples, "1/12", texts)


def exec_rows(engines: Engines, rounds: int, name: str, *, by_cli: bool) -> list[Row]:
    """exec of true in a running container: with cold caches, and warm."""
    contenders: dict[str, Once] = {}
    texts: dict[str, Callable[[], str]] = {}
    running = []
    for label, engine in engines.items():
        connection = KeptConnection(engine.socket)
        container_id = connection.create(IMAGE, ["sleep", "1000"], NetworkMode="none")
        connection.start(container_id)
        running.append((connection, container_id))
        if by_cli:
            contenders[label], text = _cli(engine, "exec", container_id, *_TRUE)
            texts[label] = lambda text=text, i=container_id: text.replace(i, "ID")  # type: ignore[misc]
        else:
            contenders[label] = lambda c=connection, i=container_id: c.execute(i, _TRUE)  # type: ignore[misc]
            texts[label] = connection.text
    cold, warm = first(contenders), interleave(contenders, rounds, warm=2)
    said = {label: text() for label, text in texts.items()}
    for connection, container_id in running:
        connection.remove(container_id)
        connection.close()
    return [Row(name + FIRST, "ms", cold, (), said), Row(name, "ms", warm, EXEC_BUDGET, said)]


def storm_rows(engines: Engines, total: int, *, by_cli: bool, clients: int = 8) -> list[Row]:
    """Containers a second, started by `clients` at once; and the CPU time that the generator itself took for each."""
    makers = {label: (_cli_runner if by_cli else _api_runner)(engine) for label, engine in engines.items()}
    cpu: dict[str, list[float]] = {label: [] for label in engines}
    texts = {label: text for label, (_, text) in makers.items()}
    for make, _ in makers.values():
        _storm(make, 2 * clients, clients)  # the warm round

    def once(label: str) -> Once:
        def storm() -> float:
            before = _generator_cpu()
            spent = _storm(makers[label][0], total, clients)
            cpu[label].append((_generator_cpu() - before) * 1000 / total)
            return spent

        return storm

    contenders = {label: once(label) for label in engines}
    samples = interleave(contenders, STORM_ROUNDS, warm=0, unit=rate(total))
    own = {label: Sample(tuple(values)) for label, values in cpu.items()}
    said = "times(2) of the bench and of the CLIs that it waited for, divided by the starts"
    name = f"{total} starts from {clients} {'docker CLIs' if by_cli else 'API connections'}"
    budget = () if by_cli else budgets("6", *DOCKERDS, least=True)
    return [
        Row(name, "/s", samples, budget, texts),
        Row("  beside it: the generator's CPU for each", "ms", own, (), {"": said}),
    ]


def _generator_cpu() -> float:
    """Seconds of this process and of the CLIs that it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


Maker = Callable[[], Callable[[], None]]  # called once by each client: what it then does again and again


def _api_runner(engine: DockerClient) -> tuple[Maker, str]:
    def connect() -> Callable[[], None]:
        connection = KeptConnection(engine.socket)
        return lambda: connection.run(IMAGE, _TRUE, NetworkMode="none")

    connection = KeptConnection(engine.socket)
    connection.run(IMAGE, _TRUE, NetworkMode="none")
    connection.close()
    return connect, connection.text()


def _cli_runner(engine: DockerClient) -> tuple[Maker, str]:
    once, text = _cli(engine, "run", "--rm", "--network", "none", IMAGE, *_TRUE)

    def run() -> None:
        once()

    return lambda: run, text


def _storm(make: Maker, total: int, clients: int) -> float:
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
    return Row(f"list of {count} containers", "ms", samples, budgets("10"), {"": "GET /v1.41/containers/json?all=1"})
