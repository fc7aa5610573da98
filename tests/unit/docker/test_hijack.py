"""Attach and exec start: every byte of stdin, the right head, errors where dockerd puts them."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from unit.docker.fake_engine import frame
from unit.docker.raw_client import Client, Harness, eventually

PING = b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n"
UPGRADE = "Connection: Upgrade\r\nUpgrade: tcp\r\n"


def attach(container_id: str, query: str = "stream=1&stdin=1&stdout=1", extra: str = UPGRADE) -> bytes:
    return (
        f"POST /v1.51/containers/{container_id}/attach?{query} HTTP/1.1\r\nHost: docker\r\n{extra}"
        "Content-Length: 0\r\n\r\n"
    ).encode()


def exec_start(exec_id: str, extra: str = UPGRADE, version: str = "/v1.51", body: bytes = b"{}") -> bytes:
    head = (
        f"POST {version}/exec/{exec_id}/start HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n"
        f"{extra}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def started(harness: Harness, *command: str, **config: bool) -> str:
    container_id = await harness.create(["sleep"])
    assert (await harness.ask("POST", f"/containers/{container_id}/start")).status == 204
    body = {"Cmd": list(command), "AttachStdin": True, "AttachStdout": True, **config}
    answer = await harness.ask("POST", f"/containers/{container_id}/exec", body)
    exec_id: str = answer.json["Id"]
    return exec_id


# Attach.


async def test_stdin_in_the_segment_of_the_attach_request_reaches_the_container(
    harness: Harness, client: Client
) -> None:
    container_id = await harness.create(["head", "5"])
    await client.send(attach(container_id) + b"hello")
    status, phrase, headers = await client.head()
    assert (status, phrase) == (101, "UPGRADED")
    assert headers["content-type"] == "application/vnd.docker.multiplexed-stream"
    assert (headers["connection"], headers["upgrade"]) == ("Upgrade", "tcp")
    await harness.ask("POST", f"/containers/{container_id}/start")
    assert await client.rest() == frame(1, b"hello")


async def test_half_close_at_once_is_the_end_of_stdin_not_of_the_output(harness: Harness, client: Client) -> None:
    container_id = await harness.create(["cat"])
    await client.send(attach(container_id) + b"all of it")
    client.half_close()
    assert (await client.head())[0] == 101
    await harness.ask("POST", f"/containers/{container_id}/start")
    assert await client.rest() == frame(1, b"all of it")


async def test_stdin_that_comes_after_the_head_waits_in_the_kernel_for_the_container(
    harness: Harness, client: Client
) -> None:
    container_id = await harness.create(["head", "614400"])
    await client.send(attach(container_id))
    assert (await client.head())[0] == 101
    data = bytes(range(256)) * 2400
    sending = asyncio.create_task(client.send(data))
    await asyncio.sleep(0.05)
    await harness.ask("POST", f"/containers/{container_id}/start")
    assert await client.rest() == frame(1, data)
    sending.cancel()


async def test_attach_without_upgrade_is_answered_200_and_raw(harness: Harness, client: Client) -> None:
    container_id = await harness.create(["cat"])
    await client.send(attach(container_id, extra="") + b"x")
    client.half_close()
    status, phrase, headers = await client.head()
    assert (status, phrase) == (200, "OK")
    assert headers["content-type"] == "application/vnd.docker.raw-stream"
    assert "upgrade" not in headers
    await harness.ask("POST", f"/containers/{container_id}/start")
    assert await client.rest() == frame(1, b"x")


async def test_attach_to_a_tty_is_a_raw_stream(harness: Harness, client: Client) -> None:
    container_id = await harness.create(["cat"], Tty=True)
    await client.send(attach(container_id) + b"x")
    client.half_close()
    assert (await client.head())[2]["content-type"] == "application/vnd.docker.raw-stream"
    await harness.ask("POST", f"/containers/{container_id}/start")
    assert await client.rest() == b"x"


async def test_api_1_41_does_not_know_the_multiplexed_content_type(harness: Harness, client: Client) -> None:
    container_id = await harness.create(["cat"])
    await client.send(attach(container_id).replace(b"/v1.51/", b"/v1.41/"))
    assert (await client.head())[2]["content-type"] == "application/vnd.docker.raw-stream"


async def test_attach_options_reach_the_engine(harness: Harness, client: Client) -> None:
    container_id = await harness.create(["cat"])
    await client.send(attach(container_id, "stream=1&stderr=true&logs=1&stdin=0&detachKeys=ctrl-a"))
    await client.head()
    options = harness.engine.calls[-1][1]
    assert (options.stream, options.stderr, options.logs) == (True, True, True)
    assert (options.stdin, options.stdout, options.detach_keys) == (False, False, "ctrl-a")


async def test_attach_to_a_missing_container_is_answered_404_and_the_connection_goes_on(client: Client) -> None:
    await client.send(attach("nobody"))
    answer = await client.answer()
    assert (answer.status, answer.message) == (404, "No such container: nobody")
    assert (await client.ask("GET", "/_ping")).body == b"OK"


async def test_stdin_behind_a_refused_attach_is_not_taken_for_a_request(harness: Harness, client: Client) -> None:
    await client.send(attach("nobody") + b"DELETE /containers/x HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (404, "close")
    assert await client.rest() == b""
    assert not harness.engine.calls


async def test_attach_on_a_kept_connection(harness: Harness, client: Client) -> None:
    container_id = await harness.create(["cat"])
    assert (await client.ask("GET", "/_ping")).status == 200
    await client.send(attach(container_id) + b"kept")
    client.half_close()
    assert (await client.head())[0] == 101
    await harness.ask("POST", f"/containers/{container_id}/start")
    assert await client.rest() == frame(1, b"kept")


async def test_attach_pipelined_behind_another_request_waits_for_its_answer(harness: Harness, client: Client) -> None:
    container_id = await harness.create(["cat"])
    await client.send(PING + PING + attach(container_id) + b"piped")
    client.half_close()
    assert (await client.answer()).body == b"OK"
    assert (await client.answer()).body == b"OK"
    assert (await client.head())[0] == 101
    await harness.ask("POST", f"/containers/{container_id}/start")
    assert await client.rest() == frame(1, b"piped")


async def test_a_client_that_vanishes_while_attached_to_a_created_container_is_noticed(
    harness: Harness, client: Client
) -> None:
    container_id = await harness.create(["cat"])
    await client.send(attach(container_id))
    await client.head()
    client.close()
    box = harness.engine.find(container_id)
    await eventually(lambda: box.hung_up, "the hangup is told")


# Exec start.


async def test_exec_start_with_body_and_stdin_in_one_segment(harness: Harness, client: Client) -> None:
    await client.send(exec_start(await started(harness, "cat")) + b"to exec")
    client.half_close()
    status, _, headers = await client.head()
    assert (status, headers["content-type"]) == (101, "application/vnd.docker.multiplexed-stream")
    assert headers["api-version"] == "1.51"
    assert await client.rest() == frame(1, b"to exec")


async def test_exec_start_with_its_body_byte_by_byte(harness: Harness, client: Client) -> None:
    request = exec_start(await started(harness, "echo", "slow"), body=json.dumps({"Tty": False}).encode())
    for index in range(len(request)):
        await client.send(request[index : index + 1])
        await asyncio.sleep(0)
    assert (await client.head())[0] == 101
    assert await client.rest() == frame(1, b"slow\n")


async def test_exec_start_with_a_chunked_body_without_upgrade(harness: Harness, client: Client) -> None:
    request = exec_start(await started(harness, "cat"), extra="Transfer-Encoding: chunked\r\n")
    head = request.replace(b"Content-Length: 2\r\n", b"").removesuffix(b"{}")
    await client.send(head + b"1\r\n{\r\n1;x=y\r\n}\r\n0\r\nTrailer: t\r\n\r\nbehind")
    client.half_close()
    assert (await client.head())[0] == 200
    assert await client.rest() == frame(1, b"behind")


async def test_a_detached_exec_is_answered_and_the_connection_goes_on(harness: Harness, client: Client) -> None:
    exec_id = await started(harness, "echo", "x")
    await client.send(exec_start(exec_id, body=b'{"Detach": true}'))
    answer = await client.answer()
    assert (answer.status, answer.body) == (200, b"")
    assert (await client.ask("GET", f"/exec/{exec_id}/json")).status == 200


async def test_an_exec_that_cannot_start_says_so_on_its_stdout(harness: Harness, client: Client) -> None:
    await client.send(exec_start(await started(harness, "nothing")))
    assert (await client.head())[0] == 101
    text = b'exec: "nothing": executable file not found in $PATH\r\n'
    assert await client.rest() == frame(1, text)


async def test_an_exec_with_tty_that_cannot_start_says_so_unframed(harness: Harness, client: Client) -> None:
    await client.send(exec_start(await started(harness, "nothing", Tty=True), body=b'{"Tty": true}'))
    await client.head()
    assert await client.rest() == b'exec: "nothing": executable file not found in $PATH\r\n'


@pytest.mark.parametrize(("version", "size"), [("/v1.41", None), ("/v1.42", (24, 80))])
async def test_console_size_of_exec_start_counts_from_1_42(
    harness: Harness, client: Client, version: str, size: tuple[int, int] | None
) -> None:
    exec_id = await started(harness, "echo", Tty=True)
    await client.send(exec_start(exec_id, version=version, body=b'{"Tty": true, "ConsoleSize": [24, 80]}'))
    await client.rest()
    assert harness.engine.calls[-1] == ("exec_start", False, size)


async def test_output_never_comes_in_the_same_read_as_the_head(harness: Harness) -> None:
    """docker-py loses what its buffered reader takes behind the head; so it must have read the head first."""
    exec_id = await started(harness, "echo", "fast")
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as slow:
        slow.setblocking(False)
        await loop.sock_connect(slow, harness.path)
        await loop.sock_sendall(slow, exec_start(exec_id))
        await asyncio.sleep(0.004)
        first = await loop.sock_recv(slow, 65536)
        assert first.endswith(b"Server: Corten/0.1 (linux)\r\n\r\n")
        assert await loop.sock_recv(slow, 65536) == frame(1, b"fast\n")


async def test_exec_start_of_an_unknown_id(client: Client) -> None:
    await client.send(exec_start("feed"))
    answer = await client.answer()
    assert (answer.status, answer.message) == (404, "No such exec instance: feed")


async def test_exec_start_with_bad_json(harness: Harness, client: Client) -> None:
    await client.send(exec_start(await started(harness, "cat"), body=b'{"Detach": "yes"}'))
    answer = await client.answer()
    assert answer.status == 400
    assert "Go struct field ExecStartOptions.Detach of type bool" in answer.message


async def test_exec_start_without_content_type(harness: Harness, client: Client) -> None:
    request = exec_start(await started(harness, "cat")).replace(b"Content-Type: application/json\r\n", b"")
    await client.send(request)
    answer = await client.answer()
    assert (answer.status, answer.message) == (400, "malformed Content-Type header (): mime: no media type")


async def test_the_body_of_an_exec_start_is_bounded(harness: Harness, client: Client) -> None:
    exec_id = await started(harness, "cat")
    await client.send(exec_start(exec_id).replace(b"Content-Length: 2", b"Content-Length: 9000000"))
    assert (await client.answer()).status == 413


async def test_exec_start_that_expects_continue_is_asked_for_its_body(harness: Harness, client: Client) -> None:
    request = exec_start(await started(harness, "echo", "ok"), extra=UPGRADE + "Expect: 100-continue\r\n")
    await client.send(request.removesuffix(b"{}"))
    assert await client.exactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.send(b"{}")
    assert (await client.head())[0] == 101


async def test_tcp_is_served_like_the_unix_socket(harness: Harness) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    await harness.door.serve(listener)
    client = Client(*await asyncio.open_connection(*listener.getsockname()))
    harness.clients.append(client)
    assert (await client.ask("GET", "/_ping")).body == b"OK"
    await client.send(exec_start(await started(harness, "cat")) + b"over tcp")
    client.half_close()
    assert (await client.head())[0] == 101
    assert await client.rest() == frame(1, b"over tcp")
