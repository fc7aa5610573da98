"""What is tried again, from where, how often, and what is not; and how it all ends when nobody waits any more."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate

import pytest

from corten.registry import attempts, download
from corten.registry.attempts import retry_after, wait_before_next
from corten.registry.client import Repository
from corten.registry.endpoint import Endpoint
from corten.registry.errors import (
    ConnectionFailed,
    RegistryError,
    RegistryNotFound,
    RegistryUnavailable,
    coded,
    error_of,
)
from corten.registry.transport import Transport
from corten.registry.upload import PIECE
from corten.spec.image import OCI_MANIFEST
from support import registryserver
from support.registryrules import blob_of, cut_after, received, source, times
from support.registryserver import Handler, Seen, Server, digest_of

Connect = Callable[..., Repository]
MANIFEST = b'{"schemaVersion":2,"config":{},"layers":[]}'


def test_a_broken_download_goes_on_where_it_broke(server: Server, connect: Connect) -> None:
    data = os.urandom(900_000)
    server.state.add_blob(data)
    server.state.rules.append(cut_after(data, [300_000, 1, 0, 500_000]))
    waits: list[float] = []
    assert received(connect(server), blob_of(data), waits) == data
    assert len(waits) == 4
    starts = [seen.headers.get("range", "") for seen in server.state.seen]
    assert starts == ["", "bytes=300000-899999", "bytes=300001-899999", "bytes=300001-899999", "bytes=800001-899999"]


def test_a_registry_without_ranges_sends_all_of_it_again(server: Server, connect: Connect) -> None:
    data = os.urandom(900_000)
    server.state.add_blob(data)
    server.state.rules.append(cut_after(data, [300_000]))
    server.state.rules.append(lambda handler, seen: seen.headers.pop("range", "") == "never")
    assert received(connect(server), blob_of(data)) == data
    assert len(server.state.seen) == 2


def test_a_download_that_does_not_get_on_ends(server: Server, connect: Connect) -> None:
    data = os.urandom(900_000)
    server.state.rules.append(cut_after(data, [10] * 100))
    waits: list[float] = []
    with pytest.raises(ConnectionFailed, match="EOF"):
        received(connect(server), blob_of(data), waits)
    assert len(server.state.seen) == 5
    assert len(waits) == 4


def test_a_download_that_gets_on_is_never_given_up(server: Server, connect: Connect) -> None:
    data = os.urandom(3_000_000)
    server.state.add_blob(data)
    server.state.rules.append(cut_after(data, [download.PROGRESS] * 11))
    assert received(connect(server), blob_of(data)) == data
    assert len(server.state.seen) == 12


def test_a_trickle_is_a_broken_line(server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TRICKLE_SECONDS", 0.05)

    def trickle(handler: Handler, seen: Seen) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        for _ in range(40):
            handler.wfile.write(b"x")
            time.sleep(0.01)
        return handler.cut()

    server.state.rules.append(trickle)
    with pytest.raises(ConnectionFailed, match="too slowly"):
        received(connect(server), blob_of(b"x" * 100_000))


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_registry_is_asked_again(status: int, server: Server, connect: Connect) -> None:
    server.state.add_manifest("a/b", "1", media_type=OCI_MANIFEST, body=MANIFEST)
    server.state.rules.append(times(2, lambda handler, seen: handler.refuse(status, "UNAVAILABLE")))
    assert connect(server).resolve("1")
    assert len(server.state.seen) == 3


@pytest.mark.parametrize("status", [400, 403, 404, 405, 410, 418, 501])
def test_a_refusal_is_not_questioned(status: int, server: Server, connect: Connect) -> None:
    server.state.rules.append(lambda handler, seen: handler.answer(status))
    with pytest.raises(RegistryError):
        connect(server).tags()
    assert len(server.state.seen) == 1


def test_a_limit_is_told_in_the_registrys_words(server: Server, connect: Connect) -> None:
    told = "You have reached your pull rate limit"
    server.state.rules.append(lambda handler, seen: handler.refuse(429, "TOOMANYREQUESTS", told))
    with pytest.raises(RegistryUnavailable, match=f"toomanyrequests: {told}"):
        connect(server).manifest("1")
    assert len(server.state.seen) == attempts.DOCUMENT_ATTEMPTS


def test_retry_after_is_waited_for(server: Server, connect: Connect) -> None:
    server.state.add_manifest("a/b", "1", media_type=OCI_MANIFEST, body=MANIFEST)
    server.state.rules.append(times(1, lambda handler, seen: handler.refuse(429, "TOOMANYREQUESTS", Retry_After="1")))
    before = time.monotonic()
    assert connect(server).resolve("1")
    assert time.monotonic() - before >= 1


def test_retry_after_is_waited_for_by_downloads_and_uploads_too(server: Server, connect: Connect) -> None:
    def busy(handler: Handler, seen: Seen) -> bool:
        return handler.refuse(429, "TOOMANYREQUESTS", Retry_After="1")

    def no_put(handler: Handler, seen: Seen) -> bool:
        return seen.method == "PUT" and not told and busy(handler, seen)

    data, told = os.urandom(100_000), list[float]()
    server.state.rules.append(no_put)
    connect(server).upload(blob_of(data), source(data), on_retry=told.append)
    assert server.state.blobs[digest_of(data)] == data
    assert told == [1.0]
    server.state.rules[:] = [times(1, busy)]
    waits: list[float] = []
    before = time.monotonic()
    assert received(connect(server), blob_of(data), waits) == data
    assert waits == [1.0]
    assert time.monotonic() - before >= 1


def test_nobody_waits_for_hours(server: Server, connect: Connect) -> None:
    server.state.rules.append(lambda handler, seen: handler.refuse(429, "TOOMANYREQUESTS", Retry_After="86400"))
    with pytest.raises(RegistryUnavailable, match="too many requests"):
        connect(server).manifest("1")
    assert len(server.state.seen) == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", None), ("7", 7.0), ("-1", None), ("soon", None), ("٣", None), ("9" * 40, 999_999_999.0), ("1.5", None)],
)
def test_retry_after_is_a_number(text: str, seconds: float | None) -> None:
    assert retry_after(text) == seconds


def test_retry_after_may_be_a_date() -> None:
    assert 50 < (retry_after(formatdate(time.time() + 60, usegmt=True)) or 0) <= 60
    assert retry_after(formatdate(0, usegmt=True)) == 0
    assert retry_after("Fri, 31 Dec 99999 23:59:59 GMT") is None


def test_waits_grow_and_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    waits = [wait_before_next(ConnectionFailed("cut"), attempt) or 0 for attempt in range(1, 9)]
    assert [round(wait / limit) for wait, limit in zip(waits[:3], (0.5, 2, 8), strict=True)] == [1, 1, 1]
    assert max(waits) <= attempts._LAST_WAIT * 1.25


LASTING = [coded("DENIED", 403), coded("UNAUTHORIZED", 401), error_of(404, b""), RegistryError("x")]


@pytest.mark.parametrize("error", LASTING)
def test_what_does_not_pass_is_not_waited_for(error: RegistryError) -> None:
    assert wait_before_next(error, 1) is None


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: " + OCI_MANIFEST.encode() + b"\r\nContent-Length: 43\r\n\r\n"


@pytest.mark.parametrize("sent", [0, 1, 9, 20, len(HEAD) - 25, len(HEAD) - 3, len(HEAD), len(HEAD) + 1, len(HEAD) + 42])
def test_a_document_that_breaks_off_anywhere_is_asked_for_again(sent: int, server: Server, connect: Connect) -> None:
    def cut(handler: Handler, seen: Seen) -> bool:
        handler.wfile.write((HEAD + MANIFEST)[:sent])
        return handler.cut()

    server.state.add_manifest("a/b", "1", media_type=OCI_MANIFEST, body=MANIFEST)
    server.state.rules.append(times(2, cut))
    assert connect(server).manifest("1")[1] == MANIFEST
    assert len(server.state.seen) == 3


def test_nobody_at_home_is_told_at_once(transport: Transport, connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    there = connect(Endpoint(f"http://127.0.0.1:{port}/v2"))
    told = f'Get "http://127.0.0.1:{port}/v2/": dial tcp 127.0.0.1:{port}: connect: connection refused'
    waits: list[float] = []
    for ask in (lambda: there.resolve("1"), lambda: received(there, blob_of(b"x"), waits)):
        with pytest.raises(ConnectionFailed) as caught:
            ask()
        assert str(caught.value) == told
    assert not waits


# Endpoints.


def test_a_mirror_that_fails_is_followed_by_the_registry(server: Server, connect: Connect) -> None:
    server.state.add_manifest("a/b", "1", media_type=OCI_MANIFEST, body=MANIFEST)
    data = os.urandom(600_000)
    server.state.add_blob(data)
    with registryserver.serving() as mirror:
        there = connect(Endpoint(mirror.url, is_mirror=True), server)
        assert there.resolve("1").size == len(MANIFEST)
        mirror.state.rules.append(cut_after(data, [100_000, 0, 0, 0, 0]))
        assert received(there, blob_of(data)) == data
        assert server.state.seen[-1].headers["range"] == "bytes=100000-599999"


def test_a_mirror_that_is_gone_is_asked_last(server: Server, connect: Connect) -> None:
    server.state.add_manifest("a/b", "1", media_type=OCI_MANIFEST, body=MANIFEST)
    with registryserver.serving() as mirror:
        gone = mirror.url
    there = connect(Endpoint(gone, is_mirror=True), server)
    there.resolve("1")
    assert there.registry._sessions[0].is_down
    there.resolve("1")


def test_what_the_registry_refuses_nobody_else_is_asked_for(server: Server, connect: Connect) -> None:
    with registryserver.serving() as other, pytest.raises(RegistryNotFound):
        connect(server, other).resolve("none")
    assert not other.state.seen


def test_a_mirror_is_not_pushed_to(server: Server, connect: Connect) -> None:
    with registryserver.serving() as mirror:
        connect(Endpoint(mirror.url, is_mirror=True, can_push=False), server).upload(blob_of(b"x"), source(b"x"))
        assert not mirror.state.seen
    with pytest.raises(RegistryError, match="no endpoint of the registry is configured for push"):
        connect(Endpoint(server.url, can_push=False)).upload(blob_of(b"x"), source(b"x"))


# Uploads.


def test_a_registry_that_refuses_large_bodies_gets_pieces(server: Server, connect: Connect) -> None:
    data = os.urandom(PIECE + 1000)

    def small(handler: Handler, seen: Seen) -> bool:
        return int(seen.headers.get("content-length", "0")) > PIECE and handler.answer(413)

    server.state.rules.append(small)
    connect(server).upload(blob_of(data), source(data))
    assert server.state.blobs[digest_of(data)] == data
    kept = [seen.method for seen in server.state.seen if seen.method != "DELETE"]
    assert kept == ["POST", "PUT", "POST", "PATCH", "PATCH", "PUT"]
    ranges = [seen.headers["content-range"] for seen in server.state.seen if seen.method == "PATCH"]
    assert ranges == [f"0-{PIECE - 1}", f"{PIECE}-{len(data) - 1}"]


def test_the_least_size_of_a_piece_is_honoured(server: Server, connect: Connect) -> None:
    def least(handler: Handler, seen: Seen) -> bool:
        if seen.method != "POST":
            return False
        server.state.uploads["1"] = bytearray()
        return handler.answer(202, Location="/v2/a/b/blobs/uploads/1", OCI_Chunk_Min_Length="400000")

    data = os.urandom(1_000_000)
    server.state.rules.append(least)
    connect(server).upload(blob_of(data), source(data), chunk_size=1000)
    assert sum(seen.method == "PATCH" for seen in server.state.seen) == 3


def test_a_broken_upload_goes_on_where_the_registry_is(server: Server, connect: Connect) -> None:
    data = os.urandom(1_000_000)

    def half(handler: Handler, seen: Seen) -> bool:
        if seen.method != "PUT":
            return False
        upload = seen.path.rpartition("/")[2]
        server.state.uploads[upload] += handler.take(400_000)
        return handler.cut()

    server.state.rules.append(times(2, half))  # POST, PUT
    told: list[int] = []
    connect(server).upload(blob_of(data), source(data), progress=told.append)
    assert server.state.blobs[digest_of(data)] == data
    assert [seen.method for seen in server.state.seen] == ["POST", "PUT", "HEAD", "GET", "PATCH", "PUT"]
    assert server.state.seen[4].headers["content-range"] == "400000-999999"
    assert told[-1] == len(data)


def test_an_upload_whose_answer_was_lost_is_not_sent_again(server: Server, connect: Connect) -> None:
    data = os.urandom(100_000)

    def lost(handler: Handler, seen: Seen) -> bool:
        if seen.method != "PUT":
            return False
        server.state.add_blob(handler.take())
        return handler.cut()

    server.state.rules.append(lost)
    connect(server).upload(blob_of(data), source(data))
    assert [seen.method for seen in server.state.seen] == ["POST", "PUT", "HEAD"]


def test_an_upload_that_the_registry_forgot_begins_anew(server: Server, connect: Connect) -> None:
    data = os.urandom(100_000)

    def forgets(handler: Handler, seen: Seen) -> bool:
        if seen.method != "PUT":
            return False
        server.state.uploads.clear()
        return handler.cut()

    server.state.rules.append(times(2, forgets))
    connect(server).upload(blob_of(data), source(data))
    kept = [seen.method for seen in server.state.seen if seen.method != "DELETE"]
    assert kept == ["POST", "PUT", "HEAD", "GET", "POST", "PUT"]


def test_a_source_that_cannot_be_read_is_no_fault_of_the_registry(server: Server, connect: Connect) -> None:
    def damaged(offset: int) -> Iterator[bytes]:
        yield b"x" * 1000
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        connect(server).upload(blob_of(b"x" * 5000), damaged)
    assert sum(seen.method == "PUT" for seen in server.state.seen) <= 1
