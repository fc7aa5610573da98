"""The protocol in front: framing, limits, and clients that misbehave or vanish."""

from __future__ import annotations

import asyncio
import hashlib
import socket

import pytest

from corten.docker import front
from unit.docker.raw_client import Client, Harness, eventually

PING = b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n"

# Ordinary requests.


async def test_a_kept_connection_serves_many_requests(harness: Harness, client: Client) -> None:
    for _ in range(20):
        assert (await client.ask("GET", "/v1.44/version")).status == 200
        assert (await client.ask("GET", "/nowhere")).status == 404
        body = {"Image": "busybox", "Cmd": ["x"]}
        assert (await client.ask("POST", "/containers/create", body)).status == 201


async def test_pipelined_requests_are_answered_in_order(client: Client) -> None:
    body = b'{"Image": "busybox"}'
    create = (
        b"POST /v1.44/containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    await client.send((PING + create + b"GET /v1.44/containers/json?all=1 HTTP/1.1\r\nHost: x\r\n\r\n") * 5)
    for count in range(1, 6):
        assert (await client.answer()).body == b"OK"
        assert (await client.answer()).status == 201
        assert len((await client.answer()).json) == count


async def test_pipelining_more_than_the_limit_is_slowed_down_not_lost(client: Client) -> None:
    count = 3 * front.MAX_PIPELINED_BYTES // len(PING)
    sending = asyncio.create_task(client.send(PING * count))
    for _ in range(count):
        assert (await client.answer()).body == b"OK"
    await sending


async def test_a_chunked_upload_arrives_whole(harness: Harness, client: Client) -> None:
    data = bytes(range(256)) * 40000
    await client.send(b"POST /v1.51/images/load?quiet=0 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    for start in range(0, len(data), 70001):
        piece = data[start : start + 70001]
        await client.send(b"%x\r\n%s\r\n" % (len(piece), piece))
    await client.send(b"0\r\n\r\n" + PING)
    answer = await client.answer()
    assert answer.body == b'{"stream":"Loaded image: %s\\n"}\r\n' % hashlib.sha256(data).hexdigest().encode()
    assert (await client.answer()).body == b"OK"


async def test_chunks_may_be_cut_anywhere(harness: Harness, client: Client) -> None:
    request = (
        b"POST /images/load HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n00a;ext=1\r\n0123456789\r\n0\r\nA: b\r\n\r\n" + PING
    )
    for index in range(len(request)):
        await client.send(request[index : index + 1])
        await asyncio.sleep(0)
    digest = hashlib.sha256(b"abc0123456789").hexdigest().encode()
    assert digest in (await client.answer()).body
    assert (await client.answer()).body == b"OK"


LOAD_CHUNKED = b"POST /images/load HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_a_malformed_chunk_is_refused(client: Client) -> None:
    await client.send(LOAD_CHUNKED + b"zz\r\nabc\r\n0\r\n\r\n" + PING)
    answer = await client.answer()
    assert (answer.status, answer.message) == (400, "malformed chunked body: bad size")
    assert await client.rest() == b""


async def test_a_malformed_chunk_in_the_middle_of_a_body_ends_the_connection(harness: Harness, client: Client) -> None:
    await client.send(LOAD_CHUNKED + b"3\r\nabc\r\n")
    await eventually(lambda: harness.engine.loaded == 3, "the first chunk is read")
    await client.send(b"3\r\nabcdef\r\n" + PING)
    assert await client.rest() == b""


async def test_what_only_aiohttp_refuses_is_refused_in_dockers_form(client: Client) -> None:
    await client.send(b"GET /_ping HTTP/1.1\r\nHost: x\r\nX-Odd: a\x00b\r\n\r\n")
    answer = await client.answer()
    assert answer.status == 400
    assert answer.headers["api-version"] == "1.51"
    assert answer.message


async def test_expect_continue_is_answered_when_the_body_is_wanted(harness: Harness, client: Client) -> None:
    await client.send(b"POST /images/load HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
    assert await client.exactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.send(b"data")
    assert (await client.answer()).status == 200
    assert harness.engine.loaded == 4
    assert (await client.ask("GET", "/_ping")).status == 200


async def test_expect_continue_with_an_unwanted_body_closes_the_connection(client: Client) -> None:
    await client.send(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (404, "close")
    assert await client.rest() == b""


@pytest.mark.parametrize("size", [9000, 100_000, (1 << 20) - 100])
async def test_headers_of_a_mebibyte_are_accepted(client: Client, size: int) -> None:
    answer = await client.ask("GET", "/_ping", headers=("X-Registry-Auth: " + "a" * size,))
    assert answer.body == b"OK"


async def test_a_thousand_headers_are_accepted(client: Client) -> None:
    answer = await client.ask("GET", "/_ping", headers=tuple(f"X-Meta-{n}: {n}" for n in range(1000)))
    assert answer.body == b"OK"


async def test_a_request_line_of_a_mebibyte_is_accepted(client: Client) -> None:
    answer = await client.ask("GET", "/_ping?x=" + "a" * ((1 << 20) - 100))
    assert answer.body == b"OK"


async def test_a_header_over_the_limit_is_refused(client: Client) -> None:
    await client.send(b"GET /_ping HTTP/1.1\r\nHost: x\r\nX-Big: " + b"a" * (1 << 20) + b"\r\n\r\n")
    answer = await client.answer()
    assert (answer.status, answer.message) == (400, "request header too long")


async def test_a_head_without_end_is_refused(client: Client) -> None:
    sending = asyncio.create_task(client.send(b"GET /_ping HTTP/1.1\r\n" + b"X-Big: a\r\n" * 300_000))
    answer = await client.answer()
    assert (answer.status, answer.message) == (431, "request header fields too large")
    sending.cancel()


async def test_a_slow_head_is_given_up(harness: Harness, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "HEAD_TIMEOUT_S", 0.2)
    assert (await client.ask("GET", "/_ping")).status == 200
    await asyncio.sleep(0.3)  # idle between requests is no slowness
    for byte in b"GET /_ping HTTP/1.1":
        client.writer.write(bytes([byte]))
        await asyncio.sleep(0.02)
    answer = await client.answer()
    assert (answer.status, answer.message) == (408, "timed out waiting for the request header")
    assert await client.rest() == b""


@pytest.mark.parametrize(
    ("raw", "status", "message"),
    [
        (b"GET /_ping\r\n\r\n", 400, "malformed HTTP request"),
        (b"GET /_ping HTTP/2.0\r\n\r\n", 400, "malformed HTTP request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/2 is not supported yet"),
        (b"\x16\x03\x01\x02\r\n\r\n", 400, "malformed HTTP request"),
        (b"GET / HTTP/1.1\r\nHost x\r\n\r\n", 400, "malformed HTTP header"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n", 400, "malformed HTTP header"),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400, "bad content-length: '-1'"),
        (
            b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
            400,
            "conflicting content-length headers",
        ),
        (
            b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "both content-length and transfer-encoding are set",
        ),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            400,
            "unsupported transfer encoding: 'gzip, chunked'",
        ),
    ],
)
async def test_heads_that_two_readers_could_take_differently_are_refused(
    client: Client, raw: bytes, status: int, message: str
) -> None:
    await client.send(raw)
    answer = await client.answer()
    assert (answer.status, answer.message) == (status, message)
    assert await client.rest() == b""


async def test_empty_lines_before_a_request_are_ignored(client: Client) -> None:
    await client.send(b"\r\n\r\n" + PING)
    assert (await client.answer()).body == b"OK"


async def test_a_client_that_half_closes_behind_its_request_gets_its_answer(harness: Harness, client: Client) -> None:
    container_id = await harness.create(["sleep"])
    await harness.ask("POST", f"/containers/{container_id}/start")
    await client.send(f"POST /containers/{container_id}/wait HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    client.half_close()
    assert (await client.head())[0] == 200
    await harness.ask("POST", f"/containers/{container_id}/kill")
    assert await client.chunk() == b'{"StatusCode":137}\n'


async def test_a_client_that_half_closes_at_any_moment_behind_two_requests_gets_both_answers(harness: Harness) -> None:
    for turns in range(40):  # of the loop, which client and door share
        client = await harness.connect()
        await client.send(PING + PING)
        for _ in range(turns):
            await asyncio.sleep(0)
        client.half_close()
        assert [(await client.answer()).body for _ in range(2)] == [b"OK", b"OK"], f"after {turns} turns"


async def test_a_client_that_half_closed_and_then_vanished_frees_its_wait(harness: Harness, client: Client) -> None:
    container_id = await harness.create(["sleep"])
    await client.send(f"POST /containers/{container_id}/wait HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    client.half_close()
    await eventually(lambda: harness.engine.waiting == 1, "the wait runs")
    client.close()
    await eventually(lambda: harness.engine.waiting == 0, "the wait is freed")


async def test_a_client_that_closes_in_the_middle_of_an_upload_ends_it(harness: Harness, client: Client) -> None:
    await client.send(b"POST /images/load HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
    await eventually(lambda: harness.engine.loaded == 3, "the first bytes are read")
    client.close()
    assert (await harness.ask("GET", "/_ping")).status == 200
    await eventually(lambda: len(harness.door._fronts) <= 1, "the connection is gone")


async def test_a_client_that_vanishes_on_tcp_frees_its_wait(harness: Harness) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    await harness.door.serve(listener)
    client = Client(*await asyncio.open_connection(*listener.getsockname()))
    container_id = await harness.create(["sleep"])
    await client.send(f"POST /containers/{container_id}/wait HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await eventually(lambda: harness.engine.waiting == 1, "the wait runs")
    client.writer.close()
    await eventually(lambda: harness.engine.waiting == 0, "the wait is freed")


async def test_http_1_0_gets_unframed_streams_and_is_closed(harness: Harness, client: Client) -> None:
    container_id = await harness.create(["exit", "3"])
    await client.send(f"POST /containers/{container_id}/wait HTTP/1.0\r\nHost: x\r\n\r\n".encode())
    assert "transfer-encoding" not in (await client.head())[2]
    await harness.ask("POST", f"/containers/{container_id}/start")
    assert await client.rest() == b'{"StatusCode":3}\n'
