"""The helper does a shim's work: nothing that hangs stops the shim, and the helper's death is an error in words."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from corten.core import shims
from corten.errors import CortenError, FailedPrecondition, Internal, NotFound, Unavailable
from support.process import children
from support.shimlab import Box, Lab, Stream, is_alive, until

PRIVATE_DIRTY_KB = 1500  # of a shim at rest; before there were helper and rest it was 3500


@pytest_asyncio.fixture
async def lab() -> AsyncIterator[Lab]:
    async with Lab() as made:
        yield made


def helper_of(lab: Lab) -> int:
    """The pid of the zygote's helper, 0 without one."""
    for pid in children(lab.zygote.pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if b"helper" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    return 0


async def kill_helper(lab: Lab) -> None:
    """And wait for its successor."""
    await until(lambda: helper_of(lab) != 0, "a helper")  # a new one bears its zygote's name for a moment
    first = helper_of(lab)
    os.kill(first, signal.SIGKILL)
    await until(lambda: helper_of(lab) not in (0, first), "another helper")


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class Catcher(threading.Thread):
    """Stops the next child of a process as soon as it is seen: a launcher at its first steps.

    Or (`late`) as soon as it has a sister: it waits for her then, and will stand still when it has nothing left to do
    but to end; what it launched goes on.
    """

    def __init__(self, pid: int, *, late: bool = False) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._seen = 2 if late else 1
        self._before = set(children(pid))
        self.caught = 0
        self.is_over = False
        self.start()

    def run(self) -> None:
        while not self.caught and not self.is_over:
            fresh = sorted(set(children(self._pid)) - self._before)
            for child in fresh[:1] if len(fresh) >= self._seen else []:
                with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                    # not before its execve, for which posix_spawn waits
                    if Path(f"/proc/{child}/comm").read_text() == "corten-launch\n":
                        os.kill(child, signal.SIGSTOP)
                        self.caught = child

    def end(self) -> int:
        """The process that stands still, 0 for none."""
        self.is_over = True
        self.join()
        return self.caught


async def hang_exec(box: Box, *, late: bool = False) -> tuple[asyncio.Task[Any], int]:
    """An exec whose launcher stands still: the request under way, and the launcher.  Some are too quick to catch."""
    for attempt in range(40):
        catcher = Catcher(box.client.pid, late=late)
        request = asyncio.create_task(box.exec(f"hang{attempt}", "true"))
        await until(lambda: bool(catcher.caught) or request.done(), "a launcher")  # noqa: B023
        caught = catcher.end()
        # one that was behind its last step when the stop came is told of before another exec has gone all the way
        await (await box.exec(f"beside{attempt}", "true")).read_all()
        if caught and is_stopped_launcher(caught) and not request.done():
            return request, caught
        with contextlib.suppress(ProcessLookupError):
            os.kill(caught or box.client.pid, signal.SIGCONT)
        await request
    raise AssertionError("no launcher was caught")


def is_stopped_launcher(pid: int) -> bool:
    """Whether it has not become the program that it is to start."""
    try:
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition(" (")[2].rpartition(") ")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return name == "corten-launch" and rest.startswith("T")


def hook(kind: str, script: str) -> Callable[[dict[str, Any]], None]:
    """A change of config.json: one hook of a kind."""

    def change(config: dict[str, Any]) -> None:
        config["hooks"] = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}

    return change


async def talks(box: Box) -> None:
    """Streams and log of a running `cat` go on, and so do answers."""
    stream = await asyncio.wait_for(box.attach(stdin=True), 60)
    await stream.send(b"are you there\n")
    await stream.read_until(b"are you there\n", timeout=60)
    stream.close()
    await box.client.ping()
    assert "are you there\n" in box.log_text()


# What hangs


async def test_streams_log_and_kill_go_on_while_an_exec_hangs(lab: Lab) -> None:
    box = await lab.run("cat", stdin=True)
    with stopped(helper_of(lab)):
        hanging = asyncio.create_task(box.exec("e1", "true"))
        await asyncio.sleep(0.1)
        await talks(box)
        await box.client.kill(signal.SIGKILL)
        await until(lambda: not is_alive(init_of(box)), "the death of the init")
    with pytest.raises(CortenError):
        await hanging
    assert (await box.wait_event("exit"))["status"] == 137


