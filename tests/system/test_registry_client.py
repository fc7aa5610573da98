"""Our client at Debian's docker-registry: plain, with TLS, with each kind of authentication, killed in the middle."""

from __future__ import annotations

import contextlib
import os
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from corten.errors import CortenError
from corten.registry.cancel import Cancel
from corten.registry.client import Registry as Client
from corten.registry.client import Repository
from corten.registry.credentials import Credentials
from corten.registry.endpoint import Endpoint, Tls
from corten.registry.errors import ConnectionFailed, RegistryError, RegistryUnauthorized, UntrustedContent
from corten.registry.transport import Transport, TransportSettings
from corten.spec.image import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    digest_of,
    encode,
)
from support.certificates import Authority
from support.registries import PASSWORD, USER, Registry
from support.registryserver import serving
from support.tokenserver import TokenServer

SOMEBODY = Credentials(USER, PASSWORD)


@pytest.fixture
def transport() -> Iterator[Transport]:
    made = Transport(TransportSettings(connect_timeout=10, read_timeout=20))
    yield made
    made.close()


@contextlib.contextmanager
def registry_of(form: str, folder: Path) -> Iterator[Registry]:
    """`plain`, `tls`, or with `basic` or `token` authentication."""
    with contextlib.ExitStack() as stack:
        users = {USER: PASSWORD}
        tokens = stack.enter_context(TokenServer(Authority(folder), users)) if "token" in form else None
        basic = users if "basic" in form else {}
        yield stack.enter_context(Registry(tls="tls" in form, users=basic, tokens=tokens))


def client(
    transport: Transport, registry: Registry, credentials: Credentials = SOMEBODY, *, tls: Tls | None = None
) -> Client:
    """A client that trusts the registry's authority."""
    trusted = Tls(ca_files=(str(registry.ca),)) if registry.authority is not None else Tls()
    endpoint = Endpoint(f"{registry.url}/v2", tls=tls or trusted)
    return Client(transport, [endpoint], credentials=credentials, cancel=Cancel())


def blob_of(data: bytes, media_type: str = OCI_LAYER) -> Descriptor:
    return Descriptor(media_type=media_type, digest=digest_of(data), size=len(data))


def source(data: bytes, at: Callable[[int], None] = lambda _: None) -> Callable[[int], Iterator[bytes]]:
    """Gives `data` from an offset on; `at` is told where it is, before each piece."""

    def pieces(offset: int) -> Iterator[bytes]:
        for start in range(offset, len(data), 100_003):
            at(start)
            yield data[start : start + 100_003]

    return pieces


def push_one(there: Repository) -> tuple[Descriptor, Descriptor]:
    """Pushes an image of one layer as `1`; its manifest and layer."""
    layer, config = os.urandom(900_000), b'{"architecture":"amd64","os":"linux"}'
    for data in (layer, config):
        there.upload(blob_of(data), source(data))
    manifest = Manifest(
        schema_version=2, config=blob_of(config, OCI_CONFIG), layers=[blob_of(layer)], media_type=OCI_MANIFEST
    )
    body = encode(manifest)
    there.put_manifest("1", blob_of(body, OCI_MANIFEST), body=body)
    return blob_of(body, OCI_MANIFEST), blob_of(layer)


def received(there: Repository, descriptor: Descriptor, offset: int = 0) -> bytes:
    with there.blob(descriptor, offset) as chunks:
        return b"".join(chunks)


