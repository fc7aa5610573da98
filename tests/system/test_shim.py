"""Containers through zygote, shim and runtime: streams, log, exec, exit; with the built-in runtime and with runc."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from corten.errors import CortenError, FailedPrecondition, InvalidArgument, NotFound
from corten.shim.protocol import NETNS_FD
from corten.sys import netns
from support import peers
from support.shimlab import Lab, frames, is_alive, until

RUNTIMES = {"built-in": "", "runc": "runc"}


@pytest_asyncio.fixture(params=RUNTIMES)
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    path = RUNTIMES[request.param]
    async with Lab(str(peers.binary(path)) if path else "") as made:
        yield made


@pytest_asyncio.fixture
async def own_lab() -> AsyncIterator[Lab]:
    """The built-in runtime alone."""
    async with Lab() as made:
        yield made


# Output, log, exit


async def test_output_goes_to_client_and_log_and_the_exit_code_is_kept(lab: Lab) -> None:
    box = await lab.make("sh", "-c", "echo out; echo err >&2; exit 7")
    stream = await box.attach(multiplexed=True)
    answer = await box.client.start()
    exit_event = await box.wait_event("exit")
    assert frames(await stream.read_all()) == {1: b"out\n", 2: b"err\n"}
    assert (box.log_text("stdout"), box.log_text("stderr")) == ("out\n", "err\n")
    assert (exit_event["status"], exit_event["signal"], exit_event["oom_killed"]) == (7, 0, False)
    assert exit_event["started_at"] == answer["started_at"] <= exit_event["at"]
    record = json.loads((box.directory / "exit").read_text())
    assert {**record, "event": "exit"} == exit_event
    assert await box.remove() == record


async def test_the_exit_record_is_on_disk_before_anybody_is_told(lab: Lab) -> None:
    box = await lab.make("true")
    seen: list[bool] = []
    inner = box.on_event

    def look(event: dict[str, Any]) -> None:
        seen.append((box.directory / "exit").exists())
        inner(event)

    box.client._channel._on_event = look
    await box.client.start()
    await box.wait_event("exit")
    assert seen == [True]


async def test_a_program_that_cannot_be_found_fails_the_create_and_leaves_nothing(lab: Lab) -> None:
    with pytest.raises(CortenError, match='exec: "nosuch": executable file not found in \\$PATH'):
        await lab.make("nosuch")
    box = lab.boxes[0]
    assert (await box.client.hello())["state"] == "new"
    await box.client.shutdown()
    await asyncio.wait_for(box.lost.wait(), 60)
    assert not (box.directory / "shim.sock").exists()


async def test_killed_processes_have_the_status_of_their_signal(lab: Lab) -> None:
    box = await lab.run("sleep", "1000")
    await box.client.kill(signal.SIGKILL)
    exit_event = await box.wait_event("exit")
    assert (exit_event["status"], exit_event["signal"]) == (137, 9)
    with pytest.raises(FailedPrecondition, match="container not running"):
        await box.client.kill(signal.SIGTERM)


async def test_a_created_container_that_is_killed_stops(lab: Lab) -> None:
    box = await lab.make("sleep", "1000")
    await box.client.kill(signal.SIGKILL)
    assert (await box.wait_event("exit"))["status"] == 137
    with pytest.raises(FailedPrecondition):
        await box.client.start()


async def test_a_running_container_is_deleted_by_force_alone(lab: Lab) -> None:
    box = await lab.run("sleep", "1000")
    with pytest.raises(FailedPrecondition, match="not stopped"):
        await box.client.delete()
    with pytest.raises(FailedPrecondition):
        await box.client.shutdown()
    record = await box.client.delete(force=True)
    assert record is not None
    assert record["status"] == 137
    assert await box.client.delete() == record


async def test_a_large_output_arrives_whole_in_log_and_client(lab: Lab) -> None:
    box = await lab.make("seq", "1", "300000")
    stream = await box.attach(multiplexed=True)
    await box.client.start()
    expected = "".join(f"{number}\n" for number in range(1, 300001))
    assert frames(await stream.read_all())[1].decode() == expected
    await box.wait_event("exit")
    assert box.log_text() == expected


async def test_a_rotated_log_keeps_the_last_records(lab: Lab) -> None:
    box = await lab.run("seq", "1", "20000", log={"max_size": 50_000, "max_files": 2})
    await box.wait_event("exit")
    assert 50_000 <= Path(f"{box.log_path}.1").stat().st_size < 50_200
    assert box.log_path.stat().st_size < 50_200
    assert box.log()[-1]["log"] == "20000\n"


async def test_labels_and_env_of_the_log_options_are_in_every_record(lab: Lab) -> None:
    box = await lab.run("echo", "x", log={"attributes": {"b": "1", "a": "<2>"}})
    await box.wait_event("exit")
    assert box.log_path.read_bytes().startswith(
        rb'{"log":"x\n","stream":"stdout","attrs":{"a":"\u003c2\u003e","b":"1"},"time":"'
    )


# Input


@pytest.mark.parametrize("form", ["before start", "with the request", "half-closed at once", "after start"])
async def test_stdin_arrives_in_every_form(lab: Lab, form: str) -> None:
    box = await lab.make("cat", stdin=True)
    first = b"first " if form == "with the request" else b""
    stream = await box.attach(stdin=True, stdin_once=True, initial_stdin=first)
    if form != "after start":
        await stream.send(b"words")
        stream.end()
    await box.client.start()
    if form == "after start":
        await stream.send(b"words")
        stream.end()
    assert await stream.read_all() == first + b"words"
    assert (await box.wait_event("exit"))["status"] == 0


async def test_much_stdin_passes_through_a_process_unchanged(lab: Lab) -> None:
    box = await lab.make("sha256sum", stdin=True)
    stream = await box.attach(stdin=True, stdin_once=True)
    await box.client.start()
    data = os.urandom(1 << 20) * 8
    await stream.send(data)
    stream.end()
    assert (await stream.read_all()).split()[0].decode() == hashlib.sha256(data).hexdigest()


async def test_stdin_both_ways_at_once_with_a_log(own_lab: Lab) -> None:
    box = await own_lab.make("cat", stdin=True)
    stream = await box.attach(stdin=True, stdin_once=True)
    await box.client.start()
    data = b"".join(b"%099d\n" % number for number in range(80_000))
    sending = asyncio.create_task(stream.send(data))
    received = b""
    while len(received) < len(data):
        received += await stream.read()
    await sending
    stream.end()
    assert received == data
    await box.wait_event("exit")
    assert box.log_text().encode() == data


async def test_a_second_client_that_leaves_does_not_end_stdin(lab: Lab) -> None:
    box = await lab.run("cat", stdin=True)
    first = await box.attach(stdin=True)
    second = await box.attach(stdin=True)
    await second.send(b"from two\n")
    assert await first.read_until(b"two\n") == b"from two\n"
    second.end()
    assert await second.read_all() == b"from two\n"
    await first.send(b"from one\n")
    assert await first.read_until(b"one\n") == b"from one\n"
    await box.client.close_stdin()
    assert (await box.wait_event("exit"))["status"] == 0


async def test_without_stdin_a_process_reads_the_end_at_once(lab: Lab) -> None:
    box = await lab.run("cat")
    assert (await box.wait_event("exit"))["status"] == 0


# Terminals


async def test_a_terminal_has_its_size_and_follows_resizing(lab: Lab) -> None:
    box = await lab.make("sh", tty=True, stdin=True, size=(33, 77))
    stream = await box.attach(stdin=True, detach_keys="ctrl-p,ctrl-q")
    await box.client.start()
    await stream.send(b"stty size\n")
    await stream.read_until(b"33 77")
    await box.client.resize(44, 88)
    await stream.send(b"stty size\n")
    await stream.read_until(b"44 88")
    await stream.send(b"exit 3\n")
    assert (await box.wait_event("exit"))["status"] == 3
    await stream.read_all()


async def test_detach_keys_leave_the_process_running(lab: Lab) -> None:
    box = await lab.run("sh", tty=True, stdin=True)
    stream = await box.attach(stdin=True, detach_keys="ctrl-x")
    await stream.send(b"echo still\n\x18")
    await stream.read_all()
    assert (await box.wait_event("detach"))["exec_id"] == ""
    again = await box.attach(stdin=True)
    await again.send(b"echo he''re\n")
    await again.read_until(b"here")
    assert (await box.client.hello())["state"] == "running"


async def test_wrong_detach_keys_are_refused(lab: Lab) -> None:
    box = await lab.run("sh", tty=True, stdin=True)
    with pytest.raises(InvalidArgument, match=r"Invalid detach keys \(ctrl-\) provided"):
        await box.attach(detach_keys="ctrl-")


# Exec


async def test_exec_has_its_own_streams_and_exit_code(lab: Lab) -> None:
    box = await lab.run("sleep", "1000")
    stream = await box.exec("e1", "sh", "-c", "echo out; echo err >&2; cat; exit 5", stdin_open=True, stdin=True,
                            stdin_once=True, multiplexed=True)  # fmt: skip
    await stream.send(b"typed")
    stream.end()
    assert frames(await stream.read_all()) == {1: b"out\ntyped", 2: b"err\n"}
    status = await box.client.exec_status("e1")
    assert (status["state"], status["status"]) == ("exited", 5)
    assert box.log_path.read_bytes() == b""
    await box.client.exec_forget("e1")
    with pytest.raises(NotFound):
        await box.client.exec_status("e1")


async def test_exec_with_a_terminal(lab: Lab) -> None:
    box = await lab.run("sleep", "1000")
    stream = await box.exec("e1", "sh", terminal=True, stdin_open=True, stdin=True)
    await box.client.resize(12, 34, "e1")
    await stream.send(b"stty size; tty; exit 9\n")
    assert b"12 34" in await stream.read_all()
    assert (await box.wait_event("exec-exit"))["status"] == 9


async def quickest(attempts: int, enough_s: float, attempt: Callable[[int], Awaitable[None]]) -> float:
    """Seconds of the quickest attempt, as soon as one is quick enough: what waits by the clock is never quick."""
    best = float("inf")
    for number in range(attempts):
        begin = time.monotonic()
        await attempt(number)
        best = min(best, time.monotonic() - begin)
        if best < enough_s:
            break
    return best


async def test_the_stream_of_an_exec_with_a_terminal_ends_with_the_process(lab: Lab) -> None:
    box = await lab.run("sleep", "1000")

    async def attempt(number: int) -> None:
        stream = await box.exec(f"e{number}", "sh", "-c", "echo done", terminal=True, stdin_open=True, stdin=True)
        assert b"done" in await stream.read_all()

    assert await quickest(6, 1.5, attempt) < 1.5, "it waited for writers that are not there"


async def test_an_exec_that_cannot_start_says_why(lab: Lab) -> None:
    box = await lab.run("sleep", "1000")
    with pytest.raises(CortenError, match='exec: "nosuch": executable file not found in \\$PATH'):
        await box.exec("e1", "nosuch")
    with pytest.raises(NotFound):
        await box.client.exec_status("e1")
    stream = await box.exec("e1", "echo", "works")
    assert await stream.read_all() == b"works\n"


async def test_exits_of_execs_are_told_before_that_of_the_init(lab: Lab) -> None:
    box = await lab.run("sleep", "1000")
    for number in range(3):
        await box.exec(f"e{number}", "sleep", "1000")
    await box.client.kill(signal.SIGKILL)
    await box.wait_event("exit")
    assert [event["event"] for event in box.events] == ["exec-exit"] * 3 + ["exit"]
    assert {event["status"] for event in box.events} == {137}


async def test_an_exec_whose_child_holds_its_output_is_told_at_once_and_ends_soon(lab: Lab) -> None:
    box = await lab.run("sleep", "1000")
    streams = []

    async def attempt(number: int) -> None:
        streams.append(await box.exec(f"e{number}", "sh", "-c", "sleep 1000 & echo started; exit 4"))
        await until(lambda: len(box.events) > number, "the exit of the exec")

    assert await quickest(6, 1.5, attempt) < 1.5, "told with the end of its stream"
    assert {(event["event"], event["status"]) for event in box.events} == {("exec-exit", 4)}
    for stream in streams:
        assert await stream.read_all() == b"started\n"


async def test_a_signal_reaches_an_exec_alone(lab: Lab) -> None:
    box = await lab.run("sleep", "1000")
    await box.exec("e1", "sleep", "1000")
    await box.client.kill(signal.SIGTERM, "e1")
    assert (await box.wait_event("exec-exit"))["status"] == 143
    assert (await box.client.hello())["state"] == "running"


# Limits and cgroup


def limited(memory: int = 0, pids: int = 0) -> Any:
    def change(config: dict[str, Any]) -> None:
        resources = config["linux"]["resources"]
        if memory:
            resources["memory"] = {"limit": memory, "swap": memory}
        if pids:
            resources["pids"] = {"limit": pids}

    return change


async def test_an_oom_kill_is_in_the_exit_record_and_an_event(lab: Lab) -> None:
    box = await lab.run("sh", "-c", "sleep 0.3; dd if=/dev/zero of=/dev/null bs=60M", change=limited(memory=8 << 20))
    exit_event = await box.wait_event("exit")
    assert exit_event["oom_killed"]
    assert exit_event["oom_kill_count"] >= 1
    assert (await box.wait_event("oom"))["oom_kill_count"] >= 1


async def test_forks_refused_at_the_pids_limit_are_counted(lab: Lab) -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done"
    box = await lab.run("sh", "-c", script, change=limited(pids=4))
    exit_event = await box.wait_event("exit")
    assert exit_event["pids_max_hits"] >= 1
    assert not exit_event["oom_killed"]


async def test_a_paused_container_stands_still(lab: Lab) -> None:
    box = await lab.run("sleep", "1000")
    await box.client.pause()
    assert (await box.client.hello())["state"] == "paused"
    with pytest.raises(FailedPrecondition, match="paused"):
        await box.exec("e1", "true")
    with pytest.raises(FailedPrecondition):
        await box.client.pause()
    await box.client.resume()
    assert await (await box.exec("e2", "echo", "on")).read_all() == b"on\n"
    await box.client.pause()
    assert (await box.client.delete(force=True) or {})["status"] == 137


async def test_limits_are_updated(lab: Lab) -> None:
    box = await lab.run("sleep", "1000", change=limited(pids=40))
    await box.client.update({"pids": {"limit": 44}})
    assert (await box.client.stats())["pids"]["limit"] == 44
    assert (await box.client.pids()) == [(await box.client.hello())["init_pid"]]
    assert await box.client.counters() == {"oom_kill_count": 0, "pids_max_hits": 0}


async def test_a_shared_pid_namespace_is_emptied_when_the_init_exits(lab: Lab) -> None:
    def share(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"] = [item for item in config["linux"]["namespaces"] if item["type"] != "pid"]

    box = await lab.run("sh", "-c", "sleep 1000 & echo $!; exit 2", change=share)
    assert (await box.wait_event("exit"))["status"] == 2
    child = int(box.log_text())
    assert not is_alive(child)


# Descriptors


async def test_a_network_namespace_is_found_at_the_promised_place(lab: Lab) -> None:
    netns_fd = netns.make()
    box = await lab.make("ip", "-o", "addr", fork_only=True)
    for item in box.config["linux"]["namespaces"]:
        if item["type"] == "network":
            item["path"] = f"/proc/{box.client.pid}/fd/{NETNS_FD}"
    (box.directory / "config.json").write_text(json.dumps(box.config))
    reserved = socket.socket()
    reserved.bind(("127.0.0.1", 0))
    port = reserved.getsockname()[1]
    await lab.create(box, hold={"netns": netns_fd, f"port:{port}": reserved.fileno()})
    reserved.close()
    assert os.readlink(f"/proc/{box.client.pid}/fd/{NETNS_FD}") == os.readlink(f"/proc/self/fd/{netns_fd}")
    os.close(netns_fd)
    assert (await box.client.hello())["held"] == ["netns", f"port:{port}"]
    with pytest.raises(OSError, match="in use"), socket.socket() as rival:
        rival.bind(("127.0.0.1", port))
    await box.client.start()
    await box.wait_event("exit")
    assert "127.0.0.1/8" in box.log_text()
    await box.client.release([f"port:{port}"])
    with socket.socket() as rival:
        rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        rival.bind(("127.0.0.1", port))


async def test_the_container_has_no_descriptor_but_its_stdio(lab: Lab) -> None:
    netns_fd = netns.make()
    box = await lab.make("sh", "-c", "ls /proc/self/fd; sleep 1000", hold={"netns": netns_fd})
    os.close(netns_fd)
    stream = await box.attach()
    await box.client.start()
    assert (await stream.read_until(b"3\n")).split() == [b"0", b"1", b"2", b"3"]  # 3: the folder that ls reads
    listing = await (await box.exec("e1", "ls", "/proc/self/fd", "/proc/1/fd")).read_all()
    assert set(listing.decode().split()) == {"0", "1", "2", "3", "/proc/self/fd:", "/proc/1/fd:"}


async def test_the_root_filesystem_is_reached_through_its_descriptor_and_by_no_mount_of_the_host(lab: Lab) -> None:
    box = await lab.run("sh", "-c", "echo inside > /tmp/file; sleep 1000")
    fd = await box.client.rootfs()
    path = Path(f"/proc/self/fd/{fd}/tmp/file")
    await until(lambda: path.exists() and path.read_text() == "inside\n", "the container's file and its text")
    os.close(fd)
    assert box.id not in Path("/proc/self/mountinfo").read_text()


async def test_deleting_lets_the_root_filesystem_go(lab: Lab) -> None:
    box = await lab.run("true")
    await box.wait_event("exit")
    await box.client.delete()
    assert not any("overlay" in line for line in Path(f"/proc/{box.client.pid}/mountinfo").read_text().splitlines()
                   if box.id in line)  # fmt: skip
    with pytest.raises(FailedPrecondition):
        await box.client.rootfs()


# Requests


async def test_requests_sent_without_waiting_are_done_in_their_order(own_lab: Lab) -> None:
    box = await own_lab.make("echo", "quick", fork_only=True)
    stream = box.stream()
    _, exit_record, _ = await asyncio.gather(
        own_lab.create(box), box.client.start(), box.wait_event("exit"), return_exceptions=False
    )
    assert exit_record["started_at"]
    stream.close()
    assert box.log_text() == "quick\n"


async def test_hostile_messages_get_one_error_each_and_the_shim_lives(own_lab: Lab) -> None:
    box = await own_lab.run("sleep", "1000")
    hostile: list[dict[str, Any]] = [
        {"op": "nosuch"}, {"op": 7}, {"op": "kill", "signal": "x"}, {"op": "kill", "signal": 9999},
        {"op": "attach"}, {"op": "attach", "initial_stdin": "%"}, {"op": "resize", "rows": -1, "cols": 1 << 40},
        {"op": "exec_start", "exec_id": "a", "process": []}, {"op": "exec_start", "exec_id": "a", "process": {}},
        {"op": "create", "rootfs": [1]}, {"op": "hold", "held": ["a", "b"]},
        {"op": "update", "resources": {"pids": "x"}},
        {"op": "exec_status", "exec_id": "../../x"}, {"op": "release", "names": {}},
    ]  # fmt: skip
    for message in hostile:
        with pytest.raises(CortenError):
            await box.client.request(message.pop("op"), **message)
    raw = box.client._channel._socket
    for body in (b"{", b"[]", b"\xff\xfe", b"m", b"x" * 65537, b"[" * 60000):
        raw.send(body)
    assert (await box.client.hello())["state"] == "running"


async def test_the_trace_says_where_the_time_went(own_lab: Lab) -> None:
    box = await own_lab.run("true")
    await box.wait_event("exit")
    trace = await box.client.trace()
    assert {"overlay", "prepare", "cgroup", "launch", "start"} <= {row["name"] for row in trace["phases"]}
    assert len(trace["steps"]) > 20
    assert all(row["duration_ns"] >= 0 for row in trace["phases"] + trace["steps"])
    assert json.loads((box.directory / "trace").read_text()) == trace
