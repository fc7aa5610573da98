"""Clean lives, and the end of an engine, leave nothing: the judge of `support.leaks` says so."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence

import pytest

from support import images, peers, process
from support.engine import CortenEngine
from support.leaks import Snapshot, Subject, diff, expect_none, render, settled
from support.warmup import warm_up

IMAGE = images.BUSYBOX_REF


# Clean lives.


def life_none(engine: CortenEngine) -> None:
    """docker run --rm without a network."""
    engine.docker("run", "--rm", "--network", "none", IMAGE, "echo", "hello", check=True)


def life_bridge(engine: CortenEngine) -> None:
    """docker run --rm on the bridge with a published port."""
    engine.docker("run", "--rm", "-p", "8088:80", IMAGE, "echo", "hello", check=True)


def life_full(engine: CortenEngine) -> None:
    """run -d, exec, a failing exec, logs, stop, start, rm."""
    engine.docker("run", "-d", "--name", "full", "-p", "8088:80", IMAGE, "sh", "-c", "echo one; sleep 1000", check=True)
    engine.docker("exec", "full", "true", check=True)
    assert engine.docker("exec", "full", "no-such-program").returncode != 0
    assert "one" in engine.docker("logs", "full", check=True).stdout
    engine.docker("stop", "-t", "0", "full", check=True)
    engine.docker("start", "full", check=True)
    engine.docker("rm", "-f", "full", check=True)


def life_failing(engine: CortenEngine) -> None:
    """A command that is not there: created, never started, removed."""
    done = engine.docker("run", "--name", "bad", "-p", "8088:80", IMAGE, "/no/such/program")
    assert done.returncode == 127
    engine.docker("rm", "bad", check=True)


def life_killed(engine: CortenEngine) -> None:
    """docker kill, with a child that ignores signals and another that is orphaned inside."""
    script = "trap '' TERM; (sleep 1000 &); setsid sleep 1000 & sleep 1000"
    engine.docker("run", "-d", "--name", "killed", IMAGE, "sh", "-c", script, check=True)
    engine.docker("kill", "killed", check=True)
    engine.docker("rm", "killed", check=True)


def life_restarted(engine: CortenEngine) -> None:
    """cortend ends and starts again while a container runs."""
    engine.docker("run", "-d", "--name", "over", "-p", "8088:80", IMAGE, "sleep", "1000", check=True)
    engine.restart()
    engine.docker("rm", "-f", "over", check=True)


def life_crashed(engine: CortenEngine) -> None:
    """cortend is killed while one container runs and another has ended unseen."""
    engine.docker("run", "-d", "--name", "crash", "-p", "8088:80", IMAGE, "sleep", "1000", check=True)
    brief = engine.docker("run", "-d", "--rm", "--name", "brief", IMAGE, "sleep", "1000", check=True).stdout.strip()
    pid = int(engine.docker("inspect", "-f", "{{.State.Pid}}", "brief", check=True).stdout)
    engine.kill9()
    os.kill(pid, signal.SIGKILL)
    process.wait_for((engine.exec_root / "tasks" / "moby" / brief / "exit").exists, "its end")
    engine.start()
    engine.docker("rm", "-f", "crash", check=True)


def life_paused(engine: CortenEngine) -> None:
    """Paused, with an exec inside, then removed by force."""
    engine.docker("run", "-d", "--name", "paused", IMAGE, "sleep", "1000", check=True)
    engine.docker("exec", "-d", "paused", "sleep", "1000", check=True)
    engine.docker("pause", "paused", check=True)
    engine.docker("rm", "-f", "paused", check=True)


def life_deserted(engine: CortenEngine) -> None:
    """The client that is attached is killed."""
    command = ["run", "-i", "--name", "deserted", IMAGE, "sh", "-c", "echo up; cat"]
    argv = [str(peers.docker_cli()), "-H", engine.host, *command]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"up\n"
        client.kill()
    engine.docker("rm", "-f", "deserted", check=True)


def life_together(engine: CortenEngine) -> None:
    """Six containers started at once and removed at once."""
    names = [f"together{number}" for number in range(6)]
    argv = [str(peers.docker_cli()), "-H", engine.host, "run", "-d"]
    running = [
        subprocess.Popen([*argv, "--name", name, IMAGE, "sleep", "1000"], stdout=subprocess.DEVNULL) for name in names
    ]
    assert [one.wait(30) for one in running] == [0] * 6
    engine.docker("rm", "-f", *names, check=True)


LIVES: Sequence[Callable[[CortenEngine], None]] = (
    life_none,
    life_bridge,
    life_full,
    life_failing,
    life_killed,
    life_restarted,
    life_crashed,
    life_paused,
    life_deserted,
    life_together,
)


@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.__name__.removeprefix("life_"))
def test_clean_life_leaves_nothing(warm_engine: CortenEngine, life: Callable[[CortenEngine], None]) -> None:
    before = Snapshot.take(Subject.of(warm_engine))
    life(warm_engine)
    expect_none(before)


def test_lives_do_not_add_up(warm_engine: CortenEngine) -> None:
    before = Snapshot.take(Subject.of(warm_engine))
    for _ in range(5):
        life_none(warm_engine)
        life_bridge(warm_engine)
    expect_none(before)


def test_image_that_is_removed_leaves_nothing() -> None:
    with CortenEngine() as engine:
        before = Snapshot.take(Subject.of(engine))
        engine.docker("load", "-i", str(images.busybox()), check=True)
        warm_up(engine)
        engine.docker("rmi", IMAGE, check=True)
        expect_none(before)


# The end of an engine.


class HeldEngine(CortenEngine):
    """An engine with its folder and network namespace, started only by `begin`: there is a time before it."""

    begun = False

    def start(self, prefix: Sequence[str] = ()) -> None:
        """Nothing the first time."""
        if self.begun:
            super().start(prefix)

    def begin(self) -> None:
        """The first start."""
        self.begun = True
        self.start()


@pytest.fixture
def held_engine() -> Iterator[HeldEngine]:
    """An engine that has not started yet; its log is there, because the harness writes it."""
    engine = HeldEngine()
    engine.log.touch()
    yield engine
    engine.destroy()


def destroy(engine: CortenEngine) -> None:
    """`cortend --destroy` with nothing of the harness's own force."""
    subprocess.run(
        [*engine.netns.enter, *engine.argv, "--destroy"],
        check=True,
        capture_output=True,
        timeout=60,
        env=engine.environment,
    )