@pytest.mark.parametrize("form", ["plain", "tls", "plain basic", "tls basic", "plain token", "tls token"])
def test_an_image_goes_there_and_comes_back(form: str, transport: Transport, tmp_path: Path) -> None:
    with registry_of(form, tmp_path) as registry:
        # a realm without TLS gets no password from who speaks TLS to the registry: these get theirs from one without
        insecure = Tls(skip_verify=True) if form == "tls token" else None
        there = client(transport, registry, tls=insecure).repository("some/where")
        manifest, layer = push_one(there)
        assert there.resolve("1") == manifest
        assert there.manifest(manifest.digest, want=manifest)[0] == manifest
        assert digest_of(received(there, layer)) == layer.digest
        assert len(received(there, layer, 123_456)) == layer.size - 123_456
        assert there.has_blob(layer)
        assert there.tags() == ["1"]
        assert there.registry.repository("else/where").mount(layer.digest, from_repository="some/where")
        assert there.referrers(manifest.digest) == []


def test_who_refers_to_an_image_stands_under_a_tag_where_there_is_no_api(transport: Transport) -> None:
    with Registry() as registry:
        there = client(transport, registry).repository("some/where")
        subject, layer = push_one(there)
        kinds = ("application/vnd.example.signature", "application/vnd.example.sbom")
        referrers = []
        for kind in kinds:
            config = b"{}"
            there.upload(blob_of(config), source(config))
            body = encode(
                Manifest(
                    schema_version=2,
                    config=blob_of(config, kind),
                    layers=[layer],
                    media_type=OCI_MANIFEST,
                )
            )
            one = blob_of(body, OCI_MANIFEST)
            there.put_manifest(one.digest, one, body=body)
            referrers.append(Descriptor(one.media_type, one.digest, one.size, artifact_type=kind))
        listed = encode(Index(schema_version=2, manifests=referrers, media_type=OCI_INDEX))
        there.put_manifest(subject.digest.replace(":", "-"), blob_of(listed, OCI_INDEX), body=listed)
        assert there.referrers(subject.digest) == referrers
        assert there.referrers(subject.digest, artifact_type=kinds[1]) == referrers[1:]


def test_one_token_serves_a_whole_pull(transport: Transport, tmp_path: Path) -> None:
    tokens = TokenServer(Authority(tmp_path), {USER: PASSWORD})
    with tokens, Registry(tokens=tokens) as registry:
        _, layer = push_one(client(transport, registry).repository("some/where"))
        tokens.asked.clear()
        there = client(transport, registry).repository("some/where")
        digest = there.resolve("1").digest
        there.manifest(digest)
        received(there, layer)
        assert [(one.account, one.scopes) for one in tokens.asked] == [(USER, ("repository:some/where:pull",))]


def test_a_token_that_has_expired_is_replaced(transport: Transport, tmp_path: Path) -> None:
    tokens = TokenServer(Authority(tmp_path), {USER: PASSWORD}, lifetime_s=-120)
    with tokens, Registry(tokens=tokens) as registry:
        there = client(transport, registry).repository("some/where")
        with pytest.raises(RegistryUnauthorized):
            there.resolve("1")
        tokens.lifetime_s = 300
        push_one(there)
        assert there.resolve("1")


def test_an_identity_token_stands_for_a_password(transport: Transport, tmp_path: Path) -> None:
    tokens = TokenServer(Authority(tmp_path), {USER: PASSWORD})
    with tokens, Registry(tokens=tokens) as registry:
        identity = client(transport, registry).login()
        assert identity
        somebody = Credentials(username="<token>", identity_token=identity)
        push_one(client(transport, registry, somebody).repository("some/where"))
        assert {(one.method, one.account) for one in tokens.asked[1:]} == {("POST", USER)}


def test_nobody_may_pull_what_is_public(transport: Transport, tmp_path: Path) -> None:
    with registry_of("plain token", tmp_path) as registry:
        push_one(client(transport, registry).repository("public/image"))
        there = client(transport, registry, Credentials()).repository("public/image")
        assert there.resolve("1")
        with pytest.raises(RegistryError) as caught:
            there.upload(blob_of(b"x"), source(b"x"))
        assert caught.value.code in {"DENIED", "UNAUTHORIZED"}


