"""How requests end for which nobody waits any more, and what is left of any request: nothing."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from corten.registry import dial
from corten.registry.cancel import Cancel, Cancelled
from corten.registry.client import Registry, Repository
from corten.registry.credentials import Credentials
from corten.registry.endpoint import Endpoint
from corten.registry.errors import ConnectionFailed, RegistryDenied, RegistryError
from corten.registry.transport import Transport, TransportSettings
from corten.spec.image import OCI_MANIFEST
from support import registryserver
from support.registryrules import blob_of, cut_after, received, source
from support.registryserver import Handler, Seen, Server

Connect = Callable[..., Repository]
MANIFEST = b'{"schemaVersion":2,"config":{},"layers":[]}'


SILENCE = 60.0


@pytest.fixture
def transport() -> Iterator[Transport]:
    """Patient connections: what ends soon here was ended."""
    made = Transport(TransportSettings(connect_timeout=5, read_timeout=SILENCE))
    yield made
    made.close()


def stuck(handler: Handler, seen: Seen) -> bool:
    """Says nothing until the client has gone."""
    handler.connection.settimeout(SILENCE)
    with contextlib.suppress(OSError):
        handler.connection.recv(1)
    return handler.cut()


def test_a_request_that_is_given_up_ends_at_once(server: Server, connect: Connect) -> None:
    server.state.rules.append(stuck)
    cancel = Cancel()
    there = connect(server, cancel=cancel)
    threading.Timer(0.1, cancel.cancel).start()
    before = time.monotonic()
    with pytest.raises(Cancelled):
        there.resolve("1")
    assert time.monotonic() - before < SILENCE / 2


def test_a_download_that_is_given_up_ends_at_once(server: Server, connect: Connect) -> None:
    def half(handler: Handler, seen: Seen) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        handler.wfile.write(b"x" * 1000)
        return stuck(handler, seen)

    server.state.rules.append(half)
    cancel = Cancel()
    before = time.monotonic()
    with connect(server, cancel=cancel).blob(blob_of(b"x" * 100_000)) as chunks:
        assert next(chunks) == b"x" * 1000
        threading.Timer(0.1, cancel.cancel).start()
        with pytest.raises(Cancelled):
            next(chunks)
    assert time.monotonic() - before < SILENCE / 2


def test_a_wait_that_is_given_up_ends_at_once(server: Server, connect: Connect) -> None:
    server.state.rules.append(lambda handler, seen: handler.refuse(429, "TOOMANYREQUESTS", Retry_After="50"))
    cancel = Cancel()
    threading.Timer(0.1, cancel.cancel).start()
    with pytest.raises(Cancelled):
        connect(server, cancel=cancel).resolve("1")


def test_an_answer_that_does_not_come_is_not_waited_for(server: Server) -> None:
    server.state.rules.append(stuck)
    transport = Transport(TransportSettings(connect_timeout=1, read_timeout=0.1))
    registry = Registry(transport, [Endpoint(server.url)], credentials=Credentials(), cancel=Cancel())
    with pytest.raises(ConnectionFailed, match="deadline exceeded"):
        registry.repository("a/b").resolve("1")
    transport.close()


def test_a_refusal_of_one_thing_is_none_of_another(server: Server, connect: Connect) -> None:
    server.state.add_manifest("a/b", "1", media_type=OCI_MANIFEST, body=MANIFEST)
    server.state.rules.append(lambda handler, seen: "tags" in seen.path and handler.refuse(403, "DENIED"))
    there = connect(server)
    with pytest.raises(RegistryDenied):
        there.tags()
    assert there.resolve("1")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


ROUNDS = 12


def test_nothing_is_left_open(server: Server, connect: Connect, transport: Transport) -> None:
    """Neither by what succeeds, nor by what fails, breaks off, is refused, given up or not read to its end."""
    data = os.urandom(400_000)
    server.state.add_blob(data)
    server.state.add_manifest("a/b", "1", media_type=OCI_MANIFEST, body=MANIFEST)
    there, given_up = connect(server), Cancel()
    given_up.cancel()

    def each_way() -> None:
        there.resolve("1")
        received(there, blob_of(data))
        with there.blob(blob_of(data)) as chunks:
            next(chunks)
        with contextlib.suppress(RegistryError):
            there.manifest("none")
        server.state.rules[:] = [cut_after(data, [1000] * 9)]
        with contextlib.suppress(RegistryError):
            received(there, blob_of(data))
        server.state.rules[:] = [lambda handler, seen: handler.answer(200, b"x" * 500_000)]
        with contextlib.suppress(RegistryError):
            received(there, blob_of(data))
        server.state.rules.clear()
        with contextlib.suppress(Cancelled):
            connect(server, cancel=given_up).resolve("1")
        there.upload(blob_of(data), source(data))
        transport.close()

    each_way()
    before = descriptors()
    for _ in range(ROUNDS):
        each_way()
    for _ in range(400):  # the server's threads close theirs a little later
        gc.collect()
        if descriptors() < before + ROUNDS:  # what leaks, leaks every time; other tests of this process come and go
            return
        time.sleep(0.05)
    pytest.fail(f"{descriptors() - before} more descriptors than before")


def test_many_threads_ask_for_one_token(server: Server, connect: Connect) -> None:
    server.state.add_manifest("a/b", "1", media_type=OCI_MANIFEST, body=MANIFEST)
    with registryserver.serving() as tokens:
        tokens.state.rules.append(lambda handler, seen: handler.answer(200, b'{"token": "good", "expires_in": 300}'))
        told = f'Bearer realm="{tokens.url}/token",service="x"'
        server.state.rules.append(
            lambda handler, seen: (
                seen.headers.get("authorization") != "Bearer good"
                and handler.refuse(401, "UNAUTHORIZED", WWW_Authenticate=told)
            )
        )
        there = connect(server)
        there.resolve("1")
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: there.resolve("1"), range(40)))
        assert len(found) == 40
        assert len(tokens.state.seen) == 1


# Names with several addresses.


@pytest.fixture
def deaf() -> Iterator[int]:
    """A port of 127.0.0.2 where nobody takes a connection: its queue is full."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.2", 0))
        listener.listen(0)
        for _ in range(4):
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def addresses(monkeypatch: pytest.MonkeyPatch, *found: tuple[str, int]) -> None:
    """Every name has these."""
    entries = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in found]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: entries)


