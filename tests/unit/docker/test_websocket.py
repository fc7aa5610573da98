"""Attach over a websocket: frames both ways, how it ends, and what is refused before."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest

from corten.core import asker
from corten.core.asker import Asker
from corten.docker.engine_api import AttachOptions, ClientStream
from unit.docker.fake_engine import Box
from unit.docker.raw_client import Harness, eventually

QUERY = "stream=1&stdin=1&stdout=1"


@pytest.fixture
async def session(harness: Harness) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=harness.path)) as made:
        yield made


@pytest.fixture
async def box(harness: Harness) -> Box:
    return harness.engine.find(await harness.create(["cat"]))


def url(box: Box, query: str = QUERY, version: str = "/v1.51") -> str:
    return f"http://engine{version}/containers/{box.id}/attach/ws?{query}"


async def container_end(box: Box) -> socket.socket:
    """What a shim would have."""
    await eventually(lambda: box.stream is not None, "attached")
    assert box.stream is not None
    return socket.socket(fileno=box.stream.detach_fd())


async def test_frames_become_bytes_and_bytes_become_binary_frames(session: aiohttp.ClientSession, box: Box) -> None:
    async with session.ws_connect(url(box)) as client:
        loop = asyncio.get_running_loop()
        with await container_end(box) as end:
            await client.send_str("häl")
            await client.send_bytes(b"\x00lo")
            data = b""
            while len(data) < 7:
                data += await loop.sock_recv(end, 100)
            assert data == "häl".encode() + b"\x00lo"
            await loop.sock_sendall(end, b"\xff" * 200_000)
            received = b""
            while len(received) < 200_000:
                received += await client.receive_bytes(timeout=60)
            assert received == b"\xff" * 200_000
        message = await client.receive(timeout=60)
        assert (message.type, client.close_code) == (aiohttp.WSMsgType.CLOSE, 1000)


async def test_a_client_that_closes_ends_the_container_s_side(session: aiohttp.ClientSession, box: Box) -> None:
    async with session.ws_connect(url(box)) as client:
        with await container_end(box) as end:
            await client.close()
            assert await asyncio.get_running_loop().sock_recv(end, 100) == b""


async def test_a_client_that_goes_before_the_start_is_forgotten(session: aiohttp.ClientSession, box: Box) -> None:
    client = await session.ws_connect(url(box))
    await eventually(lambda: box.stream is not None, "attached")
    await client.close()
    await eventually(lambda: box.hung_up, "forgotten")


async def test_a_log_that_is_longer_than_a_buffer_is_read_while_it_is_written(
    harness: Harness, session: aiohttp.ClientSession, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = b"l" * (4 << 20)
    attached = harness.engine.container_attach

    async def replayed(ref: str, options: AttachOptions, stream: ClientStream) -> None:
        with socket.socket(fileno=os.dup(stream.fileno())) as end:
            await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(end, log), 60)
        await attached(ref, options, stream)

    monkeypatch.setattr(harness.engine, "container_attach", replayed)
    async with session.ws_connect(url(box, QUERY + "&logs=1"), max_msg_size=0) as client:
        received = 0
        while received < len(log):
            received += len(await client.receive_bytes(timeout=60))
        (await container_end(box)).close()
        assert (await client.receive(timeout=60)).type is aiohttp.WSMsgType.CLOSE


async def test_a_client_that_goes_while_a_log_is_written_ends_the_writing(
    harness: Harness, session: aiohttp.ClientSession, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()

    async def replayed(ref: str, options: AttachOptions, stream: ClientStream) -> None:
        with socket.socket(fileno=os.dup(stream.fileno())) as end:
            try:
                while True:
                    await asyncio.get_running_loop().sock_sendall(end, b"l" * (1 << 20))
            except (ConnectionError, asyncio.CancelledError):
                ended.set()
                raise

    monkeypatch.setattr(harness.engine, "container_attach", replayed)
    async with session.ws_connect(url(box, QUERY + "&logs=1"), max_msg_size=0) as client:
        await client.receive_bytes(timeout=60)
    await asyncio.wait_for(ended.wait(), 60)


async def test_streams_are_chosen_since_1_42_and_never_have_headers(
    harness: Harness, session: aiohttp.ClientSession, box: Box
) -> None:
    for version, chosen in (("/v1.42", False), ("/v1.41", True)):
        async with session.ws_connect(url(box, "stream=1&stdout=1&logs=1&detachKeys=a", version)):
            asked = harness.engine.calls[-1]
        options = AttachOptions(chosen, True, chosen, stream=True, logs=True, detach_keys="a", is_raw=True)
        assert asked == ("attach", options)


async def test_errors_before_the_handshake_are_ordinary_answers(
    harness: Harness, session: aiohttp.ClientSession, box: Box
) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError, match="404"):
        await session.ws_connect(f"http://engine/containers/nothing/attach/ws?{QUERY}")
    answer = await harness.ask("GET", f"/containers/{box.id}/attach/ws?{QUERY}")
    assert (answer.status, answer.message) == (400, "bad websocket handshake")
    upgrade = ("Connection: Upgrade", "Upgrade: websocket")
    answer = await harness.ask("GET", f"/containers/{box.id}/attach/ws?{QUERY}", headers=upgrade)
    assert answer.status == 400
    answer = await harness.ask("GET", "/containers/json", headers=upgrade)
    assert answer.status == 200


async def test_a_page_of_another_host_may_not_attach_over_tcp(harness: Harness, box: Box) -> None:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    await harness.door.serve(listener)
    address = f"http://127.0.0.1:{port}/containers/{box.id}/attach/ws?{QUERY}"
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await session.ws_connect(address, origin="http://evil.example")
        async with session.ws_connect(address, origin=f"http://127.0.0.1:{port}"):
            pass


async def test_a_page_of_another_host_may_not_attach_over_tls(
    session: aiohttp.ClientSession, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind TLS the door's client is this process itself, at the other end of a socket of the family of local ones."""
    with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
        await session.ws_connect(url(box), origin="https://evil.example")
    async with session.ws_connect(url(box), origin="https://engine"):
        pass
    monkeypatch.setattr(asker, "of_socket", lambda sock, operation: Asker(by="client", pid=1))  # a local one
    async with session.ws_connect(url(box), origin="https://evil.example"):
        pass