REFUSED = [
    ("plain basic", Credentials(), r'Head "http://[0-9.:]+/v2/some/where/manifests/1": no basic auth credentials'),
    ("plain basic", Credentials(USER, "wrong"), "unauthorized: authentication required"),
    (
        "plain token",
        Credentials(USER, "wrong"),
        r'Head "http://[0-9.:]+/v2/some/where/manifests/1": unauthorized: incorrect username or password',
    ),
    (
        "plain token",
        Credentials(),
        "errors:\ndenied: requested access to the resource is denied\nunauthorized: authentication required\n",
    ),
]


@pytest.mark.parametrize(("form", "credentials", "text"), REFUSED)
def test_who_is_not_known_is_told_so(
    form: str, credentials: Credentials, text: str, transport: Transport, tmp_path: Path
) -> None:
    with registry_of(form, tmp_path) as registry:
        with pytest.raises(RegistryError) as caught:
            client(transport, registry, credentials).repository("some/where").resolve("1")
        assert re.fullmatch(text, str(caught.value)), str(caught.value)


def failure(transport: Transport, endpoint: Endpoint) -> str:
    """What goes wrong at an endpoint."""
    with pytest.raises(CortenError) as caught:
        Client(transport, [endpoint], credentials=SOMEBODY, cancel=Cancel()).repository("a/b").resolve("1")
    return str(caught.value)


def test_what_goes_wrong_with_tls_is_told_in_dockers_words(transport: Transport, tmp_path: Path) -> None:
    with Registry(tls=True) as registry, Registry() as plain:
        root = f"{registry.url}/v2"
        unknown = "tls: failed to verify certificate: x509: certificate signed by unknown authority"
        assert failure(transport, Endpoint(root)) == f'Get "{root}/": {unknown}'
        spoken = f"https://{plain.host}/v2"
        told = f'Get "{spoken}/": http: server gave HTTP response to HTTPS client'
        assert failure(transport, Endpoint(spoken)) == told
        mute = f"http://{registry.host}/v2"
        assert "Client sent an HTTP request to an HTTPS server" in failure(transport, Endpoint(mute))


def test_an_authority_that_is_corrected_is_believed_at_once(transport: Transport, tmp_path: Path) -> None:
    ca = tmp_path / "ca.crt"
    theirs, other = [Authority(folder) for folder in _folders(tmp_path, "theirs", "other")]
    with serving(_context_of(theirs)) as server:
        ca.write_bytes(other.ca.read_bytes())
        endpoint = Endpoint(server.url, tls=Tls((str(ca),)))
        assert "certificate signed by unknown authority" in failure(transport, endpoint)
        ca.write_bytes(theirs.ca.read_bytes())
        assert "manifest unknown" in failure(transport, endpoint)


def _folders(root: Path, *names: str) -> list[Path]:
    places = [root / name for name in names]
    for place in places:
        place.mkdir()
    return places


def test_an_insecure_registry_is_asked_without_tls_when_it_speaks_none(transport: Transport) -> None:
    with Registry() as registry:
        endpoint = Endpoint(f"https://{registry.host}/v2", tls=Tls(skip_verify=True), plain_http_fallback=True)
        there = Client(transport, [endpoint], credentials=Credentials(), cancel=Cancel()).repository("a/b")
        manifest, _ = push_one(there)
        assert there.resolve("1") == manifest


def test_a_certificate_of_ours_is_shown_where_it_is_wanted(transport: Transport) -> None:
    with Registry(tls=True, client_certs=True) as registry:
        pair = registry.client_pair()
        shown = Tls((str(registry.ca),), ((str(pair.cert), str(pair.key)),))
        push_one(client(transport, registry, tls=shown).repository("a/b"))
        with pytest.raises(ConnectionFailed, match="remote error: tls: "):
            client(transport, registry).repository("a/b").resolve("1")


