"""Helpers and zygotes that do not start, or stand still: callers are told in words, nothing is burnt or left."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from corten.core import shims as shims_module
from corten.errors import Unavailable
from support import images, peers, weakened_corten
from support.engine import CortenEngine
from support.process import children
from support.process import wait_for as until
from support.shimlab import Lab
from support.shimlab import until as soon
from support.weakened import Edit

from .test_engine import IMAGE, inspect, remains
from .test_shim_helper import helper_of, hook, stopped, talks

QUICK_LOOKS: tuple[Edit, ...] = (
    ("shim/keeper.py", "_LOOK_S = 10.0", "_LOOK_S = 0.5"),
    ("shim/calling.py", "_SILENCE_S = 10.0", "_SILENCE_S = 0.5"),
)


class Fault:
    """A program of a build that fails at its start while a file is there; its starts are counted in another."""

    def __init__(self, folder: Path, deed: str = "raise RuntimeError('no')") -> None:
        self._deed = deed
        self.switch = folder / "broken"
        self._starts = folder / "starts"

    def edit(self, file: str, before: str) -> Edit:
        """Put in front of a line of a module that imports os."""
        lines = f"    with open({str(self._starts)!r}, 'a') as file:\n        file.write('x')\n"
        lines += f"    if os.path.exists({str(self.switch)!r}):\n        {self._deed}\n"
        indent = before[: len(before) - len(before.lstrip())]
        shifted = "".join(f"{indent[4:]}{line}\n" for line in lines.splitlines())
        return file, before, shifted + before

    def starts(self) -> int:
        return self._starts.stat().st_size if self._starts.exists() else 0


@contextmanager
def faulty_engine(*edits: Edit) -> Iterator[CortenEngine]:
    with weakened_corten.build(*edits) as build, CortenEngine(commands=build.commands) as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        yield engine


def pid_of(engine: CortenEngine, words: str) -> int:
    """Of the engine's only process with such a command line, 0 without one."""
    done = subprocess.run(["pgrep", "-f", words], check=False, stdout=subprocess.PIPE, text=True)
    found = [int(line) for line in done.stdout.split()]
    assert len(found) <= 1, found
    return found[0] if found else 0


def helper(engine: CortenEngine) -> int:
    return pid_of(engine, f"corten-shim helper {engine.exec_root}")


def zygote(engine: CortenEngine) -> int:
    return pid_of(engine, f"corten-shim --zygote --exec-root {engine.exec_root}")


def shims(engine: CortenEngine) -> list[int]:
    """Every shim below the engine's zygote."""
    return sorted(set(children(zygote(engine))) - {helper(engine)})


