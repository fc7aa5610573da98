"""TLS in front of the door, with a fake engine: what comes through, and what clients may do to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corten.cli.stream import Demultiplexer
from corten.cli.tunnel import Tls, context_of, over_tls
from support.certificates import Authority
from unit.docker.fake_engine import frame
from unit.docker.raw_client import Client, Harness, eventually
from unit.docker.test_hijack import attach

PING = b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n"


class Served:
    """A harness that serves TLS on a port of its own as well."""

    def __init__(self, harness: Harness, authority: Authority) -> None:
        self.harness = harness
        server, self.client = authority.issue("server"), authority.issue("client")
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(server.cert, server.key)
        self.tls.load_verify_locations(authority.ca)
        self.tls.verify_mode = ssl.CERT_REQUIRED
        self.trusting = context_of(Tls(str(authority.ca), str(self.client.cert), str(self.client.key), True))
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.address = self.listener.getsockname()

    async def raw(self) -> Client:
        """TCP, without TLS."""
        client = Client(*await asyncio.open_connection(*self.address))
        self.harness.clients.append(client)
        return client

    async def connect(self) -> Client:
        """By the tunnel of our own command line."""

        def dial() -> socket.socket:
            return over_tls(socket.create_connection(self.address), self.address[0], self.trusting)

        client = Client(*await asyncio.open_connection(sock=await asyncio.to_thread(dial)))
        self.harness.clients.append(client)
        return client


@pytest.fixture
async def served(harness: Harness, tmp_path: Path) -> AsyncIterator[Served]:
    """Closed with the harness."""
    made = Served(harness, Authority(tmp_path))
    await harness.door.serve(made.listener, tls=lambda: made.tls)
    yield made
    for client in harness.clients:
        client.close()
    await asyncio.sleep(0.05)


async def test_requests_are_answered_one_after_the_other_also_pipelined(served: Served) -> None:
    client = await served.connect()
    await client.send(PING * 50)
    for _ in range(50):
        assert (await client.answer()).body == b"OK"


async def test_the_end_of_stdin_is_not_the_end_of_the_output(served: Served) -> None:
    container_id = await served.harness.create(["cat"])
    client = await served.connect()
    await client.send(attach(container_id) + b"all of it")
    client.half_close()
    assert (await client.head())[0] == 101
    await served.harness.ask("POST", f"/containers/{container_id}/start")
    assert await client.rest() == frame(1, b"all of it")


async def test_much_goes_through_whole(served: Served) -> None:
    data = os.urandom(600 << 10)
    container_id = await served.harness.create(["head", str(len(data))])
    client = await served.connect()
    await client.send(attach(container_id))
    assert (await client.head())[0] == 101
    await served.harness.ask("POST", f"/containers/{container_id}/start")
    sending = asyncio.create_task(client.send(data))
    found = await client.rest()
    await sending
    assert b"".join(payload for _, payload in Demultiplexer().feed(found)) == data


async def test_plain_http_is_told_so(served: Served) -> None:
    client = await served.raw()
    await client.send(PING)
    assert (await client.rest()).endswith(b"\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")


@pytest.mark.parametrize("junk", [b"\x16\x03\x01\x00\x05hello", b"\0" * 4000, os.urandom(70000)])
async def test_junk_ends_its_own_connection_alone(served: Served, junk: bytes) -> None:
    client = await served.raw()
    await client.send(junk)
    client.half_close()
    await client.rest()
    assert (await (await served.connect()).ask("GET", "/_ping")).body == b"OK"


async def test_junk_behind_the_handshake_ends_the_connection(served: Served) -> None:
    def dial() -> tuple[socket.socket, socket.socket]:
        raw = socket.create_connection(served.address)
        return raw, over_tls(socket.socket(fileno=os.dup(raw.fileno())), served.address[0], served.trusting)

    raw, clear = await asyncio.to_thread(dial)
    client = Client(*await asyncio.open_connection(sock=clear))
    served.harness.clients.append(client)
    assert (await client.ask("GET", "/_ping")).body == b"OK"
    raw.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert await client.rest() == b""
    raw.close()


async def test_a_client_without_a_certificate_gets_nothing(served: Served) -> None:
    served.trusting = ssl.create_default_context()
    served.trusting.check_hostname = False
    served.trusting.verify_mode = ssl.CERT_NONE
    client = await served.connect()
    with contextlib.suppress(ConnectionError):  # the refusal may be there already
        await client.send(PING)
        assert await client.rest() == b""


async def test_clients_that_vanish_take_their_fronts_with_them(served: Served) -> None:
    clients = [await served.connect() for _ in range(5)]
    for client in clients:
        assert (await client.ask("GET", "/_ping")).body == b"OK"
    assert len(served.harness.door._fronts) == 5
    for client in clients:
        client.close()
    await eventually(lambda: not served.harness.door._fronts, "no front is left")