def test_a_certificate_of_ours_is_not_shown_to_another_host(transport: Transport, tmp_path: Path) -> None:
    with Registry(tls=True, client_certs=True) as other, serving(_server_context(other)) as server:
        data = b"layer"
        server.state.rules.append(
            lambda handler, seen: handler.answer(307, Location=f"{other.url}/v2/a/b/blobs/{digest_of(data)}")
        )
        pair = other.client_pair()
        shown = Tls((str(other.ca),), ((str(pair.cert), str(pair.key)),))
        there = Client(transport, [Endpoint(server.url, tls=shown)], credentials=SOMEBODY, cancel=Cancel())
        with pytest.raises(ConnectionFailed, match="remote error: tls: "):
            received(there.repository("a/b"), blob_of(data))


def _server_context(registry: Registry) -> ssl.SSLContext:
    """A server that the clients of `registry` trust."""
    assert registry.authority is not None
    return _context_of(registry.authority)


def _context_of(authority: Authority) -> ssl.SSLContext:
    """A server that shows a certificate of `authority`."""
    pair = authority.issue("other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    return context


def test_a_password_does_not_go_to_a_token_server_without_tls(transport: Transport, tmp_path: Path) -> None:
    tokens = TokenServer(Authority(tmp_path), {USER: PASSWORD})
    with tokens, Registry(tls=True, tokens=tokens) as registry:
        with pytest.raises(UntrustedContent, match="refusing to send credentials to a token server without TLS"):
            client(transport, registry).repository("some/where").resolve("1")
        assert not tokens.asked
        with pytest.raises(RegistryError):
            client(transport, registry, Credentials()).repository("public/image").resolve("1")
        assert tokens.asked[0].account == ""


def test_a_token_server_is_asked_by_tls(transport: Transport, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tokens = TokenServer(authority, {USER: PASSWORD}, tls=authority.issue("token server"))
    with tokens, Registry(tls=True, tokens=tokens) as registry:
        trusted = Tls(ca_files=(str(registry.ca), str(authority.ca)))
        manifest, _ = push_one(client(transport, registry, tls=trusted).repository("some/where"))
        assert client(transport, registry, tls=trusted).repository("some/where").resolve("1") == manifest
        with pytest.raises(ConnectionFailed, match="certificate signed by unknown authority"):
            client(transport, registry).repository("some/where").resolve("1")


def test_a_download_goes_on_after_the_registry_was_killed(transport: Transport) -> None:
    with Registry() as registry:
        there = client(transport, registry).repository("a/b")
        data = os.urandom(24 << 20)
        there.upload(blob_of(data), source(data))
        got, waits, starters = bytearray(), list[float](), list[threading.Thread]()

        def restart(_: float) -> None:
            if not waits:
                starters.append(threading.Thread(target=registry.start))
                starters[0].start()
            waits.append(_)

        with there.blob(blob_of(data), on_retry=restart) as chunks:
            for chunk in chunks:
                if len(got) < 2 << 20 <= len(got) + len(chunk):
                    registry.kill()
                got += chunk
        starters[0].join()
        assert waits
        assert bytes(got) == data


@pytest.mark.parametrize("chunk_size", [0, 4 << 20], ids=["whole", "in pieces"])
def test_an_upload_ends_well_though_the_registry_was_killed(transport: Transport, chunk_size: int) -> None:
    with Registry() as registry:
        there = client(transport, registry).repository("a/b")
        data = os.urandom(20 << 20)
        killed, waits, starters = list[int](), list[float](), list[threading.Thread]()

        def at(start: int) -> None:
            if start > 10 << 20 and not killed:
                killed.append(start)
                registry.kill()

        def restart(wait: float) -> None:
            if not waits:
                starters.append(threading.Thread(target=registry.start))
                starters[0].start()
            waits.append(wait)

        there.upload(blob_of(data), source(data, at), on_retry=restart, chunk_size=chunk_size)
        starters[0].join()
        assert waits
        assert received(there, blob_of(data)) == data