def slow(*values: str) -> list[Any]:
    """Parameters that the gate leaves out."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


# What does not start


def test_a_helper_that_does_not_start_is_an_error_in_words_and_no_storm_of_forks(tmp_path: Path) -> None:
    fault = Fault(tmp_path)
    with faulty_engine(fault.edit("shim/warmup.py", "    play(host)\n")) as engine:
        engine.docker("run", "-d", "--name", "before", IMAGE, "sleep", "1000", check=True)
        until(lambda: fault.starts() == 1, "the first helper")
        fault.switch.touch()
        os.kill(helper(engine), signal.SIGKILL)
        until(lambda: "helper does not start" in engine.log.read_text(), "the reason in the log")

        words = "the runtime's helper does not start: RuntimeError: no"
        begin = time.monotonic()
        failed = engine.docker("run", "--name", "fails", IMAGE, "true")
        assert (failed.returncode, words in failed.stderr) == (125, True), failed.stderr
        assert words in engine.docker("exec", "before", "true").stdout
        engine.docker("rm", "-f", "before", "fails", check=True)  # needs no helper
        assert time.monotonic() - begin < 8
        until(lambda: not remains(engine), "remains of failed starts")

        time.sleep(max(0.0, 6 - (time.monotonic() - begin)))
        assert 2 <= fault.starts() <= 5  # at 0, 1, 3 and 7 s
        assert engine.log.read_text().count("RuntimeError: no\n") == 2  # a line and a traceback
        fault.switch.unlink()
        until(lambda: engine.docker("run", "--rm", IMAGE, "true").returncode == 0, "a start", 15)


def test_an_engine_whose_helper_never_started_says_so_and_recovers(tmp_path: Path) -> None:
    fault = Fault(tmp_path)
    fault.switch.touch()
    with faulty_engine(fault.edit("shim/warmup.py", "    host = Host(facts)\n")) as engine:
        failed = engine.docker("run", "--rm", IMAGE, "true")
        assert "the runtime's helper does not start: RuntimeError: no" in failed.stderr
        until(lambda: not remains(engine), "remains of a failed start")
        fault.switch.unlink()
        until(lambda: engine.docker("run", "--rm", IMAGE, "true").returncode == 0, "a start", 20)


@pytest.mark.parametrize("verb", ["_start", *slow("_create", "_exec")])
def test_a_helper_that_dies_in_the_middle_of_the_rehearsal_is_replaced(verb: str) -> None:
    line = f"    def {verb}(self, session: Session, request: Request) -> Answer:\n"
    with faulty_engine(("shim/stage.py", line, f"{line}        os._exit(3)\n")) as engine:
        until(lambda: engine.docker("run", "--rm", IMAGE, "true").returncode == 0, "a start", 20)
        until(lambda: not remains(engine), "remains of a start")


def test_a_zygote_that_does_not_start_is_an_error_in_words_and_no_storm_of_processes(tmp_path: Path) -> None:
    fault = Fault(tmp_path)
    with faulty_engine(fault.edit("shim/zygote.py", "    control = socket.socket(fileno=control_fd)\n")) as engine:
        engine.docker("run", "-d", "--name", "before", IMAGE, "sleep", "1000", check=True)
        fault.switch.touch()
        os.kill(zygote(engine), signal.SIGKILL)
        until(lambda: fault.starts() >= 2, "the next zygote")
        time.sleep(5)
        assert fault.starts() <= 6  # at 0, 1, 3 and 7 s
        failed = engine.docker("run", "--rm", IMAGE, "true")
        assert "zygote does not start: see the log of cortend" in failed.stderr
        engine.docker("rm", "-f", "before", check=True)
        until(lambda: not remains(engine), "remains of a failed start")
        fault.switch.unlink()
        engine.docker("run", "--rm", IMAGE, "true", check=True)  # no request waits for the end of a pause


KILLS_ITSELF = "os.kill(os.getpid(), 9)"  # as the kernel does for memory


async def test_a_helper_that_is_killed_again_and_again_at_its_start_is_an_error_and_no_storm(tmp_path: Path) -> None:
    fault = Fault(tmp_path, KILLS_ITSELF)
    with weakened_corten.build(fault.edit("shim/warmup.py", "    play(host)\n")) as build:
        async with Lab(commands=build.commands) as lab:
            box = await lab.run("cat", stdin=True)
            fault.switch.touch()
            os.kill(helper_of(lab), signal.SIGKILL)
            await soon(lambda: fault.starts() >= 3, "two helpers that are killed")
            with pytest.raises(Unavailable, match="the runtime's helper does not start: killed by signal 9"):
                await box.exec("e1", "true")
            await asyncio.sleep(3)
            assert fault.starts() <= 7  # at 0, 0, 1, 3 and 7 s
            fault.switch.unlink()
            await soon(lambda: helper_of(lab) != 0, "a helper")
            await (await box.exec("e2", "true")).read_all()


async def test_helpers_that_are_killed_at_work_one_after_the_other_are_replaced_at_once() -> None:
    async with Lab() as lab:
        box = await lab.run("cat", stdin=True)
        for number in range(4):
            os.kill(helper_of(lab), signal.SIGKILL)  # in a pause the exec would be refused
            assert await (await box.exec(f"e{number}", "echo", "hi")).read_all() == b"hi\n"


async def test_zygotes_that_are_killed_at_work_one_after_the_other_are_replaced_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shims_module, "_ZYGOTE_PAUSE_S", 1000.0)
    monkeypatch.setattr(shims_module, "_ZYGOTE_PAUSE_LIMIT_S", 1000.0)
    async with Lab() as lab:
        for _ in range(3):
            await lab.make("true", fork_only=True)
            killed = lab.zygote.pid
            os.kill(killed, signal.SIGKILL)
            await soon(lambda: lab.zygote.pid not in (0, killed), "the next zygote")  # noqa: B023


async def test_a_zygote_without_descriptors_for_a_helper_says_so_and_lives() -> None:
    async with Lab() as lab:
        box = await lab.run("cat", stdin=True)
        zygote = lab.zygote.pid
        used = len(descriptors(zygote))
        limits = at_its_limit(zygote)
        os.kill(helper_of(lab), signal.SIGKILL)
        await soon(lambda: len(descriptors(zygote)) < used, "the end of the helper's pipe")
        resource.prlimit(zygote, resource.RLIMIT_NOFILE, (lowest_free(zygote) + 1, limits[1]))  # a pipe wants two
        with pytest.raises(Unavailable, match="the runtime's helper does not start: fork: too many open files"):
            await box.exec("e1", "true")
        resource.prlimit(zygote, resource.RLIMIT_NOFILE, limits)
        await soon(lambda: helper_of(lab) != 0, "a helper")
        assert await (await box.exec("e2", "echo", "hi")).read_all() == b"hi\n"
        assert lab.zygote.pid == zygote


def at_its_limit(pid: int) -> tuple[int, int]:
    """Leave a process no free descriptor, also when it closes one; the limits before."""
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    return limits


def descriptors(pid: int) -> set[int]:
    return {int(name) for name in os.listdir(f"/proc/{pid}/fd")}


def lowest_free(pid: int) -> int:
    used = descriptors(pid)
    return min(set(range(len(used) + 1)) - used)


# What stands still


@pytest_asyncio.fixture
async def lab() -> AsyncIterator[Lab]:
    """Who looks every half second."""
    with weakened_corten.build(*QUICK_LOOKS) as build:
        async with Lab(commands=build.commands) as made:
            yield made


async def test_a_helper_that_hangs_is_replaced_and_who_waits_for_it_is_served(lab: Lab) -> None:
    box = await lab.run("cat", stdin=True)
    hung = helper_of(lab)
    os.kill(hung, signal.SIGSTOP)
    other, stream = await asyncio.wait_for(asyncio.gather(lab.run("echo", "hi"), box.exec("e1", "echo", "ho")), 60)
    assert await stream.read_all() == b"ho\n"
    await other.wait_event("exit")
    assert other.log_text() == "hi\n"
    assert helper_of(lab) not in (0, hung)
    await talks(box)


async def test_a_create_whose_helper_hangs_is_an_error_and_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    script = f"echo $$ > {mark}; exec sleep 1000"
    box = await lab.make("true", change=hook("createRuntime", script), fork_only=True)
    creating = asyncio.create_task(lab.create(box))
    await soon(lambda: mark.exists() and bool(mark.read_text()), "the hook")
    await asyncio.sleep(2)
    assert not creating.done()  # a hook takes as long as it takes
    os.kill(helper_of(lab), signal.SIGSTOP)
    with pytest.raises(Exception, match="create: the helper died"):
        await asyncio.wait_for(creating, 60)
    assert not children(box.client.pid)
    assert not (box.directory / "runtime" / box.id).exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"*{box.config['linux']['cgroupsPath']}"))
    os.kill(int(mark.read_text()), signal.SIGKILL)  # the hook was the helper's child


async def test_a_helper_that_stands_still_for_a_moment_is_not_replaced(lab: Lab) -> None:
    first = helper_of(lab)
    with stopped(first):
        starting = asyncio.create_task(lab.run("true"))
        await asyncio.sleep(0.7)
    await asyncio.wait_for(starting, 60)
    with stopped(first):
        await asyncio.sleep(3)  # nobody waits for it
    assert helper_of(lab) == first


async def test_a_zygote_that_goes_on_forks_no_shim_for_a_request_that_was_given_up(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = lab.tasks / "late"
    folder.mkdir()
    with monkeypatch.context() as hurry, stopped(lab.zygote.pid):
        hurry.setattr(shims_module, "_ZYGOTE_TIMEOUT_S", 0.3)
        with pytest.raises(Unavailable, match="zygote does not answer"):
            await lab.zygote.fork(str(folder), "test", "late", events=lambda event: None, lost=lambda: None)
    await lab.run("true")
    assert not list(folder.iterdir())  # a shim's log is its first file


async def test_a_helper_without_descriptors_lets_its_callers_wait_and_does_not_spin() -> None:
    async with Lab() as lab:
        box = await lab.run("cat", stdin=True)
        helper = helper_of(lab)
        await asyncio.sleep(0.3)  # the session of the start has ended
        limits = at_its_limit(helper)
        before = cpu_s(helper)
        waiting = asyncio.create_task(box.exec("e1", "echo", "hi"))
        await asyncio.sleep(1)
        assert cpu_s(helper) - before < 0.1
        assert not waiting.done()
        resource.prlimit(helper, resource.RLIMIT_NOFILE, limits)
        assert await (await waiting).read_all() == b"hi\n"


async def test_a_helper_that_stays_without_descriptors_is_not_taken_for_one_that_hangs(lab: Lab) -> None:
    box = await lab.run("cat", stdin=True)
    helper = helper_of(lab)
    await asyncio.sleep(0.3)  # the session of the start has ended
    limits = at_its_limit(helper)
    waiting = asyncio.create_task(box.exec("e1", "echo", "hi"))
    await asyncio.sleep(4)  # eight looks
    assert helper_of(lab) == helper
    assert not waiting.done()
    resource.prlimit(helper, resource.RLIMIT_NOFILE, limits)
    assert await (await waiting).read_all() == b"hi\n"


def cpu_s(pid: int) -> float:
    """Time on a processor, of every thread."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_zygote_that_hangs_is_an_error_in_words_and_its_late_answers_leave_no_shim() -> None:
    with faulty_engine(("core/shims.py", "_ZYGOTE_TIMEOUT_S = 10.0", "_ZYGOTE_TIMEOUT_S = 1.0")) as engine:
        engine.docker("run", "-d", "--name", "goes-on", IMAGE, "sleep", "1000", check=True)
        engine.docker("create", "--name", "late", IMAGE, "sleep", "1000", check=True)
        hung = zygote(engine)
        os.kill(hung, signal.SIGSTOP)
        for _ in range(2):
            failed = engine.docker("start", "late")
            assert re.search(rf"zygote does not answer \(.*\), process {hung}: try again in 20 s", failed.stderr)
        assert engine.docker("exec", "goes-on", "echo", "ok", check=True).stdout == "ok\n"
        os.kill(hung, signal.SIGCONT)
        engine.docker("start", "late", check=True)
        until(lambda: len(shims(engine)) == 2, "one shim for each container")
        assert zygote(engine) == hung
        engine.kill9()  # the right shim has the socket: it is found again
        engine.start()
        assert inspect(engine, "late")["State"]["Running"]
        assert inspect(engine, "late")["RestartCount"] == 0
        engine.docker("rm", "-f", "late", "goes-on", check=True)
        until(lambda: not remains(engine), "remains after a hang")


