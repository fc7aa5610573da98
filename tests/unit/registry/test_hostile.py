"""What a registry that lies gets out of us: nothing of the user's, and no byte that was not promised (field.md D15)."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Callable, Iterator

import pytest

from corten.registry import attempts, auth, documents
from corten.registry import transport as transport_module
from corten.registry import watch as watch_module
from corten.registry.client import Repository
from corten.registry.credentials import Credentials
from corten.registry.documents import UnsupportedManifest
from corten.registry.endpoint import Endpoint
from corten.registry.errors import ConnectionFailed, RegistryError, RegistryUnauthorized, UntrustedContent
from corten.spec.image import DOCKER_INDEX, OCI_INDEX, OCI_MANIFEST, Descriptor
from support import registryserver
from support.registryserver import Handler, Rule, Seen, Server, digest_of

Connect = Callable[..., Repository]
MANIFEST = b'{"schemaVersion":2,"config":{},"layers":[]}'
SOMEBODY = Credentials("somebody", "secret")
BASIC = "Basic " + base64.b64encode(b"somebody:secret").decode()


@pytest.fixture
def trap() -> Iterator[Server]:
    """Another host, to which nothing secret may come."""
    with registryserver.serving() as running:
        yield running
        for seen in running.state.seen:
            assert "authorization" not in seen.headers
            assert "x-key" not in seen.headers
            assert b"secret" not in seen.body


def blob_of(data: bytes) -> Descriptor:
    return Descriptor(media_type="application/octet-stream", digest=digest_of(data), size=len(data))


def wants_basic(handler: Handler, seen: Seen) -> bool:
    """Asks for basic authentication."""
    return seen.headers.get("authorization") != BASIC and handler.refuse(
        401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="here"'
    )


def redirects(to: Callable[[Seen], str], status: int = 307) -> Rule:
    return lambda handler, seen: handler.answer(status, Location=to(seen))


def read(there: Repository, descriptor: Descriptor, offset: int = 0) -> bytes:
    with there.blob(descriptor, offset) as chunks:
        return b"".join(chunks)


def test_a_redirect_to_another_host_takes_no_credentials_along(server: Server, trap: Server, connect: Connect) -> None:
    data = b"layer"
    trap.state.add_blob(data)
    server.state.rules += [wants_basic, redirects(lambda seen: f"http://localhost:{trap.port}{seen.path}?signed=1")]
    endpoint = Endpoint(server.url, headers=(("X-Key", "secret"),))
    assert read(connect(endpoint, credentials=SOMEBODY), blob_of(data)) == data
    assert server.state.seen[-1].headers["authorization"] == BASIC
    assert server.state.seen[-1].headers["x-key"] == "secret"
    assert len(trap.state.seen) == 1


def test_credentials_do_not_come_back_with_a_redirect_that_returns(
    server: Server, trap: Server, connect: Connect
) -> None:
    trap.state.rules.append(redirects(lambda seen: f"{server.url}/a/b/blobs/x?again=1"))

    def away(handler: Handler, seen: Seen) -> bool:
        if "again" in seen.query:
            assert "authorization" not in seen.headers
            return handler.answer(200, b"layer")
        return handler.answer(307, Location=f"{trap.url}/x")

    server.state.rules += [lambda handler, seen: "again" not in seen.query and wants_basic(handler, seen), away]
    assert read(connect(server, credentials=SOMEBODY), blob_of(b"layer")) == b"layer"


def test_a_host_that_was_redirected_to_may_not_ask_who_the_user_is(
    server: Server, trap: Server, connect: Connect
) -> None:
    trap.state.rules.append(
        lambda handler, seen: handler.refuse(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="give me"')
    )
    server.state.rules.append(redirects(lambda seen: f"{trap.url}/x"))
    with pytest.raises(RegistryUnauthorized):
        read(connect(server, credentials=SOMEBODY), blob_of(b"layer"))
    assert len(trap.state.seen) == 1


def test_a_mirror_gets_no_credentials(server: Server, trap: Server, connect: Connect) -> None:
    trap.state.rules.append(
        lambda handler, seen: handler.refuse(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="give me"')
    )
    server.state.add_manifest("a/b", "1", media_type=OCI_MANIFEST, body=MANIFEST)
    server.state.rules.append(wants_basic)
    mirror = Endpoint(trap.url, is_mirror=True, namespace="docker.io")
    assert connect(mirror, server, credentials=SOMEBODY).resolve("1").size == len(MANIFEST)
    assert trap.state.seen[0].query == {"ns": ["docker.io"]}


def test_a_mirror_may_not_send_the_user_to_a_token_server(server: Server, trap: Server, connect: Connect) -> None:
    with registryserver.serving() as mirror:
        realm = f'Bearer realm="{trap.url}/token",service="x"'
        mirror.state.rules.append(lambda handler, seen: handler.refuse(401, "UNAUTHORIZED", WWW_Authenticate=realm))
        server.state.add_manifest("a/b", "1", media_type=OCI_MANIFEST, body=MANIFEST)
        connect(Endpoint(mirror.url, is_mirror=True), server, credentials=SOMEBODY).resolve("1")
    assert trap.state.seen


def token_at(realm: str) -> Rule:
    """Wants a token of `realm`."""

    def rule(handler: Handler, seen: Seen) -> bool:
        told = f'Bearer realm="{realm}",service="x"'
        return seen.headers.get("authorization") != "Bearer good" and handler.refuse(
            401, "UNAUTHORIZED", WWW_Authenticate=told
        )

    return rule


@pytest.mark.parametrize("credentials", [SOMEBODY, Credentials(identity_token="secret")], ids=["password", "identity"])
def test_a_token_server_may_not_redirect_credentials(
    server: Server, trap: Server, connect: Connect, credentials: Credentials
) -> None:
    with registryserver.serving() as tokens:
        tokens.state.rules.append(redirects(lambda seen: f"http://localhost:{trap.port}/token"))
        server.state.rules.append(token_at(f"{tokens.url}/token"))
        with pytest.raises(UntrustedContent, match="redirect to another host"):
            connect(server, credentials=credentials).resolve("1")
    assert not trap.state.seen


@pytest.mark.parametrize(
    "realm", ["", "ftp://x/token", "file:///etc/passwd", "//x", "http://", "http://[::1", "http://x:y/"]
)
def test_a_realm_that_is_no_url_is_refused(realm: str, server: Server, connect: Connect) -> None:
    server.state.rules.append(token_at(realm))
    with pytest.raises(RegistryError, match="realm"):
        connect(server, credentials=SOMEBODY).resolve("1")


TOKENS = [b"", b"{}", b"[]", b'{"token": 1}', b'{"token": "a\\nb: c"}', b'{"token": "\xc3\xa9"}']


@pytest.mark.parametrize("body", TOKENS)
def test_a_token_that_cannot_be_sent_is_refused(body: bytes, server: Server, connect: Connect) -> None:
    with registryserver.serving() as tokens:
        tokens.state.rules.append(lambda handler, seen: handler.answer(200, body))
        server.state.rules.append(token_at(f"{tokens.url}/token"))
        with pytest.raises(RegistryError, match="token"):
            connect(server).resolve("1")


def test_a_token_server_that_never_ends_is_left(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "_ANSWER_MAX", 1 << 16)
    with registryserver.serving() as tokens:
        tokens.state.rules.append(lambda handler, seen: handler.answer(200, b" " * (1 << 20)))
        server.state.rules.append(token_at(f"{tokens.url}/token"))
        with pytest.raises(UntrustedContent, match="larger than"):
            connect(server).resolve("1")


def test_redirects_in_a_circle_end(server: Server, connect: Connect) -> None:
    server.state.rules.append(redirects(lambda seen: seen.path))
    with pytest.raises(UntrustedContent, match="stopped after 10 redirects"):
        read(connect(server), blob_of(b"layer"))
    assert len(server.state.seen) == 11


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://x/y", "gopher://x", "http://", "javascript:1", "//["])
def test_a_redirect_to_something_else_than_http_is_refused(target: str, server: Server, connect: Connect) -> None:
    server.state.rules.append(redirects(lambda seen: target))
    with pytest.raises(RegistryError):
        read(connect(server), blob_of(b"layer"))


@pytest.mark.parametrize("more", [b"x", b"x" * 500_000])
def test_more_bytes_than_promised_are_refused(more: bytes, server: Server, connect: Connect) -> None:
    wanted = blob_of(b"layer")
    server.state.blobs[wanted.digest] = b"layer" + more
    with pytest.raises(UntrustedContent, match="bytes, not 5"):
        read(connect(server), wanted)


def test_more_bytes_without_a_length_are_refused(server: Server, connect: Connect) -> None:
    def head(handler: Handler, seen: Seen) -> bool:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"400\r\n" + b"x" * 1024 + b"\r\n0\r\n\r\n")
        return True

    server.state.rules.append(head)
    with pytest.raises(UntrustedContent, match="more than 5 bytes"):
        read(connect(server), blob_of(b"layer"))


@pytest.mark.parametrize(
    "content_range", ["", "bytes 0-9/10", "bytes 5-9/10", "bytes 4-9/11", "bytes 4-10/10", "bytes 4-x/10", "4-9/10"]
)
def test_another_range_than_asked_for_is_refused(content_range: str, server: Server, connect: Connect) -> None:
    server.state.rules.append(lambda handler, seen: handler.answer(206, b"456789", Content_Range=content_range))
    with pytest.raises(UntrustedContent, match="another range"):
        read(connect(server), blob_of(b"0123456789"), 4)


def test_a_range_that_was_not_asked_for_is_refused(server: Server, connect: Connect) -> None:
    server.state.rules.append(lambda handler, seen: handler.answer(206, b"0123", Content_Range="bytes 0-3/10"))
    with pytest.raises(RegistryError):
        read(connect(server), blob_of(b"0123456789"))


def test_a_manifest_with_another_digest_is_refused(server: Server, connect: Connect) -> None:
    digest = digest_of(b"other")
    server.state.manifests[f"a/b:{digest}"] = (OCI_MANIFEST, MANIFEST)
    with pytest.raises(UntrustedContent, match=f"manifest verification failed for digest {digest}"):
        connect(server).manifest(digest)


def test_a_manifest_that_is_not_what_its_header_says_is_refused(server: Server, connect: Connect) -> None:
    other = digest_of(b"other")
    server.state.rules.append(
        lambda handler, seen: handler.answer(200, MANIFEST, Content_Type=OCI_MANIFEST, Docker_Content_Digest=other)
    )
    with pytest.raises(UntrustedContent, match="verification failed"):
        connect(server).manifest("1")


@pytest.mark.parametrize("digest", ["sha256:../../../x", "md5:" + "0" * 32, "sha256:" + "A" * 64, "x" * 9000])
def test_a_digest_that_is_none_is_refused(digest: str, server: Server, connect: Connect) -> None:
    server.state.rules.append(
        lambda handler, seen: handler.answer(200, MANIFEST, Content_Type=OCI_MANIFEST, Docker_Content_Digest=digest)
    )
    with pytest.raises(UntrustedContent, match="digest"):
        connect(server).manifest("1")
    with pytest.raises(UntrustedContent, match="digest"):
        connect(server).resolve("1")


@pytest.mark.parametrize(
    ("stated", "inside"),
    [(OCI_MANIFEST, OCI_INDEX), (OCI_INDEX, OCI_MANIFEST), (DOCKER_INDEX, OCI_INDEX), (OCI_MANIFEST, "text/html")],
)
def test_a_manifest_of_two_types_is_refused(stated: str, inside: str, server: Server, connect: Connect) -> None:
    """CVE-2021-41190."""
    body = json.dumps({"schemaVersion": 2, "mediaType": inside, "manifests": [], "layers": []}).encode()
    server.state.add_manifest("a/b", "1", media_type=stated, body=body)
    with pytest.raises(UntrustedContent, match="media type"):
        connect(server).manifest("1")


@pytest.mark.parametrize("media_type", sorted(documents.SCHEMA_1))
def test_schema_1_is_not_taken(media_type: str, server: Server, connect: Connect) -> None:
    body = b'{"schemaVersion": 1, "fsLayers": []}'
    server.state.add_manifest("a/b", "1", media_type=media_type, body=body)
    for ask in (connect(server).resolve, connect(server).manifest):
        with pytest.raises(UnsupportedManifest, match="schema 1"):
            ask("1")


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"null", b"[" * 100_000, b'{"mediaType": 1}'])
def test_a_manifest_that_is_no_json_object_is_refused(body: bytes, server: Server, connect: Connect) -> None:
    server.state.add_manifest("a/b", "1", media_type=OCI_MANIFEST, body=body)
    with pytest.raises(UntrustedContent):
        connect(server).manifest("1")


def test_a_manifest_larger_than_promised_is_not_read(server: Server, connect: Connect) -> None:
    digest = server.state.add_manifest("a/b", "1", media_type=OCI_MANIFEST, body=MANIFEST + b" " * 100_000)
    with pytest.raises(UntrustedContent, match="larger than 43 bytes"):
        connect(server).manifest(digest, want=Descriptor(media_type=OCI_MANIFEST, digest=digest, size=43))


def test_a_manifest_of_another_type_than_promised_is_refused(server: Server, connect: Connect) -> None:
    digest = server.state.add_manifest("a/b", "1", media_type=OCI_MANIFEST, body=MANIFEST)
    with pytest.raises(UntrustedContent, match="not application/vnd"):
        connect(server).manifest(digest, want=Descriptor(media_type=OCI_INDEX, digest=digest, size=43))


def test_a_manifest_beyond_the_budget_is_refused(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "DOCUMENT_SIZE_MAX", 1000)
    server.state.add_manifest("a/b", "1", media_type=OCI_MANIFEST, body=MANIFEST + b" " * 1000)
    for ask in (connect(server).resolve, connect(server).manifest):
        with pytest.raises(UntrustedContent, match="larger than 1000 bytes"):
            ask("1")


def test_heads_without_end_are_left(server: Server, connect: Connect) -> None:
    def many(handler: Handler, seen: Seen) -> bool:
        handler.send_response(200)
        for number in range(200):
            handler.send_header(f"X-{number}", "x" * 1000)
        handler.end_headers()
        return handler.cut()

    server.state.rules.append(many)
    with pytest.raises(RegistryError):
        connect(server).resolve("1")


def test_a_line_of_a_head_without_end_is_left(server: Server, connect: Connect) -> None:
    server.state.rules.append(lambda handler, seen: handler.answer(200, X_Long="x" * 1_000_000))
    with pytest.raises(RegistryError, match="headers are too long"):
        connect(server).resolve("1")


@pytest.mark.parametrize("end", [b"X-More: 1\r\n" * 100, b"x" * 100_000])
def test_trailers_without_end_are_left(end: bytes, server: Server, connect: Connect) -> None:
    def trailing(handler: Handler, seen: Seen) -> bool:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"1\r\nx\r\n0\r\n" + end)
        time.sleep(0.3)
        return handler.cut()

    server.state.rules.append(trailing)
    with pytest.raises(RegistryError, match="trailers are too long"):
        connect(server).tags()


def test_preliminary_answers_without_end_are_left(server: Server, connect: Connect) -> None:
    def ever(handler: Handler, seen: Seen) -> bool:
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)
        time.sleep(0.1)
        return handler.cut()

    server.state.rules.append(ever)
    with pytest.raises(RegistryError, match="too many 1xx"):
        connect(server).tags()


def slowly(*, head: bool) -> Rule:
    """An answer that comes byte by byte, for ever."""

    def rule(handler: Handler, seen: Seen) -> bool:
        start = b"HTTP/1.1 200 OK\r\n" + (b"" if head else b"Transfer-Encoding: chunked\r\n\r\n1;")
        with contextlib.suppress(OSError):
            handler.wfile.write(start)
            for _ in range(6000):
                handler.wfile.write(b"x")
                time.sleep(0.01)
        return handler.cut()

    return rule


@pytest.mark.parametrize("head", [True, False], ids=["head", "body"])
def test_a_byte_now_and_then_is_not_listened_to_for_ever(
    head: bool, server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_module, "HEAD_SECONDS", -4.9)  # with 5 to connect
    monkeypatch.setattr(transport_module, "PIECE_SECONDS", 0.1)
    monkeypatch.setattr(watch_module, "TICK", 0.05)
    monkeypatch.setattr(attempts, "DOCUMENT_ATTEMPTS", 1)
    server.state.rules.append(slowly(head=head))
    before = time.monotonic()
    with pytest.raises(ConnectionFailed):
        connect(server).manifest("1")
    assert time.monotonic() - before < 30


@pytest.mark.parametrize(
    "target",
    [
        "http://{trap}\\@{here}/x",
        "http://{here}@{trap}/x",
        "http://{trap}#@{here}/x",
        "http://{trap}?@{here}/x",
        "http:\\\\{trap}\\{here}/x",
        "http://{here}%40{trap}/x",
        "http://{here}\t@{trap}/x",
    ],
)
def test_no_spelling_of_a_redirect_takes_credentials_along(
    target: str, server: Server, trap: Server, connect: Connect
) -> None:
    """Two readers of one URL may see two hosts in it: the one that decides and the one that connects."""
    here, there = (f"127.0.0.1:{each.port}" for each in (server, trap))
    location = target.replace("{here}", here).replace("{trap}", there)
    away = redirects(lambda seen: location)
    server.state.rules += [wants_basic, lambda handler, seen: "blobs" in seen.path and away(handler, seen)]
    with pytest.raises(RegistryError):
        read(connect(server, credentials=SOMEBODY), blob_of(b"layer"))


def test_a_secret_that_cannot_be_sent_is_not_shown(server: Server, connect: Connect) -> None:
    with pytest.raises(RegistryError) as caught:
        connect(server, credentials=Credentials(registry_token="secret\r\nX-Other: 1")).resolve("1")
    assert "secret" not in str(caught.value)
    with pytest.raises(RegistryError) as caught:
        connect(Endpoint(server.url, headers=(("X-Key", "secret\r\nX-Other: 1"),))).resolve("1")
    assert "secret" not in str(caught.value)
    assert not server.state.seen


def test_a_registry_cannot_ask_for_a_token_that_does_more(server: Server, connect: Connect) -> None:
    asked = 'Bearer realm="{}/token",service="x",scope="repository:a/b:pull repository:a/b:push,delete registry:x:*"'
    with registryserver.serving() as tokens:
        tokens.state.rules.append(lambda handler, seen: handler.answer(200, b'{"token": "good"}'))
        told = asked.format(tokens.url)
        server.state.rules.append(lambda handler, seen: handler.refuse(401, "UNAUTHORIZED", WWW_Authenticate=told))
        with pytest.raises(RegistryUnauthorized):
            connect(server, credentials=SOMEBODY).tags()
        scopes = {scope for seen in tokens.state.seen for scope in seen.query["scope"]}
    assert scopes == {"repository:a/b:pull"}


def test_a_long_list_of_links_costs_no_time(server: Server, connect: Connect) -> None:
    links = "<a>;x=1 " * 7000
    server.state.rules.append(lambda handler, seen: handler.answer(200, b'{"tags": ["a"]}', Link=links))
    before = time.process_time()
    assert connect(server).tags() == ["a"]
    assert time.process_time() - before < 1


@pytest.mark.parametrize("length", ["-1", "-99999999999999999999", "+5", "5_0", "0x5", "five", "5, 5", "5, 6", "٥"])
def test_a_length_that_is_none_is_refused_at_once(length: str, server: Server, connect: Connect) -> None:
    def says(handler: Handler, seen: Seen) -> bool:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
        handler.wfile.write(head.encode() + b"layer")
        time.sleep(0.2)
        return handler.cut()

    server.state.rules.append(says)
    with pytest.raises(UntrustedContent, match="bad Content-Length"):
        read(connect(server), blob_of(b"layer"))
    with pytest.raises(UntrustedContent, match="bad Content-Length"):
        connect(server).manifest("1")
    assert len(server.state.seen) == 2


def test_words_of_a_registry_reach_nobody_with_control_characters(server: Server, connect: Connect) -> None:
    server.state.rules.append(lambda handler, seen: handler.refuse(403, "DENIED", "no\x1b[2J\r\n" + "x" * 100_000))
    with pytest.raises(RegistryError) as caught:
        connect(server).tags()
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 3000


def test_an_upload_that_leads_to_another_host_takes_no_credentials_along(
    server: Server, trap: Server, connect: Connect
) -> None:
    def elsewhere(handler: Handler, seen: Seen) -> bool:
        return seen.method == "POST" and handler.answer(202, Location=f"{trap.url}/a/b/blobs/uploads/1")

    trap.state.uploads["1"] = bytearray()
    server.state.rules += [wants_basic, elsewhere]
    connect(server, credentials=SOMEBODY).upload(blob_of(b"layer"), lambda offset: iter([b"layer"[offset:]]))
    assert trap.state.blobs


@pytest.mark.parametrize("location", ["", "file:///x", "x" * 20_000, "//[", "http://["])
def test_an_upload_without_a_usable_location_fails(location: str, server: Server, connect: Connect) -> None:
    server.state.rules.append(lambda handler, seen: handler.answer(202, Location=location))
    with pytest.raises(RegistryError, match="usable location"):
        connect(server).upload(blob_of(b"layer"), lambda offset: iter([b"layer"[offset:]]))


def test_a_blob_that_is_stored_as_another_is_told(server: Server, connect: Connect) -> None:
    def lies(handler: Handler, seen: Seen) -> bool:
        return seen.method == "PUT" and handler.answer(201, Docker_Content_Digest=digest_of(b"other"))

    server.state.rules.append(lies)
    with pytest.raises(UntrustedContent, match="stored blob"):
        connect(server).upload(blob_of(b"layer"), lambda offset: iter([b"layer"[offset:]]))


@pytest.mark.parametrize("taken", ["0-0", "0-999999", "0-9", "bytes=0-99999999999999999999"])
def test_a_registry_that_takes_back_what_it_had_ends_the_upload(taken: str, server: Server, connect: Connect) -> None:
    data = b"x" * 100

    def says(handler: Handler, seen: Seen) -> bool:
        return seen.method == "PATCH" and handler.answer(202, Range=taken, Location="/v2/a/b/blobs/uploads/1")

    server.state.rules.append(says)
    with pytest.raises(RegistryError):
        connect(server).upload(blob_of(data), lambda offset: iter([data[offset:]]), chunk_size=20)
    assert len(server.state.seen) < 30