@pytest.mark.parametrize("end", ["stop", "kill9"])
def test_destroy_leaves_nothing_of_an_engine_with_running_containers(held_engine: HeldEngine, end: str) -> None:
    subject = Subject.of(held_engine)
    before = Snapshot.take(subject)
    held_engine.begin()
    held_engine.docker("load", "-i", str(images.busybox()), check=True)
    held_engine.docker("run", "-d", "-p", "8080:80", IMAGE, "sleep", "1000", check=True)
    held_engine.docker("run", "-d", "--network", "none", IMAGE, "sh", "-c", "trap '' TERM; sleep 1000", check=True)
    held_engine.docker("create", IMAGE, check=True)
    assert diff(before, Snapshot.take(subject), allowed=())
    getattr(held_engine, end)()
    destroy(held_engine)
    expect_none(before, allowed=())


def test_destroy_leaves_nothing_of_an_engine_that_did_nothing(held_engine: HeldEngine) -> None:
    before = Snapshot.take(Subject.of(held_engine))
    held_engine.begin()
    held_engine.stop()
    destroy(held_engine)
    expect_none(before, allowed=())


def test_destroy_of_an_engine_that_never_was_makes_nothing(held_engine: HeldEngine) -> None:
    before = Snapshot.take(Subject.of(held_engine))
    destroy(held_engine)
    expect_none(before, allowed=())


@pytest.mark.parametrize("end", ["stop", "kill9"])
def test_end_of_cortend_without_containers_leaves_no_process(held_engine: HeldEngine, end: str) -> None:
    subject = Subject.of(held_engine)
    before = Snapshot.take(subject)
    held_engine.begin()
    held_engine.docker("load", "-i", str(images.busybox()), check=True)
    held_engine.docker("run", "--rm", IMAGE, "true", check=True)
    process.wait_for(lambda: not shims(subject), "end of the shim")  # while cortend lives it is cortend that ends it
    getattr(held_engine, end)()
    left = settled(before, allowed=(), kinds={"process", "zombie", "descriptor"})
    assert not left, render(left)


def shims(subject: Subject) -> list[str]:
    """The engine's shims; not the helper of all."""
    return [str(fact) for fact in Snapshot.take(subject).of_kind("process") if fact.place.startswith("shim ")]


def test_shim_that_lost_cortend_in_the_removal_is_ended_by_the_next_start(warm_engine: CortenEngine) -> None:
    before = Snapshot.take(Subject.of(warm_engine))
    warm_engine.docker("run", "--rm", IMAGE, "true", check=True)
    warm_engine.kill9()
    warm_engine.start()
    expect_none(before)
