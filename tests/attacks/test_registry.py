"""A registry that lies, and a client with credentials: field.md D15 (digests, types, realms) and D12 (budgets).

The client alone: whatever comes, it ends with an error of the tree in bounded time, takes a bounded number of bytes,
and keeps its credentials.  What the whole engine makes of the same lies: test_registry_engine.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import corten.registry.transport
from corten.errors import CortenError
from corten.registry import attempts
from corten.registry.cancel import Cancel, Cancelled
from corten.registry.client import Registry, Repository
from corten.registry.credentials import Credentials
from corten.registry.endpoint import Endpoint, Tls
from corten.registry.transport import Transport, TransportSettings
from corten.spec.image import Descriptor, parse_manifest
from support import lies
from support.certificates import Authority
from support.lyingregistry import Exchange, Lie, LyingRegistry, Trap, on
from support.process import wait_for

USER = Credentials(username="somebody", password="s3cret")
BASIC = ("somebody", "s3cret")
NO_TLS = Tls()
BUDGET = 64 << 20
"""Bytes that a lie may make a client take: what fits into buffers of sockets, and some attempts."""


@pytest.fixture
def transport(monkeypatch: pytest.MonkeyPatch) -> Iterator[Transport]:
    """Impatient, so that a test is short."""
    monkeypatch.setattr(attempts, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(corten.registry.transport, "HEAD_SECONDS", 2.0)
    made = Transport(TransportSettings(connect_timeout=5, read_timeout=2, attempts=2))
    yield made
    made.close()


def repository(
    transport: Transport,
    *servers: LyingRegistry,
    credentials: Credentials = USER,
    cancel: Cancel | None = None,
    tls: Tls = NO_TLS,
) -> Repository:
    """The target at one server, or at mirrors and the last one."""
    endpoints = [
        Endpoint(f"{server.url}/v2", is_mirror=server is not servers[-1], can_push=server is servers[-1], tls=tls)
        for server in servers
    ]
    registry = Registry(transport, endpoints, credentials=credentials, cancel=cancel or Cancel())
    return registry.repository(lies.REPOSITORY)


def pulled(target: Repository, reference: str = lies.TAG) -> None:
    """Manifest, configuration and layers, with the checks that the client leaves to its caller."""
    promised = target.resolve(reference)
    _, body = target.manifest(promised.digest, want=promised)
    manifest = parse_manifest(body)
    for descriptor in (manifest.config, *manifest.layers):
        assert read(target, descriptor) == descriptor.digest, "digest"


def read(target: Repository, descriptor: Descriptor) -> str:
    """The digest of what came."""
    hashed = hashlib.sha256()
    with target.blob(descriptor) as chunks:
        for chunk in chunks:
            hashed.update(chunk)
    return f"sha256:{hashed.hexdigest()}"


@pytest.fixture
def trap() -> Iterator[Trap]:
    with Trap() as other:
        other.add(lies.honest(), lies.REPOSITORY, lies.TAG)
        yield other
        assert other.caught == []


def serving(*told: Lie, **options: Any) -> LyingRegistry:
    """A registry with the honest image and these lies."""
    made = LyingRegistry(*told, **options)
    made.add(lies.honest(), lies.REPOSITORY, lies.TAG)
    return made


def test_the_honest_registry_is_believed(transport: Transport) -> None:
    with serving(basic=BASIC) as server:
        pulled(repository(transport, server))


@pytest.mark.parametrize("name", lies.PROTOCOL)
def test_a_lie_ends_in_an_error_soon_and_small(transport: Transport, name: str) -> None:
    begun = time.monotonic()
    with serving(lies.PROTOCOL[name]) as server, pytest.raises((CortenError, AssertionError)) as caught:
        pulled(repository(transport, server))
    told = str(caught.value)
    assert isinstance(caught.value, CortenError) or told.startswith("digest"), told
    assert len(told) < 10_000, len(told)
    assert not {"\x1b", "\x07"} & set(told), told[:200]
    assert "s3cret" not in told
    assert server.poured_out == 0, "the client listened to the end"
    assert server.sent < BUDGET, server.sent
    assert time.monotonic() - begun < 45, "it took too long"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["silence about the manifest", "silence about a blob"])
def test_silence_is_not_listened_to_for_ever(transport: Transport, name: str) -> None:
    with serving(lies.SLOW[name]) as server, pytest.raises(CortenError, match=r"(?i)time|deadline"):
        pulled(repository(transport, server))


@pytest.mark.parametrize("name", lies.SLOW)
def test_a_request_that_is_given_up_ends_at_once(transport: Transport, name: str) -> None:
    cancel = Cancel()
    with serving(lies.SLOW[name]) as server:
        ended: list[BaseException] = []

        def work() -> None:
            try:
                pulled(repository(transport, server, cancel=cancel))
            except BaseException as error:
                ended.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        wait_for(lambda: bool(server.asked), "first request")
        time.sleep(0.3)
        cancel.cancel()
        thread.join(60)
        assert not thread.is_alive(), "still listening"
        assert [type(error) for error in ended] == [Cancelled]


# Credentials (CVE-2020-15157 and what is like it).


def away(trap: Trap) -> Lie:
    """Every blob and manifest lies at the other host."""
    return lambda exchange: (
        exchange.kind in {"manifests", "blobs"}
        and "authorization" in exchange.headers
        and exchange.reply(307, {"Location": f"{trap.url}{exchange.target}"})
    )


def test_a_redirect_takes_no_credentials_along(transport: Transport, trap: Trap) -> None:
    with serving(away(trap), basic=BASIC) as server:
        pulled(repository(transport, server))
    assert trap.asked


@pytest.mark.parametrize("scheme", ["Basic", "Bearer"])
def test_the_host_behind_a_redirect_cannot_ask_for_credentials(transport: Transport, scheme: str) -> None:
    with Trap() as trap:
        challenge = f'{scheme} realm="{trap.url}/token",service="x"'
        trap.lies.append(lambda exchange: exchange.reply(401, {"WWW-Authenticate": challenge}, b"{}"))
        with serving(away(trap), basic=BASIC) as server, pytest.raises(CortenError):
            pulled(repository(transport, server))
        assert trap.caught == []


def test_a_registry_token_stays_at_home(transport: Transport, trap: Trap) -> None:
    with serving(away(trap)) as server:
        target = repository(transport, server, credentials=Credentials(registry_token="s3cret"))
        pulled(target)
        assert set(server.heard("authorization")) <= {"Bearer s3cret"}


def test_a_mirror_gets_no_credentials(transport: Transport, trap: Trap) -> None:
    trap.lies.append(lambda exchange: exchange.reply(401, {"WWW-Authenticate": 'Basic realm="m"'}, b"{}"))
    with serving(basic=BASIC) as server:
        pulled(repository(transport, trap, server))
    assert trap.asked


def test_pages_of_tags_at_another_host_get_no_credentials(transport: Transport, trap: Trap) -> None:
    def lie(exchange: Exchange) -> bool:
        if exchange.kind != "tags" or "authorization" not in exchange.headers:
            return False
        return exchange.reply(200, {"Link": f'<{trap.url}/v2/x/tags/list>; rel="next"'}, b'{"tags": ["1"]}')

    with serving(lie, basic=BASIC) as server:
        try:
            repository(transport, server).tags()
        except CortenError:
            assert not trap.asked


def test_pages_of_tags_have_an_end(transport: Transport) -> None:
    def lie(exchange: Exchange) -> bool:
        number = int(exchange.query.get("last", "0")) + 1
        link = f'</v2/{lies.REPOSITORY}/tags/list?last={number}>; rel="next"'
        names = json.dumps({"tags": [f"{number}-{one}" for one in range(10_000)]})
        return exchange.kind == "tags" and exchange.reply(200, {"Link": link}, names.encode())

    with serving(lie) as server, pytest.raises(CortenError):
        repository(transport, server).tags()
    assert server.sent < BUDGET, server.sent


def test_pages_of_tags_that_go_in_a_circle_have_an_end(transport: Transport) -> None:
    def lie(exchange: Exchange) -> bool:
        link = f"<{exchange.target}>; rel=next"
        return exchange.kind == "tags" and exchange.reply(200, {"Link": link}, b'{"tags": []}')

    begun = time.monotonic()
    with serving(lie) as server:
        with contextlib.suppress(CortenError):
            repository(transport, server).tags()
        assert time.monotonic() - begun < 30


@pytest.mark.parametrize("name", ["../../up", "a b", "-x", "x" * 200, "\x1b[2J", "1\n2", ""])
def test_a_tag_that_cannot_be_is_none(transport: Transport, name: str) -> None:
    def lie(exchange: Exchange) -> bool:
        return exchange.kind == "tags" and exchange.reply(200, {}, json.dumps({"tags": ["fine", name]}).encode())

    with serving(lie) as server, contextlib.suppress(CortenError):
        assert repository(transport, server).tags() == ["fine"]


@pytest.mark.parametrize("step", ["POST", "PATCH"])
def test_an_upload_elsewhere_gets_no_credentials(transport: Transport, trap: Trap, step: str) -> None:
    data = b"content" * 1000

    def lie(exchange: Exchange) -> bool:
        if exchange.method != step or "authorization" not in exchange.headers:
            return False
        return exchange.reply(202, {"Location": f"{trap.url}/v2/x/blobs/uploads/here", "Range": "0-0"})

    with serving(lie, basic=BASIC) as server:
        upload(repository(transport, server), data)


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
def test_an_upload_that_is_redirected_gets_no_credentials(transport: Transport, trap: Trap, method: str) -> None:
    def lie(exchange: Exchange) -> bool:
        if exchange.method != method or "authorization" not in exchange.headers:
            return False
        return exchange.reply(307, {"Location": f"{trap.url}/v2/x/blobs/uploads/here"})

    with serving(lie, basic=BASIC) as server:
        upload(repository(transport, server), b"content" * 1000)


def upload(target: Repository, data: bytes) -> None:
    """A blob; whether it arrives is no matter here."""
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    descriptor = Descriptor(media_type="application/octet-stream", digest=digest, size=len(data))
    with contextlib.suppress(CortenError):
        target.upload(descriptor, lambda offset: iter([data[offset:]]))


@pytest.mark.parametrize("name", ["a redirect to itself", "another range", "nowhere", "less than there was", "endless"])
def test_an_upload_ends_whatever_is_said(transport: Transport, name: str) -> None:
    answers: dict[str, Lie] = {
        "a redirect to itself": lies.redirect_loop,
        "another range": lambda one: one.reply(202, {"Location": one.target, "Range": "0-999999999"}),
        "nowhere": lambda one: one.reply(202),
        "less than there was": lambda one: one.reply(202, {"Location": one.target, "Range": "bytes=-9--1"}),
        "endless": lies.endless_headers,
    }
    begun = time.monotonic()
    with serving(on("uploads", answers[name], methods=("PUT", "PATCH", "GET"))) as server:
        target = repository(transport, server)
        data = b"content" * 1000
        descriptor = Descriptor("application/octet-stream", f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))
        with pytest.raises(CortenError):
            target.upload(descriptor, lambda offset: iter([data[offset:]]))
        assert server.poured_out == 0
        assert len(server.asked) < 100
    assert time.monotonic() - begun < 45


# Tokens.


def challenged(realm: str) -> Lie:
    """Bearer, with a realm; any token will do."""

    def lie(exchange: Exchange) -> bool:
        if exchange.headers.get("authorization", "").startswith("Bearer "):
            return False
        return exchange.reply(401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="x"'}, b"{}")

    return lie


def token_answers() -> dict[str, Lie]:
    """Of a token server."""

    def says(document: object) -> Lie:
        return lambda exchange: exchange.reply(200, {"Content-Type": "application/json"}, json.dumps(document).encode())

    return {
        "no JSON": lambda exchange: exchange.reply(200, {}, b"token"),
        "no token": says({}),
        "a number": says({"token": 1}),
        "line ends": says({"token": "x\r\nX-Injected: yes"}),
        "a token of megabytes": says({"token": "x" * (5 << 20)}),
        "control characters": says({"token": "\x00\x1b[2J"}),
        "without an end": lies.endless_body,
        "chunks without an end": lies.endless_chunks,
        "headers without an end": lies.endless_headers,
        "a redirect to itself": lies.redirect_loop,
        "later, for ever": lies.status(429, {"Retry-After": "999999999"}),
        "nested deep": lambda exchange: exchange.reply(200, {}, b'{"token":' + b"[" * 1_000_000),
    }


@pytest.mark.parametrize("name", token_answers())
def test_a_token_server_that_lies_ends_in_an_error(transport: Transport, name: str) -> None:
    begun = time.monotonic()
    with LyingRegistry(token_answers()[name]) as tokens:
        with serving(challenged(f"{tokens.url}/token")) as server, pytest.raises(CortenError) as caught:
            pulled(repository(transport, server))
        assert "s3cret" not in str(caught.value)
        assert server.heard("x-injected") == []
        assert tokens.poured_out == 0
        assert tokens.sent < BUDGET
    assert time.monotonic() - begun < 45


def test_a_token_that_never_satisfies_is_not_fetched_for_ever(transport: Transport) -> None:
    def never(exchange: Exchange) -> bool:
        return exchange.reply(401, {"WWW-Authenticate": f'Bearer realm="{exchange.owner.url}/token"'}, b"{}")

    def lie(exchange: Exchange) -> bool:
        if exchange.target.startswith("/token"):
            return exchange.reply(200, {}, b'{"token": "x", "expires_in": -5}')
        return never(exchange)

    with serving(lie) as server, pytest.raises(CortenError):
        pulled(repository(transport, server))
    assert len(server.asked) < 40


@pytest.mark.parametrize("credentials", [USER, Credentials(username="<token>", identity_token="s3cret")])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_token_server_that_redirects_passes_nothing_on(
    transport: Transport, trap: Trap, credentials: Credentials, status: int
) -> None:
    with LyingRegistry(lies.status(status, {"Location": f"{trap.url}/token"})) as tokens:
        with serving(challenged(f"{tokens.url}/token")) as server, pytest.raises(CortenError):
            pulled(repository(transport, server, credentials=credentials))
        assert tokens.asked


def test_credentials_given_over_tls_do_not_go_to_a_realm_without(
    transport: Transport, trap: Trap, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    tls = Tls(ca_files=(str(authority.ca),))
    with serving(challenged(f"{trap.url}/token"), tls=authority.issue("server")) as server, pytest.raises(CortenError):
        pulled(repository(transport, server, tls=tls))


def test_a_redirect_from_tls_to_none_is_refused(transport: Transport, trap: Trap, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = Tls(ca_files=(str(authority.ca),))
    with serving(away(trap), basic=BASIC, tls=authority.issue("server")) as server, pytest.raises(CortenError):
        pulled(repository(transport, server, tls=tls))
    assert not trap.asked


@pytest.mark.parametrize("names", [["other.example"], ["127.0.0.2"]])
def test_a_certificate_of_somebody_else_gets_no_request(
    transport: Transport, tmp_path: Path, names: Sequence[str]
) -> None:
    authority = Authority(tmp_path)
    tls = Tls(ca_files=(str(authority.ca),))
    with serving(tls=authority.issue("server", hosts=names)) as server:
        with pytest.raises(CortenError, match="x509"):
            pulled(repository(transport, server, tls=tls))
        assert not server.asked


def test_a_certificate_that_nobody_signed_gets_no_request(transport: Transport, tmp_path: Path) -> None:
    with serving(tls=Authority(tmp_path).issue("server")) as server:
        with pytest.raises(CortenError, match="x509"):
            pulled(repository(transport, server))
        assert not server.asked


def test_many_lies_leave_nothing_open(transport: Transport) -> None:
    before = _descriptors()
    with serving(lies.PROTOCOL["a blob that is always cut"]) as server:
        for _ in range(20):
            with pytest.raises((CortenError, AssertionError)):
                pulled(repository(transport, server))
    transport.close()
    wait_for(lambda: _descriptors() <= before + 2, "descriptors to be closed")


def _descriptors() -> int:
    """Sockets of this process."""
    found = 0
    for path in Path("/proc/self/fd").iterdir():
        try:
            found += path.readlink().name.startswith("socket:")
        except OSError:
            continue
    return found


def test_a_name_that_resolves_to_nothing_is_an_error(transport: Transport) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    registry = Registry(transport, [Endpoint(f"http://127.0.0.1:{port}/v2")], credentials=USER, cancel=Cancel())
    with pytest.raises(CortenError, match="refused"):
        registry.repository(lies.REPOSITORY).resolve(lies.TAG)
