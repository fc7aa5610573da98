"""testcontainers-python, unmodified: containers that are used, and the reaping of what a killed program left.

Its reaper, ryuk, runs in a container with the engine's socket mounted.  It is a Go module that the module proxy does
not hand out, so one that speaks its protocol takes its place (`reaper/`); CORTEN_TEST_RYUK is the path of a ryuk that
is built already, which then runs instead.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import golang, images, pullimages, pypeers, summary
from support.dockerd import client_environment
from support.engine import CortenEngine
from support.leaks import no_leaks
from support.process import wait_for
from support.warmup import load, warm_up, warm_up_names

PROGRAM = Path(__file__).with_name("testcontainers_use.py")
REAPER = Path(__file__).with_name("reaper")
RYUK = "testcontainers/ryuk:0.8.1"  # what testcontainers asks for by itself
SESSION = "org.testcontainers.session-id"


def reaper() -> bytes:
    """The image of what reaps."""
    given = os.environ.get("CORTEN_TEST_RYUK", "")
    program = Path(given) if given else golang.build(REAPER, ["."]) / "reaper"
    summary.add("testcontainers", f"reaper: {given or 'the stand-in of tests/clients/reaper, not ryuk'}")
    layer = images.layer([images.Entry("bin/ryuk", program.read_bytes(), mode=0o755), images.directory("tmp", 0o1777)])
    return images.docker_archive([RYUK], [layer], {"Entrypoint": ["/bin/ryuk"]})


@pytest.fixture
def ready(engine: CortenEngine) -> CortenEngine:
    """An engine with the images that testcontainers asks for."""
    load(engine, reaper())
    load(engine, pullimages.archive(pullimages.redis(compression="none"), "redis:latest"))
    engine.docker("run", "-d", "--name", "first", images.BUSYBOX_REF, "sleep", "60", check=True)
    engine.docker("cp", str(PROGRAM), "first:/", check=True)  # the launcher's copy, made at first use
    engine.docker("rm", "-f", "first", check=True)
    warm_up(engine)
    warm_up_names(engine)
    return engine


@contextmanager
def program(engine: CortenEngine, what: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The program, in the engine's network, where the ports are published."""
    told = {"DOCKER_HOST": engine.host, "RYUK_RECONNECTION_TIMEOUT": "100ms", "HOME": str(folder)}
    # this machine may be a container itself, which testcontainers would take into account
    told["TESTCONTAINERS_CONNECTION_MODE"] = "docker_host"
    argv = [*engine.netns.enter, str(pypeers.python()), "-W", "ignore", str(PROGRAM), what, images.BUSYBOX_REF]
    environment = client_environment() | told
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=pipe, text=True, env=environment) as running:
        try:
            yield running
        finally:
            running.kill()


def session(running: subprocess.Popen[str], word: str) -> str:
    """The id of its session, which it says after `word`."""
    assert running.stdout
    said = running.stdout.readline().split()
    assert said[:1] == [word], said
    return said[1]


def left(engine: CortenEngine, label: str) -> list[str]:
    """Containers and volumes of a session."""
    only = f"label={SESSION}={label}"
    containers = engine.docker("ps", "-aq", "--filter", only, check=True).stdout.split()
    return containers + engine.docker("volume", "ls", "-q", "--filter", only, check=True).stdout.split()


def reapers(engine: CortenEngine) -> list[str]:
    """Containers of reapers, which go by themselves."""
    return engine.docker("ps", "-aq", "--filter", "name=testcontainers-ryuk", check=True).stdout.split()


def test_what_a_killed_program_left_is_reaped(ready: CortenEngine, tmp_path: Path) -> None:
    with no_leaks(ready):
        with program(ready, "abandon", tmp_path) as running:
            mine = session(running, "READY")
            assert len(left(ready, mine)) == 3
            assert len(reapers(ready)) == 1
        wait_for(lambda: not left(ready, mine), "the reaper's work")
        wait_for(lambda: not reapers(ready), "the reaper's own end")
        ready.docker("volume", "rm", "nobodys", check=True)


@pytest.mark.slow
def test_redis_and_a_plain_container_are_used_and_gone(ready: CortenEngine, tmp_path: Path) -> None:
    with no_leaks(ready), program(ready, "with", tmp_path) as running:
        mine = session(running, "USED")
        assert running.wait(30) == 0
        assert left(ready, mine) == []
        wait_for(lambda: not reapers(ready), "the reaper's end")
