"""Who may die (design.md §5): cortend's connection, the zygote, a shim, a client; and what is found afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from corten.core.shims import TIMEOUT_S, Attach, ShimClient
from corten.errors import NotFound, Unavailable
from corten.shim.logfile import mend
from support import paths, peers
from support.shimlab import Box, Lab, is_alive, until

RUNTIMES = {"built-in": "", "runc": "runc"}


@pytest_asyncio.fixture(params=RUNTIMES)
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    path = RUNTIMES[request.param]
    async with Lab(str(peers.binary(path)) if path else "") as made:
        yield made


@pytest_asyncio.fixture
async def own_lab() -> AsyncIterator[Lab]:
    async with Lab() as made:
        yield made


# cortend is away


async def test_a_container_is_adopted_with_output_flowing_and_loses_nothing(lab: Lab) -> None:
    script = "trap 'exit 0' USR1; i=0; while :; do i=$((i+1)); echo $i; sleep 0.002; done"
    box = await lab.make("sh", "-c", script)
    stream = await box.attach()
    await box.client.start()
    first = await stream.read_until(b"20\n")
    box.client.close()
    await until(partial(is_longer, box.log_path, box.log_path.stat().st_size + 5000), "output while cortend is away")
    hello = await box.adopt()
    assert (hello["state"], hello["exit"], hello["clients"]) == ("running", None, 1)
    await box.client.kill(signal.SIGUSR1)
    assert (await box.wait_event("exit"))["status"] == 0
    numbers = box.log_text().splitlines()
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
    assert (first + await stream.read_all()).decode().splitlines() == numbers


async def test_an_exit_during_the_outage_is_told_at_adoption(lab: Lab) -> None:
    script = 'trap "{last}" USR1; echo ready; while :; do sleep 0.01; done'
    box = await lab.run("sh", "-c", script.format(last="echo done; exit 6"))
    stream = await box.exec("e1", "sh", "-c", script.format(last="exit 3"))
    await stream.read_until(b"ready\n")
    await until(lambda: box.log_text() == "ready\n", "the trap of the init")
    pids = [(await box.client.exec_status("e1"))["pid"], (await box.client.hello())["init_pid"]]
    box.client.close()
    os.kill(pids[0], signal.SIGUSR1)
    await stream.read_all()
    os.kill(pids[1], signal.SIGUSR1)
    await until((box.directory / "exit").exists, "the exit record")
    hello = await box.adopt()
    assert hello["state"] == "stopped"
    assert hello["exit"]["status"] == 6
    assert hello["exit"] == json.loads((box.directory / "exit").read_text())
    assert (hello["execs"]["e1"]["state"], hello["execs"]["e1"]["status"]) == ("exited", 3)
    assert box.log_text() == "ready\ndone\n"
    assert await box.remove() == hello["exit"]


async def test_an_open_exec_goes_on_through_the_outage(lab: Lab) -> None:
    box = await lab.run("sleep", "1000")
    stream = await box.exec("e1", "cat", stdin_open=True, stdin=True, stdin_once=True)
    await stream.send(b"before\n")
    await stream.read_until(b"before\n")
    box.client.close()
    await stream.send(b"during\n")
    assert await stream.read_until(b"during\n") == b"during\n"
    hello = await box.adopt()
    assert hello["execs"]["e1"]["state"] == "running"
    await stream.send(b"after\n")
    stream.end()
    assert await stream.read_all() == b"after\n"
    assert (await box.wait_event("exec-exit"))["status"] == 0


async def test_an_attached_terminal_goes_on_through_the_outage(lab: Lab) -> None:
    box = await lab.run("sh", tty=True, stdin=True)
    stream = await box.attach(stdin=True, detach_keys="ctrl-p,ctrl-q")
    box.client.close()
    await stream.send(b"echo aw''ay\n")
    await stream.read_until(b"away")
    assert (await box.adopt())["terminal"]
    await box.client.resize(20, 40)
    await stream.send(b"stty size; exit 4\n")
    await stream.read_until(b"20 40")
    assert (await box.wait_event("exit"))["status"] == 4


async def test_a_created_container_waits_for_a_new_cortend(lab: Lab) -> None:
    box = await lab.make("echo", "hi")
    hello = await box.adopt()
    assert (hello["state"], hello["init_pid"] > 0) == ("created", True)
    await box.client.start()
    await box.wait_event("exit")
    assert box.log_text() == "hi\n"


async def test_two_peers_hear_the_same_events(own_lab: Lab) -> None:
    box = await own_lab.run("sleep", "1000")
    heard: list[dict[str, Any]] = []
    other, hello = await ShimClient.connect(str(box.directory), events=heard.append, lost=lambda: None)
    assert hello["pid"] == box.client.pid
    await other.kill(signal.SIGKILL)
    await box.wait_event("exit")
    await until(lambda: bool(heard), "the event at the second peer")
    assert heard == box.events
    other.close()


async def test_an_exit_record_that_cannot_be_written_keeps_no_end_from_being_told(own_lab: Lab) -> None:
    box = await own_lab.run("sleep", "1000")
    (box.directory / "exit").mkdir()
    await box.client.kill(signal.SIGKILL)
    assert (await box.wait_event("exit"))["status"] == 137
    (box.directory / "exit").rmdir()
    assert (await box.adopt())["state"] == "stopped"


async def test_a_shim_without_a_container_ends_with_its_cortend(own_lab: Lab) -> None:
    box = await own_lab.make("true", fork_only=True)
    pid = box.client.pid
    await box.client.ping()
    box.client.close()
    await until(lambda: not is_alive(pid), "the shim's end")
    assert not (box.directory / "shim.sock").exists()
    with pytest.raises(NotFound):
        await ShimClient.connect(str(box.directory), events=lambda event: None, lost=lambda: None)


async def test_everything_works_below_a_long_exec_root(tmp_path: Path) -> None:
    folder = paths.scratch("long")
    root = folder / ("r" * 150)
    try:
        async with Lab(root=root) as lab:
            box = await lab.run("sh", tty=True, stdin=True)
            assert (await box.adopt())["state"] == "running"
            stream = await box.exec("e1", "echo", "ok")
            assert await stream.read_all() == b"ok\n"
        async with Lab(str(peers.binary("runc")), root=folder / ("q" * 150)) as lab:
            box = await lab.run("sh", tty=True, stdin=True)
            assert (await box.adopt())["state"] == "running"
    finally:
        shutil.rmtree(folder)


# The zygote dies


async def test_shims_survive_the_zygote_and_a_new_one_is_started(lab: Lab) -> None:
    box = await lab.run("sh", "-c", "cat; exit 8", stdin=True)
    first = lab.zygote.pid
    os.kill(first, signal.SIGKILL)
    other = await lab.run("echo", "from the next zygote")
    assert lab.zygote.pid not in (0, first)
    await other.wait_event("exit")
    assert other.log_text() == "from the next zygote\n"
    stream = await box.attach(stdin=True, stdin_once=True)
    await stream.send(b"alive")
    stream.end()
    assert await stream.read_all() == b"alive"
    assert (await box.wait_event("exit"))["status"] == 8


async def test_a_zygote_that_dies_under_a_request_is_replaced(own_lab: Lab) -> None:
    os.kill(own_lab.zygote.pid, signal.SIGSTOP)
    asking = asyncio.create_task(own_lab.make("true", fork_only=True))
    await asyncio.sleep(0.05)
    os.kill(own_lab.zygote.pid, signal.SIGKILL)
    await (await asking).client.ping()


async def test_the_zygote_ends_with_its_control_socket(own_lab: Lab) -> None:
    pid = own_lab.zygote.pid
    box = await own_lab.run("sleep", "1000")
    await own_lab.zygote.close()
    assert not Path(f"/proc/{pid}").exists()
    await box.client.ping()


async def test_the_zygote_collects_dead_shims(own_lab: Lab) -> None:
    box, other = await own_lab.run("true"), await own_lab.run("sleep", "1000")
    await box.wait_event("exit")
    await box.remove()
    os.kill(other.client.pid, signal.SIGKILL)
    gone = [box.client.pid, other.client.pid]
    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in gone), "collected shims")


# A shim dies


async def test_a_killed_shim_takes_its_container_along(own_lab: Lab) -> None:
    box = await own_lab.run("sh", "-c", "sleep 1000 & sleep 1000")
    other = await own_lab.run("sleep", "1000")
    await until(lambda: len(members(box)) == 2, "two processes")
    victims = members(box)
    os.kill(box.client.pid, signal.SIGKILL)
    await asyncio.wait_for(box.lost.wait(), 60)
    await until(lambda: not any(is_alive(pid) for pid in victims), "the container's death")
    with pytest.raises(Unavailable):
        await box.client.ping()
    with pytest.raises(NotFound):
        await ShimClient.connect(str(box.directory), events=lambda event: None, lost=lambda: None)
    await other.client.ping()


async def test_a_shim_that_is_killed_in_the_middle_of_a_flood_leaves_every_byte_and_no_torn_line(own_lab: Lab) -> None:
    torn = 0
    for attempt in range(6):
        box = await own_lab.run("sh", "-c", "while :; do seq 1 2000; done")
        await until(partial(is_longer, box.log_path, 200_000 + 50_000 * attempt), "a log")
        os.kill(box.client.pid, signal.SIGKILL)
        await asyncio.wait_for(box.lost.wait(), 60)
        raw = box.log_path.read_bytes()
        torn += mend(str(box.log_path)) > 0
        mended = box.log_path.read_bytes()
        assert mended.startswith(raw[: raw.rfind(b"\n") + 1])
        text = box.log_text()
        expected = "".join(f"{number}\n" for number in range(1, 2001))
        assert text == (expected * (len(text) // len(expected) + 1))[: len(text)]
    print(f"torn {torn} of 6")


async def test_a_hung_shim_is_noticed_and_does_not_block_others(own_lab: Lab) -> None:
    box, other = await own_lab.run("sleep", "1000"), await own_lab.run("sleep", "1000")
    os.kill(box.client.pid, signal.SIGSTOP)
    begin = time.monotonic()
    with pytest.raises(Unavailable, match="does not answer"):
        await box.client.ping()
    assert time.monotonic() - begin < TIMEOUT_S, "not a ping's patience, but that of other requests"
    await other.client.ping()
    os.kill(box.client.pid, signal.SIGCONT)
    await box.client.ping()


# A client dies, or does not read


async def test_a_client_that_does_not_read_gets_the_rest_after_the_container_is_gone(own_lab: Lab) -> None:
    box = await own_lab.make("seq", "1", "30000")
    stream = await box.attach()
    pid = box.client.pid
    await box.client.start()
    await box.wait_event("exit")
    await box.remove()
    await until(lambda: not (box.directory / "shim.sock").exists(), "the end of the shim's socket")
    assert (await stream.read_all()).decode() == "".join(f"{number}\n" for number in range(1, 30001))
    await until(lambda: not is_alive(pid), "the shim's end")


async def test_a_shim_that_ends_holds_no_port_for_a_client_that_does_not_read(lab: Lab) -> None:
    reserved = socket.socket()
    reserved.bind(("127.0.0.1", 0))
    port = reserved.getsockname()[1]
    box = await lab.make("sh", "-c", "echo here; exec yes", hold={f"port:{port}": reserved.fileno()})
    reserved.close()
    stream = await box.attach()
    await box.client.start()
    await stream.read_until(b"here\n")
    await until(partial(is_longer, box.log_path, 11_000_000), "more output than the connection takes")
    await box.client.shutdown(force=True)
    assert is_alive(box.client.pid)
    with socket.socket() as rival:
        rival.bind(("127.0.0.1", port))
    stream.end()
    await stream.read_all()
    await until(lambda: not is_alive(box.client.pid), "the shim's end")


async def test_a_client_that_vanishes_does_not_disturb_the_container(lab: Lab) -> None:
    box = await lab.run("cat", stdin=True)
    stream = await box.attach(stdin=True)
    await stream.send(b"x" * 100)
    stream.close()
    keeper = await box.attach(stdin=True, stdin_once=True)
    await keeper.send(b"end\n")
    keeper.end()
    assert (await keeper.read_all()).endswith(b"end\n")
    assert (await box.wait_event("exit"))["status"] == 0


async def test_nothing_is_left_in_a_shim_by_a_thousand_short_execs(own_lab: Lab) -> None:
    box = await own_lab.run("sleep", "1000")
    await (await box.exec("warm", "true")).read_all()
    before = await box.at_rest()
    process = {**box.config["process"], "args": ["true"]}
    for number in range(100):
        await box.client.exec_start(f"e{number}", process, attach=None)
    for number in range(20):
        await (await box.exec(f"s{number}", "echo", "x")).read_all()
    await box.until_descriptors(before)
    assert await box.client.pids() == [(await box.client.hello())["init_pid"]]


async def test_attach_of_a_stopped_container_is_refused(own_lab: Lab) -> None:
    box = await own_lab.run("true")
    await box.wait_event("exit")
    with pytest.raises(Unavailable, match="streams of the process have ended"):
        await box.attach()


async def test_attaching_hands_the_connection_over_for_good(own_lab: Lab) -> None:
    box = await own_lab.make("echo", "late")
    stream = box.stream()
    await box.client.attach(stream.theirs.fileno(), Attach())
    stream.theirs.close()
    await box.client.start()
    assert await stream.read_all() == b"late\n"


def is_longer(path: Path, size: int) -> bool:
    return path.stat().st_size > size


def members(box: Box) -> list[int]:
    """Host pids of a container's processes."""
    cgroup = box.config["linux"]["cgroupsPath"]
    path = Path(f"/sys/fs/cgroup/pids{cgroup}/cgroup.procs")
    if not path.exists():
        path = Path(f"/sys/fs/cgroup{cgroup}/cgroup.procs")
    return [int(pid) for pid in path.read_text().split()]