def test_the_next_address_is_tried_when_nobody_is_at_one(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.state.add_manifest("a/b", "1", media_type=OCI_MANIFEST, body=MANIFEST)
    addresses(monkeypatch, ("127.0.0.3", server.port), ("127.0.0.1", server.port))
    assert connect(Endpoint("http://reg.example/v2")).resolve("1")


def test_many_addresses_get_no_more_time_than_one(deaf: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "LEAST_SECONDS", 0.2)
    addresses(monkeypatch, *[("127.0.0.2", deaf)] * 1000)
    transport = Transport(TransportSettings(connect_timeout=0.5))
    registry = Registry(transport, [Endpoint("http://reg.example/v2")], credentials=Credentials(), cancel=Cancel())
    before = time.monotonic()
    with pytest.raises(ConnectionFailed, match="i/o timeout"):
        registry.repository("a/b").resolve("1")
    assert time.monotonic() - before < 1000 * 0.2 / 2


def test_a_connection_that_does_not_come_about_can_be_given_up(deaf: int) -> None:
    transport, cancel = Transport(TransportSettings(connect_timeout=SILENCE)), Cancel()
    endpoint = Endpoint(f"http://127.0.0.2:{deaf}/v2")
    there = Registry(transport, [endpoint], credentials=Credentials(), cancel=cancel).repository("a/b")
    threading.Timer(0.2, cancel.cancel).start()
    before = time.monotonic()
    with pytest.raises(Cancelled):
        there.resolve("1")
    assert time.monotonic() - before < SILENCE / 2
