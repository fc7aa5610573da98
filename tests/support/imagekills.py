"""Requests for images in which cortend is killed: at random calls and at random moments, and what is judged then.

After each kill the engine starts, tables and disk say the same, every image that is listed runs; then what was asked
for is asked for again, and in the end nothing is left of it.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from support import images, imagestate, killpoints, peers
from support.dockerd import client_environment
from support.engine import CortenEngine
from support.faultlife import named
from support.killpoints import Trace
from support.leaks import ALLOWED, Allowed, Snapshot, Subject, expect_none

CALLS = ("rename", "renameat2", "fsync", "syncfs", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat", "pwrite64")
CLIENT_TIMEOUT_S = 60
NAME = "corten-test/mine:1"
IDLE = Allowed(r"descriptor, cortend: tcp socket, port \d+", "kept for the registry, for a minute", 8)


@dataclass(frozen=True, slots=True)
class Request:
    """A docker command in which the kill comes, what goes before it, and which names may be there after it."""

    words: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()
    names: frozenset[str] = frozenset({NAME})
    nameless: int = 0
    """At most so many images without a name may be there."""
    partials: bool = False
    """Whether parts of blobs may be there, with which it goes on."""
    also: Callable[[], None] = lambda: None
    """What else must hold after the kill, and after the request was made again."""
    afresh: Callable[[], None] = lambda: None
    """Takes back what it did outside the engine, before it is made once more."""


def client(engine: CortenEngine, words: Sequence[str]) -> subprocess.Popen[bytes]:
    """The docker CLI, running."""
    argv = [str(peers.docker_cli()), "-H", engine.host, *words]
    null = subprocess.DEVNULL
    return subprocess.Popen(argv, stdin=null, stdout=null, stderr=null, env=client_environment())


def prepare(engine: CortenEngine, request: Request) -> None:
    """What goes before it."""
    for words in request.before:
        engine.docker(*words, check=True)


def clear(engine: CortenEngine) -> None:
    """Nothing but busybox is left."""
    for one in imagestate.listed(engine):
        for name in one["RepoTags"] or [one["Id"]]:
            if name != images.BUSYBOX_REF:
                engine.docker("rmi", "-f", name)


def judge(engine: CortenEngine, request: Request) -> None:
    """The engine is up again: what is there is whole and runs."""
    imagestate.judge(engine, partials=request.partials)
    request.also()
    found = imagestate.tags(engine)
    assert images.BUSYBOX_REF in found
    assert found <= request.names | {images.BUSYBOX_REF}, found
    nameless = [one["Id"] for one in imagestate.listed(engine) if not one["RepoTags"]]
    assert len(nameless) <= request.nameless, nameless
    for name in (*found, *nameless):
        command = [] if name != images.BUSYBOX_REF else ["true"]
        done = engine.docker("run", "--rm", "--network", "none", name, *command, check=True)
        assert done.stdout in ("first", "second", ""), done.stdout
    engine.docker(*request.words)  # it may have been carried out: then it is refused
    imagestate.judge(engine)
    request.also()


Kill = Callable[[CortenEngine, Request], bool]


def at_call(point: tuple[str, int]) -> Kill:
    """When any thread enters its n-th call of that name."""

    def kill(engine: CortenEngine, request: Request) -> bool:
        with Trace(engine.pid, calls=CALLS, kill=point, follow=True) as trace:
            running = client(engine, request.words)
            running.wait(CLIENT_TIMEOUT_S)
            is_dead = running.returncode != 0 and not engine.answers()
            trace.end(died=is_dead)
        return is_dead

    return kill


def after(seconds: float) -> Kill:
    """At a moment."""

    def kill(engine: CortenEngine, request: Request) -> bool:
        running = client(engine, request.words)
        time.sleep(seconds)
        engine.kill9()
        running.wait(CLIENT_TIMEOUT_S)
        return True

    return kill


def counted(engine: CortenEngine, request: Request) -> tuple[list[tuple[str, int]], float]:
    """(name, number) of every call of an undisturbed request, and the seconds that one takes without a tracer."""
    prepare(engine, request)
    with Trace(engine.pid, calls=CALLS, follow=True) as trace:
        assert client(engine, request.words).wait(CLIENT_TIMEOUT_S) == 0
        calls = trace.end()
    clear(engine)
    request.afresh()
    prepare(engine, request)
    started = time.monotonic()
    assert client(engine, request.words).wait(CLIENT_TIMEOUT_S) == 0
    spent = time.monotonic() - started
    clear(engine)
    request.afresh()
    return sorted({(call.name, call.number) for call in calls}), spent


def campaign(engine: CortenEngine, name: str, request: Request, *, calls: int, moments: int) -> None:
    """Kills at samples of both kinds."""
    points, spent = counted(engine, request)
    imagestate.judge(engine)
    before = Snapshot.take(Subject.of(engine))
    chance = random.Random(killpoints.seed())
    kills: dict[str, Kill] = {f"{point[0]} {point[1]}": at_call(point) for point in killpoints.sample(points, calls)}
    for _ in range(moments):
        seconds = chance.uniform(0, spent)
        kills[f"after {seconds:.3f} s"] = after(seconds)

    def landed(where: str) -> bool:
        with named(f"{name}: {where}"):
            prepare(engine, request)
            is_hit = kills[where](engine, request)
            engine.kill9()
            engine.start()
            judge(engine, request)
            clear(engine)
            request.afresh()
            expect_none(before, allowed=(*ALLOWED, IDLE))
            return is_hit

    hit = killpoints.hits(list(kills), landed, least=1)
    killpoints.report(f"images, {name}", hit, len(points))
