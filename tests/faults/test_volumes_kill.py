"""kill -9 of cortend while it makes, fills and removes volumes: each is there whole, empty or not at all.

Tables and disk say the same; what a volume held for a user before is there afterwards.
"""

from __future__ import annotations

import random
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from support import images, killpoints
from support.engine import CortenEngine
from support.faultlife import named
from support.imagekills import CALLS, CLIENT_TIMEOUT_S, client
from support.killpoints import Trace
from support.process import wait_for

GATE_CALLS, SLOW_CALLS = 2, 60
IMAGE = "corten-test/filled:1"
FILES = {f"d{number}/f{number}": b"x" * number for number in range(20)}
pytestmark = pytest.mark.usefixtures("the_doctor_agrees")


@dataclass(frozen=True)
class Request:
    words: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()


CREATE = ("create", "--name", "made", "--network", "none", "-v", "named:/data", "-v", "/anonymous", IMAGE)
REQUESTS = {
    "create": Request(CREATE),
    "rm -v": Request(("rm", "-v", "made"), (CREATE,)),
    "volume rm": Request(("volume", "rm", "named"), (CREATE, ("rm", "made"))),
    "run --rm": Request(("run", "--rm", *CREATE[3:], "ls", "/data")),
}


@pytest.fixture(scope="module")
def engine() -> Iterator[CortenEngine]:
    with CortenEngine() as made:
        entries = [images.directory("data")]
        for name, data in FILES.items():
            entries += [images.directory(f"data/{name.partition('/')[0]}"), images.Entry(f"data/{name}", data)]
        config = {"Cmd": ["ls", "/data"], "Env": ["PATH=/bin"]}
        archive = images.docker_archive([IMAGE], [*images.busybox_layers(), images.layer(entries)], config)
        made.docker("load", stdin=archive, check=True)
        yield made


def content(engine: CortenEngine, volume: str) -> dict[str, bytes]:
    root = engine.data_root / "volumes" / volume / "_data"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def journal(engine: CortenEngine) -> list[str]:
    with sqlite3.connect(f"file:{engine.data_root}/corten.db?mode=ro", uri=True) as database:
        rows = [str(row[0]) for row in database.execute("SELECT name FROM journal WHERE kind = 'volume-dir'")]
    database.close()
    return rows


def judge(engine: CortenEngine) -> None:
    """After the start that follows the kill."""
    listed = set(engine.docker("volume", "ls", "-q", check=True).stdout.split())
    folder = engine.data_root / "volumes"
    assert {path.name for path in folder.iterdir()} == listed
    assert all([path.name for path in (folder / name).iterdir()] == ["_data"] for name in listed)
    assert all(content(engine, name) in ({}, FILES) for name in listed)
    assert journal(engine) == []
    made = engine.docker("ps", "-aqf", "name=made", check=True).stdout.split()
    if made:
        assert content(engine, "named") == FILES
        assert len(engine.docker("start", "-a", "made", check=True).stdout.split()) == len(FILES)


def clear(engine: CortenEngine) -> None:
    """Nothing is left but the image."""
    for words in (("rm", "-fv"), ("volume", "rm")):
        ask = ("ps", "-aq") if words[0] == "rm" else ("volume", "ls", "-q")
        found = engine.docker(*ask, check=True).stdout.split()
        if found:
            engine.docker(*words, *found, check=True)
    assert list((engine.data_root / "volumes").iterdir()) == []
    trash = engine.data_root / "snapshots/trash"
    wait_for(lambda: not list(trash.iterdir()), "an empty trash")


def prepare(engine: CortenEngine, request: Request) -> None:
    for words in request.before:
        engine.docker(*words, check=True)


def points(engine: CortenEngine, request: Request) -> list[tuple[str, int]]:
    """Calls of an undisturbed request."""
    prepare(engine, request)
    with Trace(engine.pid, calls=CALLS, follow=True) as trace:
        assert client(engine, request.words).wait(CLIENT_TIMEOUT_S) == 0
        calls = trace.end()
    clear(engine)
    return sorted({(call.name, call.number) for call in calls})


def campaign(engine: CortenEngine, name: str, most: int) -> None:
    request = REQUESTS[name]
    found = points(engine, request)

    def kill(point: tuple[str, int]) -> bool:
        with named(f"{name}: {point}"):
            prepare(engine, request)
            with Trace(engine.pid, calls=CALLS, kill=point, follow=True) as trace:
                running: subprocess.Popen[bytes] = client(engine, request.words)
                running.wait(CLIENT_TIMEOUT_S)
                is_dead = not engine.answers()
                trace.end(died=is_dead)
            engine.kill9()
            engine.start()
            judge(engine)
            clear(engine)
            return is_dead

    hit = killpoints.hits(killpoints.sample(found, most), kill, least=1)
    killpoints.report(f"volumes, {name}", hit, len(found))


@pytest.mark.parametrize("name", ["create"])
def test_cortend_killed_over_volumes_leaves_them_whole_empty_or_gone(engine: CortenEngine, name: str) -> None:
    campaign(engine, name, GATE_CALLS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", REQUESTS)
def test_cortend_killed_at_many_points_over_volumes_leaves_them_whole_empty_or_gone(
    engine: CortenEngine, name: str
) -> None:
    campaign(engine, name, SLOW_CALLS)


def test_data_of_a_user_survive_an_older_copy_of_the_database(engine: CortenEngine) -> None:
    chance = random.Random(killpoints.seed()).randbytes(1000).hex()
    script = f"echo {chance} > /x/f"
    engine.docker("run", "--rm", "--network", "none", "-v", "precious:/x", IMAGE, "sh", "-c", script, check=True)
    engine.stop()
    with sqlite3.connect(engine.data_root / "corten.db") as database:
        database.execute("DELETE FROM volumes")
    database.close()
    engine.start()
    shown = engine.docker("run", "--rm", "--network", "none", "-v", "precious:/x", IMAGE, "cat", "/x/f", check=True)
    assert shown.stdout.strip() == chance
    clear(engine)
