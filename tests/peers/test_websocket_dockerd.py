"""Attach over a websocket beside dockerd 26.1: the same frames, bytes, ends and refusals."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from support import images
from support.dockerd import DockerClient, Dockerd
from support.engine import CortenEngine
from support.process import wait_for

IMAGE = images.BUSYBOX_REF
ALL = "stream=1&stdin=1&stdout=1&stderr=1"
ECHO = "while read line; do echo got $line; echo err $line >&2; [ $line != end ] || exit 3; done"

Engines = tuple[Dockerd, CortenEngine]


@pytest.fixture(scope="module")
def both() -> Iterator[Engines]:
    with Dockerd() as theirs, CortenEngine() as ours:
        for engine in (theirs, ours):
            engine.docker("load", "-i", str(images.busybox()), check=True)
        yield theirs, ours


@pytest.fixture
def fresh(both: Engines) -> Iterator[Engines]:
    """Both without the container of the test before."""
    yield both
    for engine in both:
        engine.docker("rm", "-f", "box")


def run(engine: DockerClient, *options: str, script: str = ECHO, start: bool = True) -> None:
    words = ("--name", "box", "--network", "none", *options, IMAGE, "sh", "-c", script)
    engine.docker(*(("run", "-d") if start else ("create",)), *words, check=True)


async def talk(
    engine: DockerClient,
    query: str,
    lines: tuple[str, ...] = (),
    version: str = "v1.45",
    there: asyncio.Event | None = None,
) -> list[Any]:
    """What comes, joined, the kinds of frames, and how it ends; or the refusal."""
    connector = aiohttp.UnixConnector(path=str(engine.socket))
    url = f"http://engine/{version}/containers/box/attach/ws?{query}"
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(20)) as session:
        try:
            async with session.ws_connect(url, origin="http://engine") as socket:
                if there is not None:
                    there.set()
                return await _exchange(socket, lines)
        except aiohttp.WSServerHandshakeError as error:
            return [error.status]


async def _exchange(socket: aiohttp.ClientWebSocketResponse, lines: tuple[str, ...]) -> list[Any]:
    data, kinds = "", set()
    for line in lines:
        await socket.send_str(f"{line}\n")
        while data.count(f"got {line}") < 1:
            message = await socket.receive(timeout=60)
            if not isinstance(message.data, bytes):
                break
            data += message.data.decode()
            kinds.add(message.type)
    while (message := await socket.receive(timeout=60)).type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT):
        data += message.data.decode()
        kinds.add(message.type)
    return [sorted(data.split()), kinds, socket.close_code]


def same(engines: Engines, *args: Any, **more: Any) -> list[Any]:
    theirs, ours = (asyncio.run(talk(engine, *args, **more)) for engine in engines)
    assert ours[:2] == theirs[:2]
    return ours


def test_input_and_both_outputs_go_over_it_to_the_end_of_the_container(fresh: Engines) -> None:
    for engine in fresh:
        run(engine, "-i")
    found = same(fresh, ALL, ("one", "end"))
    assert found[:2] == [["end", "end", "err", "err", "got", "got", "one", "one"], {aiohttp.WSMsgType.BINARY}]
    for engine in fresh:
        assert engine.docker("wait", "box").stdout == "3\n"


def test_a_terminal_goes_over_it(fresh: Engines) -> None:
    for engine in fresh:
        run(engine, "-i", "-t", script="stty -echo; echo ready; read line; echo got $line")
        wait_for(lambda: "ready" in engine.docker("logs", "box").stdout, "ready")  # noqa: B023 - at once
    assert same(fresh, f"{ALL}&logs=1", ("x",))[0] == ["got", "ready", "x"]


@pytest.mark.parametrize("query", ["logs=1&stdout=1&stderr=1", "logs=1&stdout=1", "logs=1&stderr=1", "stream=0"])
def test_what_was_written_so_far_comes_when_asked_for(fresh: Engines, query: str) -> None:
    for engine in fresh:
        run(engine, script="echo out; echo err >&2; sleep 0.1; exec sleep 1000")
        wait_for(lambda: len((done := engine.docker("logs", "box")).stdout + done.stderr) >= 8, "output")  # noqa: B023
    same(fresh, query)


def test_one_that_attaches_before_the_start_misses_nothing(fresh: Engines) -> None:
    found = []
    for engine in fresh:
        run(engine, script="echo first; echo second >&2", start=False)

        async def attached(engine: DockerClient = engine) -> list[Any]:
            there = asyncio.Event()
            talking = asyncio.ensure_future(talk(engine, "stream=1&stdout=1&stderr=1", there=there))
            await asyncio.wait_for(there.wait(), 60)
            await asyncio.sleep(0.5)  # dockerd attaches behind its answer
            await asyncio.to_thread(engine.docker, "start", "box", check=True)
            return await talking

        found.append(asyncio.run(attached()))
    assert found[1][:2] == found[0][:2]
    assert found[1][0] == ["first", "second"]


def test_what_cannot_be_attached_to_is_refused(fresh: Engines) -> None:
    assert same(fresh, ALL) == [404]
    for engine in fresh:
        run(engine, "-i")
        engine.docker("pause", "box", check=True)
    assert same(fresh, ALL) == [409]
    for engine in fresh:
        engine.docker("unpause", "box", check=True)


def test_a_request_that_is_no_handshake_is_refused(fresh: Engines) -> None:
    async def ask(engine: DockerClient) -> int:
        connector = aiohttp.UnixConnector(path=str(engine.socket))
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(20)) as session,
            session.get(f"http://engine/v1.45/containers/box/attach/ws?{ALL}") as answer,
        ):
            return answer.status

    for engine in fresh:
        run(engine, "-i")
    assert [asyncio.run(ask(engine)) for engine in fresh] == [400, 400]


def test_a_client_that_goes_leaves_the_container_alone(fresh: Engines) -> None:
    async def glance(engine: DockerClient) -> None:
        connector = aiohttp.UnixConnector(path=str(engine.socket))
        async with aiohttp.ClientSession(connector=connector) as session:
            socket = await session.ws_connect(f"http://engine/containers/box/attach/ws?{ALL}", origin="http://engine")
            await socket.send_str("one\n")
            await socket.receive(timeout=60)
            await socket.close()

    _, ours = fresh
    run(ours, "-i")
    for _ in range(3):
        asyncio.run(glance(ours))
    assert ours.docker("inspect", "-f", "{{.State.Running}}", "box", check=True).stdout == "true\n"
    assert same_after(ours)[0].count("end") == 2


def same_after(engine: CortenEngine) -> list[Any]:
    return asyncio.run(talk(engine, ALL, ("end",)))