async def test_an_exec_whose_launcher_stands_still_disturbs_nobody_and_ends_with_its_container(lab: Lab) -> None:
    box = await lab.run("cat", stdin=True)
    hanging, _ = await hang_exec(box)
    await talks(box)
    assert not hanging.done()
    await (await box.exec("e2", "true")).read_all()  # another goes ahead
    await box.client.pause()
    await box.client.resume()
    begin = time.monotonic()
    await box.client.delete(force=True)
    assert time.monotonic() - begin < 8
    outcome = await asyncio.gather(hanging, return_exceptions=True)
    # it may have been at its last step, and the container may be known to be dead
    assert isinstance(outcome[0], Stream | Internal | FailedPrecondition)
    await until(lambda: not children(box.client.pid), "collected launchers")


async def test_an_exec_whose_launcher_stands_still_at_its_end_is_ended_by_a_delete(lab: Lab) -> None:
    """Its process has run and is a zombie that only the launcher's end makes known: with it the init cannot die."""
    box = await lab.run("cat", stdin=True)
    hanging, _ = await hang_exec(box, late=True)
    await asyncio.wait_for(box.client.delete(force=True), 60)
    await asyncio.gather(hanging, return_exceptions=True)
    await until(lambda: not children(box.client.pid), "collected launchers")


async def test_a_hook_that_hangs_at_start_disturbs_no_stream_and_ends_with_its_container(lab: Lab) -> None:
    box = await lab.make("cat", stdin=True, change=hook("poststart", "sleep 1000"))
    hanging = asyncio.create_task(box.client.start())
    await asyncio.sleep(0.1)
    await talks(box)
    await box.client.delete(force=True)
    with pytest.raises(Exception, match="nobody waits for it"):
        await hanging


async def test_a_hook_that_hangs_at_create_is_killed_by_a_delete(lab: Lab, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    script = f"echo $$ > {mark}; exec sleep 1000"
    box = await lab.make("true", change=hook("createRuntime", script), fork_only=True)
    hanging = asyncio.create_task(lab.create(box))
    await until(lambda: mark.exists() and bool(mark.read_text()), "the hook")
    await box.client.ping()
    assert (await box.client.hello())["state"] == "new"
    assert await box.client.delete(force=True) is None
    with pytest.raises(Exception, match="nobody waits for it"):
        await hanging
    assert not is_alive(int(mark.read_text()))
    assert not (box.directory / "runtime" / box.id).exists()
    await until(lambda: not children(box.client.pid), "collected children")


# The helper dies


async def test_a_created_container_is_started_by_another_helper(lab: Lab) -> None:
    box = await lab.make("sh", "-c", "echo hi; sleep 1000")
    await kill_helper(lab)
    await box.client.start()
    trace = await box.client.trace()
    assert trace["steps"][0]["op"].startswith("prctl")
    assert trace["steps"][-1]["op"].startswith("execve")
    assert trace["phases"][-1]["name"] == "start"
    await (await box.exec("e1", "true")).read_all()
    await until(lambda: box.log_text() == "hi\n", "output")


async def test_a_start_that_fails_is_told_in_the_same_words_by_another_helper(lab: Lab) -> None:
    bad = lab.folder / "layer/rootfs/bin/bad"
    bad.write_text("no program")
    bad.chmod(0o755)
    texts = []
    for is_killed in (False, True):
        box = await lab.make("/bin/bad")
        if is_killed:
            await kill_helper(lab)
        with pytest.raises(Exception, match="exec format error") as raised:
            await box.client.start()
        texts.append(str(raised.value))
    assert texts[0] == texts[1]


async def test_a_create_that_loses_its_helper_is_an_error_and_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    box = await lab.make("true", change=hook("createRuntime", f"echo $$ > {mark}; exec sleep 1000"), fork_only=True)
    hanging = asyncio.create_task(lab.create(box))
    await until(lambda: mark.exists() and bool(mark.read_text()), "the hook")
    started = children(box.client.pid)
    assert started
    await kill_helper(lab)
    with pytest.raises(Internal, match="create: the helper died"):
        await hanging
    assert not any(Path(f"/proc/{pid}").exists() for pid in started)
    assert not (box.directory / "runtime" / box.id).exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"*{box.config['linux']['cgroupsPath']}"))
    os.kill(int(mark.read_text()), signal.SIGKILL)  # the hook was the helper's child
    assert (await box.client.hello())["state"] == "new"


