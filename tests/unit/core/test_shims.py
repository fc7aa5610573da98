"""cortend's side of the shim protocol, against peers that are doubles."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from corten.core import shims
from corten.core.channel import Channel
from corten.core.shims import ShimClient, Zygote
from corten.errors import NotFound, Unavailable
from corten.shim import protocol


async def connect(folder: Path) -> None:
    await ShimClient.connect(str(folder), events=lambda event: None, lost=lambda: None)


async def test_a_shim_that_dies_while_it_is_greeted_is_not_there(tmp_path: Path) -> None:
    """A process that is killed closes its listener after its connections, or has never accepted one."""
    with protocol.bind_listener(str(tmp_path)) as listener:
        greeting = asyncio.create_task(connect(tmp_path))
        await asyncio.sleep(0.05)
        listener.accept()[0].close()
        with pytest.raises(NotFound, match="just ended"):
            await greeting
        greeting = asyncio.create_task(connect(tmp_path))
        await asyncio.sleep(0.05)
    with pytest.raises(NotFound, match="just ended"):
        await greeting


async def test_a_shim_that_is_silent_when_it_is_greeted_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shims, "PING_TIMEOUT_S", 0.1)
    with protocol.bind_listener(str(tmp_path)), pytest.raises(Unavailable, match="does not answer"):
        await connect(tmp_path)


async def test_the_descriptors_of_an_answer_to_a_cancelled_request_are_closed() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(ours, name="peer", on_event=lambda event: None, on_lost=lambda: None)
    read, write = os.pipe()
    with theirs:
        request = asyncio.create_task(channel.request("op", {}, (), 5))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        protocol.send(theirs, protocol.encode({"seq": 1, "ok": {}}), (write,))
        os.close(write)
        channel._readable()  # the answer is there, and nobody has taken it
        request.cancel()
        outcome = (await asyncio.gather(request, return_exceptions=True))[0]
        if isinstance(outcome, tuple):  # Python 3.11 prefers the answer
            protocol.close_all(outcome[1])
        channel.close()
    os.set_blocking(read, False)
    assert os.read(read, 1) == b""  # no writer is left
    os.close(read)


async def test_a_zygote_that_ends_at_its_start_is_not_started_in_a_loop(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    program = tmp_path / "corten-shim"
    program.write_text(f"#!/bin/sh\necho x >> {starts}\nexit 3\n")
    program.chmod(0o755)
    zygote = shims.Zygote(str(program), str(tmp_path))
    began = time.monotonic()
    with pytest.raises(Unavailable, match="zygote does not start"):
        await zygote.fork(str(tmp_path), "t", "c", events=lambda event: None, lost=lambda: None)
    await wait_for_size(starts, 2 * len("x\n"))
    await asyncio.sleep(1)
    number, took = len(starts.read_text().split()), time.monotonic() - began
    assert number <= 1 + sum(at <= took for at in (0, 1, 3, 7, 15, 31, 63))  # and one of them at once
    await zygote.close()


async def test_a_zygote_that_stands_still_is_closed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shims, "_ZYGOTE_END_S", 0.2)
    monkeypatch.setattr(shims, "_ZYGOTE_START_S", 0.2)
    program = tmp_path / "corten-shim"
    program.write_text("#!/bin/sh\nkill -STOP $$\n")
    program.chmod(0o755)
    zygote = shims.Zygote(str(program), str(tmp_path))
    with pytest.raises(Unavailable, match=r"zygote does not answer \(ping"):
        await zygote.start()
    pid = zygote.pid
    await zygote.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


async def test_a_zygote_that_is_killed_again_and_again_at_its_start_is_no_storm_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, program = tmp_path / "starts", tmp_path / "zygote"
    program.write_text(f"#!/bin/sh\necho >> {starts}\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(shims, "_ZYGOTE_PAUSE_S", 50.0)
    zygote = Zygote(str(program), str(tmp_path))
    try:
        with pytest.raises(Unavailable, match="does not start"):
            await zygote.start()
        await wait_for_size(starts, 2)  # the first is replaced at once
        await asyncio.sleep(1)
        assert starts.stat().st_size == 2
    finally:
        await zygote.close()


async def test_the_cgroup_of_shims_is_made_at_each_start_of_a_zygote_and_not_before(tmp_path: Path) -> None:
    program = tmp_path / "corten-shim"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/words\nexit 3\n')
    program.chmod(0o755)
    made: list[str] = []

    def make() -> list[str]:
        made.append(f"/cgroup/{len(made)}")
        return made[-1:]

    zygote = Zygote(str(program), str(tmp_path), joins=make)
    assert not made, "a cortend that is refused would leave it"
    for _ in range(2):
        with pytest.raises(Unavailable, match="does not start"):
            await zygote.start()
    await zygote.close()
    started = (tmp_path / "words").read_text().splitlines()
    assert len(started) >= 2
    for place, words in zip(made, started, strict=False):  # of the last one the end may have come before its words
        assert f"--join={place} " in words


async def wait_for_size(path: Path, size: int) -> None:
    async with asyncio.timeout(60):
        while not path.exists() or path.stat().st_size < size:
            await asyncio.sleep(0.01)
