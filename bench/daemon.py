"""Rows about Corten's own processes, which have no like in the peers: fork of a shim, shims' memory, restart, the CLI.

Peers stand beside them where they have the same thing (`docker ps`); design.md §7 names the figures of dockerd.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
from pathlib import Path

from api import KeptConnection
from engines import IMAGE, Engines
from harness import REST_S, Once, Row, Sample, budgets, interleave, seconds, words

from support import paths, peers
from support.dockerd import client_environment
from support.engine import CortenEngine

ROUNDS = 3
ROLLUP = f"sum over /proc/PID/smaps_rollup, containers of sleep 10000, network none, {REST_S} s after the last start"


def rows(engines: Engines, rounds: int, containers: int) -> list[Row]:
    """The rows of this file; `containers` run while cortend restarts."""
    corten = engines["corten"]
    assert isinstance(corten, CortenEngine)
    return [
        ps_row(engines, rounds),
        inspect_row(engines, rounds),
        *shim_rows(corten, 2 * containers),
        network_row(corten, rounds),
        restart_row(corten, containers),
        fork_row(rounds),
    ]


def ps_row(engines: Engines, rounds: int) -> Row:
    """`corten ps` beside `docker ps`, each on its engine."""

    def once(argv: list[str]) -> Once:
        def call() -> None:
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, env=client_environment())

        return call

    argvs = {label: [str(peers.docker_cli()), "-H", engine.host, "ps"] for label, engine in engines.items()}
    argvs["corten"] = [str(paths.COMMANDS / "corten"), "-H", engines["corten"].host, "ps"]
    samples = interleave({label: once(argv) for label, argv in argvs.items()}, rounds, warm=2)
    texts = {label: words(argv) for label, argv in argvs.items()}
    return Row("ps by the engine's own CLI", "ms", samples, budgets("80"), texts)


def inspect_row(engines: Engines, rounds: int) -> Row:
    """GET /containers/ID/json of a running container."""
    contenders: dict[str, Once] = {}
    made: list[tuple[KeptConnection, str]] = []
    for label, engine in engines.items():
        connection = KeptConnection(engine.socket)
        made.append((connection, connection.create(IMAGE, ["sleep", "1000"], NetworkMode="none")))
        connection.start(made[-1][1])
        contenders[label] = _inspect(*made[-1])
    samples = interleave(contenders, rounds, warm=2)
    for connection, container_id in made:
        connection.remove(container_id)
        connection.close()
    return Row("inspect", "ms", samples, budgets("1"), {"": "GET /v1.41/containers/ID/json"})


def _inspect(connection: KeptConnection, container_id: str) -> Once:
    return lambda: connection.call("GET", f"/containers/{container_id}/json") and None


def shim_rows(engine: CortenEngine, count: int) -> list[Row]:
    """Private dirty memory of a shim, and zygote, helper and `count` shims in sum; their containers sleep."""
    connection = KeptConnection(engine.socket)
    dirty: list[float] = []
    total: list[float] = []
    for _ in range(ROUNDS):
        ids = _sleepers(connection, count)
        time.sleep(REST_S)
        shims = [pid for container_id in ids for pid in _pids(f"corten-shim moby/{container_id}")]
        if len(shims) != count:
            raise RuntimeError(f"{len(shims)} shims of {count} containers")
        dirty += [_field(pid, "Private_Dirty") for pid in shims]
        zygote = _pids(f"corten-shim --zygote --exec-root {engine.exec_root}")
        makers = [*zygote, *_pids(f"corten-shim helper {engine.exec_root}")]
        total.append(sum(_field(pid, "Pss") for pid in [*shims, *makers]))
        for container_id in ids:
            connection.remove(container_id)
    connection.close()
    said = {"": ROLLUP}
    return [
        Row("private dirty memory of a shim", "MB", {"corten": Sample(tuple(dirty))}, budgets("0.7"), said),
        Row(f"PSS of zygote, helper and {count} shims", "MB", {"corten": Sample(tuple(total))}, budgets("100"), said),
    ]


def _sleepers(connection: KeptConnection, count: int) -> list[str]:
    """`count` running containers."""
    ids = []
    for _ in range(count):
        ids.append(connection.create(IMAGE, ["sleep", "10000"], NetworkMode="none"))
        connection.start(ids[-1])
    return ids


def _pids(words: str) -> list[int]:
    done = subprocess.run(["pgrep", "-f", "--", words], check=False, stdout=subprocess.PIPE, text=True)
    return [int(pid) for pid in done.stdout.split()]


def _field(pid: int, name: str) -> float:
    match = re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
    assert match is not None
    return int(match.group(1)) / 1024


def network_row(engine: CortenEngine, rounds: int) -> Row:
    """Veth, address, route and one published port, as `corten trace` has them of each start."""
    connection = KeptConnection(engine.socket)
    taken = []
    for _ in range(rounds + 2):
        container_id = connection.create(IMAGE, ["sleep", "1000"], PortBindings={"80/tcp": [{"HostPort": "18081"}]})
        connection.start(container_id)
        phases = connection.call("GET", f"/containers/{container_id}/corten/trace")["phases"]
        taken.append(sum(row["duration_ns"] for row in phases if row["name"] == "network") / 1e6)
        connection.remove(container_id)
    connection.close()
    sample = {"corten": Sample(tuple(taken[2:]))}
    said = {"": "phase network of GET /containers/ID/corten/trace (corten trace), run -p 18081:80 … sleep 1000"}
    return Row("veth, address, route, port", "ms", sample, budgets("3"), said)


def restart_row(engine: CortenEngine, count: int) -> Row:
    """SIGTERM of cortend and start again with `count` running containers, until it answers."""
    connection = KeptConnection(engine.socket)
    ids = _sleepers(connection, count)
    connection.close()

    def restart() -> float:
        engine.stop()
        started = time.perf_counter()
        engine.start()
        return time.perf_counter() - started

    samples = interleave({"corten": restart}, ROUNDS, unit=seconds)
    connection = KeptConnection(engine.socket)
    running = [one for one in connection.call("GET", "/containers/json") if one["Id"] in ids]
    if len(running) != count:
        raise RuntimeError(f"{len(running)} of {count} containers run after the restarts")
    for container_id in ids:
        connection.remove(container_id)
    connection.close()
    said = {"": words(engine.argv) + ", until GET /_ping answers; before it SIGTERM"}
    return Row(f"start of cortend with {count} running containers", "s", samples, budgets("0.5"), said)


def fork_row(rounds: int) -> Row:
    """From the request to the zygote until the shim answers."""
    return Row(
        "shim forked and answering",
        "ms",
        {"corten": Sample(tuple(asyncio.run(_forks(rounds))))},
        budgets("2"),
        {"": "corten.core.shims: Zygote.fork, ShimClient.ping"},
    )


async def _forks(rounds: int) -> list[float]:
    from corten.core.shims import Zygote

    folder = paths.scratch("bench-shim")
    exec_root = folder / "exec"
    exec_root.mkdir(mode=0o700)
    zygote = Zygote(str(paths.COMMANDS / "corten-shim"), str(exec_root))
    taken = []
    await zygote.start()
    for number in range(rounds + 2):
        directory = exec_root / "tasks" / "bench" / f"s{number}"
        directory.mkdir(parents=True)
        started = time.perf_counter()
        shim = await zygote.fork(str(directory), "bench", f"s{number}", events=lambda _: None, lost=lambda: None)
        await shim.ping()
        taken.append((time.perf_counter() - started) * 1000)
        await shim.shutdown(force=True)
    await zygote.close()
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    return taken[2:]