@pytest.mark.slow
def test_a_zygote_that_hangs_for_good_is_replaced_and_holds_up_no_stop_of_cortend() -> None:
    edits: tuple[Edit, ...] = (
        ("core/shims.py", "_ZYGOTE_TIMEOUT_S = 10.0", "_ZYGOTE_TIMEOUT_S = 1.0"),
        ("core/shims.py", "_ZYGOTE_HANGS_S = 20.0", "_ZYGOTE_HANGS_S = 2.0"),
    )
    with faulty_engine(*edits) as engine:
        hung = zygote(engine)
        os.kill(hung, signal.SIGSTOP)
        assert "zygote does not answer" in engine.docker("run", "--rm", IMAGE, "true").stderr
        until(lambda: zygote(engine) not in (0, hung), "another zygote")
        assert f"zygote (process {hung}) hangs: killed" in engine.log.read_text()
        engine.docker("run", "--rm", IMAGE, "true", check=True)
        hung = zygote(engine)
        os.kill(hung, signal.SIGSTOP)
        begin = time.monotonic()
        engine.stop()
        assert time.monotonic() - begin < 15
        assert not Path(f"/proc/{hung}").exists()
        engine.start()


def test_a_zygote_and_a_helper_that_are_stopped_end_with_cortend(engine: CortenEngine) -> None:
    engine.docker("run", "-d", "--name", "goes-on", IMAGE, "sleep", "1000", check=True)
    docker = str(peers.docker_cli())
    stopped_ones = [zygote(engine), helper(engine)]
    for pid in stopped_ones:
        os.kill(pid, signal.SIGSTOP)
    asking = subprocess.Popen([docker, "-H", engine.host, "exec", "goes-on", "true"], stdin=subprocess.DEVNULL)
    time.sleep(0.3)
    engine.kill9()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in stopped_ones), "the end of both")
    asking.wait(60)
    engine.start()
    assert engine.docker("exec", "goes-on", "echo", "ok", check=True).stdout == "ok\n"
    engine.docker("rm", "-f", "goes-on", check=True)
    until(lambda: not remains(engine), "remains")
