"""The port of metrics: what is served there, and what one that takes too much costs all others."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from corten.docker import metricsdoor
from corten.docker.metricsdoor import CLIENTS, HEAD_BYTES, MetricsDoor
from corten.errors import Unavailable

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
LONG = b"x" * (16 << 20)  # more than the kernel takes for one that does not read

Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Source:
    """A scrape."""

    text = b"up 1\n"
    fails = False

    async def metrics_text(self, *, is_open: bool) -> bytes:
        if self.fails:
            raise Unavailable("no")
        return b"open\n" if is_open else self.text


class Door:
    """One that is served, and its clients."""

    def __init__(self, source: Source, port: int) -> None:
        self.source = source
        self.port = port
        self.clients: list[asyncio.StreamWriter] = []

    async def connect(self, data: bytes = b"") -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.clients.append(writer)
        writer.write(data)
        return reader, writer

    async def whole(self, data: bytes) -> bytes:
        """All that the door says before it ends the connection."""
        reader, _ = await self.connect(data)
        async with asyncio.timeout(60):
            return await reader.read()


@contextlib.asynccontextmanager
async def serving(*, patience_s: float = 20.0, take_s: float = 20.0) -> AsyncIterator[Door]:
    listener = socket.create_server(("127.0.0.1", 0))
    source = Source()
    door = MetricsDoor(source, patience_s=patience_s, take_s=take_s)
    await door.serve(listener)
    made = Door(source, listener.getsockname()[1])
    try:
        yield made
    finally:
        for writer in made.clients:
            writer.transport.abort()
        await door.close()


async def answer(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """Head and body of one answer on a connection that goes on."""
    async with asyncio.timeout(60):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().partition("content-length: ")[2].split("\r\n")[0])
        return head, await reader.readexactly(length)


async def is_over(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionError):
            return await reader.read() == b""
        return True


async def test_a_kept_connection_has_an_answer_for_each_request() -> None:
    async with serving() as door:
        reader, writer = await door.connect(
            GET + b"GET /metrics?a=b HTTP/1.1\r\naccept: application/openmetrics-text\r\n\r\n"
        )
        head, body = await answer(reader)
        assert head.startswith("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4")
        assert body == b"up 1\n"
        head, body = await answer(reader)
        assert "application/openmetrics-text" in head
        assert body == b"open\n"
        writer.write(b"HEAD /metrics HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(60):
            assert b"Content-Length: 5\r\n" in await reader.readuntil(b"\r\n\r\n")
        writer.write(GET)
        assert (await answer(reader))[1] == b"up 1\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics HTTP/1.0\r\n\r\n", b"200 OK"),
        (b"GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n", b"200 OK"),
        (b"GET /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 100_000, b"200 OK"),
        (b"POST /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n", b"405 Method Not Allowed"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", b"405 Method Not Allowed"),
        (b"GET /containers/json HTTP/1.1\r\nConnection: close\r\n\r\n", b"404 Not Found"),
        (b"GET /metrics/../info HTTP/1.0\r\n\r\n", b"404 Not Found"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400 Bad Request"),
        (b"GET /metrics HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400 Bad Request"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * HEAD_BYTES + b"\r\n\r\n", b"431 Request Header Fields Too Large"),
        (b"GET /" + b"x" * 3 * HEAD_BYTES, b"431 Request Header Fields Too Large"),
    ],
)
async def test_what_is_asked_for_last_is_answered_and_the_connection_ends(request_: bytes, status: bytes) -> None:
    async with serving() as door:
        said = await door.whole(request_)
        assert said.startswith(b"HTTP/1.1 " + status + b"\r\n")
        assert said.count(b"HTTP/1.1 ") == 1
        assert b"\r\nConnection: close\r\n" in said


async def test_a_scrape_that_fails_is_told_and_the_next_one_is_served() -> None:
    async with serving() as door:
        door.source.fails = True
        reader, writer = await door.connect(GET)
        assert (await answer(reader))[0].startswith("HTTP/1.1 500 ")
        door.source.fails = False
        writer.write(GET)
        assert (await answer(reader))[1] == b"up 1\n"


async def test_who_sends_no_whole_request_in_time_is_let_go() -> None:
    async with serving(patience_s=0.2) as door:
        for data in (b"", b"GET /metrics HTTP/1.1\r\n"):
            reader, _ = await door.connect(data)
            assert await is_over(reader)


async def test_who_asks_no_more_is_let_go() -> None:
    async with serving(patience_s=2.0) as door:
        reader, _ = await door.connect(GET)
        await answer(reader)
        assert await is_over(reader)


async def test_who_does_not_take_an_answer_holds_up_nobody() -> None:
    async with serving() as door:
        door.source.text = LONG
        slow, _ = await door.connect(GET)
        slow._transport.pause_reading()  # type: ignore[attr-defined]
        reader, _ = await door.connect(GET)
        assert (await answer(reader))[1] == LONG


async def test_who_does_not_take_an_answer_in_time_is_let_go() -> None:
    async with serving(take_s=0.2) as door:
        door.source.text = LONG
        slow, _ = await door.connect(GET)
        slow._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(0.6)
        slow._transport.resume_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(60):
            with contextlib.suppress(ConnectionError):
                assert len(await slow.read()) < len(LONG)


async def test_clients_beyond_the_bound_cost_the_one_that_was_served_longest_ago() -> None:
    async with serving() as door:
        kept, _ = await door.connect(GET)
        await answer(kept)
        idle = [(await door.connect())[0] for _ in range(CLIENTS - 1)]
        await asyncio.sleep(0)
        reader, _ = await door.connect(GET)
        assert (await answer(reader))[1] == b"up 1\n"
        assert await is_over(kept)
        for _ in range(CLIENTS):
            reader, _ = await door.connect(GET)
            assert (await answer(reader))[1] == b"up 1\n"
        for one in idle:
            assert await is_over(one)


async def test_answers_on_their_way_share_one_text(monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    real = asyncio.StreamWriter.write

    def write(self: asyncio.StreamWriter, data: bytes | memoryview) -> None:
        written.append(len(data))
        real(self, data)

    async with serving() as door:
        door.source.text = LONG
        reader, _ = await door.connect(GET)
        monkeypatch.setattr(asyncio.StreamWriter, "write", write)
        assert (await answer(reader))[1] == LONG
    assert max(written) <= metricsdoor.PIECE_BYTES
