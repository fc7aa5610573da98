"""kill -9 of a client at every call by which it talks: its container ends, `--rm` is honoured, nothing leaks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from clients.api import Api
from support import images, killpoints, paths, peers
from support.dockerd import client_environment
from support.engine import CortenEngine
from support.faultlife import named
from support.killpoints import run_traced
from support.leaks import Snapshot, Subject, expect_none
from support.process import wait_for

NAME = "clients-own"
GATE_SAMPLE = 12
COUNTING_RUNS = 5
TRIES = 5


@dataclass(frozen=True, slots=True)
class Client:
    """A command line and the calls by which it talks to the engine and to its terminal."""

    name: str
    program: str
    calls: tuple[str, ...]


def clients() -> list[Client]:
    """Ours, and Docker's own (which has many threads: a point is the n-th call of any of them)."""
    ours = Client("corten", str(paths.COMMANDS / "corten"), ("connect", "sendto", "recvfrom", "write", "shutdown"))
    return [ours, Client("docker", str(peers.docker_cli()), ("connect", "write"))]


@pytest.fixture(scope="module")
def warm() -> Iterator[CortenEngine]:
    """An engine that has run a container."""
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        engine.docker("run", "--rm", images.BUSYBOX_REF, "true", check=True)
        yield engine


def argv(engine: CortenEngine, client: Client) -> list[str]:
    """`run --rm` of something that speaks on both streams and fails."""
    script = "echo out; echo err >&2; exit 7"
    return [client.program, "-H", engine.host, "run", "--rm", "--name", NAME, images.BUSYBOX_REF, "sh", "-c", script]


def status(api: Api) -> str:
    """The container's status, '' when it is gone."""
    code, found = api.call("GET", f"/containers/{NAME}/json")
    return "" if code == 404 else str(found["State"]["Status"])


def kill_at(engine: CortenEngine, client: Client, point: tuple[str, int], before: Snapshot) -> bool:
    """One client with the kill, and what became of its container; whether it was killed."""
    api = Api(engine.socket)
    code, _, killed = run_traced(argv(engine, client), calls=client.calls, env=client_environment(), kill=point)
    assert killed is not None or code == 7, f"not killed, and ended with {code}"
    if killed is not None:
        assert (killed.name, killed.number) == point, killed
    wait_for(lambda: is_gone(api), "end of a container whose client is dead")
    expect_none(before)
    return killed is not None


def is_gone(api: Api) -> bool:
    """Whether the container went; one that was never started, as the client died before it asked, is removed here."""
    state = status(api)
    if state == "created":
        code = api.call("DELETE", f"/containers/{NAME}")[0]
        return code in {204, 404}  # 409: the start of which the client did not hear goes on
    return state == ""


def steady_points(engine: CortenEngine, client: Client) -> Sequence[tuple[str, int]]:
    """The points that every one of some runs comes to: how Go spreads its calls over threads varies."""
    runs = []
    for _ in range(COUNTING_RUNS):
        code, calls, _ = run_traced(argv(engine, client), calls=client.calls, env=client_environment())
        assert code == 7
        runs.append(list(dict.fromkeys((call.name, call.number) for call in calls)))
    return [point for point in runs[0] if all(point in run for run in runs[1:])]


def campaign(engine: CortenEngine, client: Client, most: int | None) -> None:
    """Counts, then kills at a sample of the points, or at all."""
    points = steady_points(engine, client)
    chosen = killpoints.sample(points, most or len(points))
    before = Snapshot.take(Subject.of(engine))

    def kill(point: tuple[str, int]) -> bool:
        with named(f"{client.name}: {point[0]} {point[1]}"):
            return any(kill_at(engine, client, point, before) for _ in range(TRIES))

    least = math.ceil(len(chosen) * 0.8)  # how output is cut into reads varies: the last numbers may not come
    hit = killpoints.hits(chosen, kill, least=least)
    killpoints.report(f"client {client.name}, messages", hit, len(points))
    assert hit >= least, f"{hit} of {len(chosen)} points hit"
    assert engine.docker("run", "--rm", images.BUSYBOX_REF, "echo", "ok", check=True).stdout == "ok\n"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("client", clients(), ids=lambda client: client.name)
def test_client_killed_at_a_sample_of_its_points(warm: CortenEngine, client: Client) -> None:
    campaign(warm, client, GATE_SAMPLE)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("client", clients(), ids=lambda client: client.name)
def test_client_killed_at_every_point(warm: CortenEngine, client: Client) -> None:
    campaign(warm, client, None)