async def test_an_exec_that_loses_its_helper_is_an_error_and_leaves_no_process(lab: Lab) -> None:
    box = await lab.run("cat", stdin=True)
    await (await box.exec("e0", "true")).read_all()
    fds = await box.at_rest()
    hanging, _ = await hang_exec(box)
    await kill_helper(lab)
    with pytest.raises(Internal, match="exec: the helper died"):
        await hanging
    assert children(box.client.pid) == [init_of(box)]
    await talks(box)
    await (await box.exec("e2", "true")).read_all()
    await box.until_descriptors(fds)


async def test_the_courier_of_a_log_outlives_an_exec_that_loses_its_helper(lab: Lab) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(60)
        order = {"driver": "syslog", "tag": "t", "facility": 3, "address": ["udp", *server.getsockname()]}
        box = await lab.run("cat", stdin=True, log={"courier": order})
        before = children(box.client.pid)
        assert len(before) == 2
        hanging, _ = await hang_exec(box)
        await kill_helper(lab)
        with pytest.raises(Internal, match="exec: the helper died"):
            await hanging
        assert children(box.client.pid) == before
        await talks(box)
        assert server.recv(4096).startswith(b"<30>")


async def test_a_shim_that_dies_in_a_launch_leaves_no_launcher_and_no_process(lab: Lab) -> None:
    box = await lab.run("cat", stdin=True)
    hanging, launcher = await hang_exec(box)
    os.kill(box.client.pid, signal.SIGKILL)
    with pytest.raises(Unavailable, match="gone"):
        await hanging
    await until(lambda: not is_alive(launcher), "the launcher's death")
    await until(lambda: not is_alive(box.client.pid), "the shim's death: its listener goes behind its connections")
    with pytest.raises(NotFound):
        await box.adopt()


async def test_a_zygote_that_died_is_replaced_before_anybody_asks(lab: Lab) -> None:
    box = await lab.run("cat", stdin=True)
    os.kill(lab.zygote.pid, signal.SIGKILL)
    assert await (await box.exec("e1", "echo", "again")).read_all() == b"again\n"


async def test_a_zygote_that_hangs_is_replaced_and_one_that_is_slow_is_not(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shims, "_ZYGOTE_TIMEOUT_S", 0.5)
    monkeypatch.setattr(shims, "_ZYGOTE_HANGS_S", 4)
    slow = lab.zygote.pid
    os.kill(slow, signal.SIGSTOP)
    with pytest.raises(Unavailable, match="zygote does not answer"):
        await lab.make("true", fork_only=True)
    os.kill(slow, signal.SIGCONT)
    await asyncio.sleep(5)
    assert lab.zygote.pid == slow
    os.kill(slow, signal.SIGSTOP)
    with pytest.raises(Unavailable, match="zygote does not answer"):
        await lab.make("true", fork_only=True)
    await until(lambda: lab.zygote.pid not in (0, slow), "another zygote")
    monkeypatch.setattr(shims, "_ZYGOTE_TIMEOUT_S", 10)
    await (await lab.make("true", fork_only=True)).client.ping()


# Memory


async def test_a_shim_at_rest_has_little_memory_of_its_own_also_after_an_exec(lab: Lab) -> None:
    box, other = await lab.run("sleep", "1000"), await lab.run("sleep", "1000")
    await until(lambda: private_dirty_kb(box) < PRIVATE_DIRTY_KB, "rest")
    await (await box.exec("e1", "true")).read_all()
    await until(lambda: private_dirty_kb(box) < PRIVATE_DIRTY_KB, "rest after an exec", timeout=60)
    await until(lambda: private_dirty_kb(other) < PRIVATE_DIRTY_KB, "rest of the other")
    await talks_of_sleep(box)


async def talks_of_sleep(box: Box) -> None:
    """Rest changes nothing but who owns the pages."""
    stream = await box.exec("e2", "cat", stdin_open=True, stdin=True, stdin_once=True)
    await stream.send(b"x" * 100_000)
    stream.end()
    assert await stream.read_all() == b"x" * 100_000
    await box.client.kill(signal.SIGKILL)
    assert (await box.wait_event("exit"))["status"] == 137


def private_dirty_kb(box: Box) -> int:
    rows = Path(f"/proc/{box.client.pid}/smaps_rollup").read_text()
    return int(re.search(r"^Private_Dirty:\s+(\d+)", rows, re.M).group(1))  # type: ignore[union-attr]


def init_of(box: Box) -> int:
    state = (box.directory / "runtime" / box.id / "state.json").read_text()
    return int(re.search(r'"pid":(\d+)', state).group(1))  # type: ignore[union-attr]
