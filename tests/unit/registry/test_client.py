"""What a client asks of a registry, and what it makes of plain answers."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import urllib3

from corten.errors import InvalidArgument
from corten.registry import connect as connect_module
from corten.registry import listing
from corten.registry import transport as transport_module
from corten.registry.client import Repository
from corten.registry.endpoint import Endpoint, Tls
from corten.registry.errors import ConnectionFailed, RegistryNotFound, UntrustedContent, pull_error
from corten.spec import reference
from corten.spec.image import DOCKER_MANIFEST, OCI_MANIFEST, Descriptor
from corten.spec.reference import parse
from support.registryserver import Handler, Seen, Server, digest_of

Connect = Callable[..., Repository]
MANIFEST = b'{"schemaVersion":2,"config":{},"layers":[]}'


def blob_of(data: bytes) -> Descriptor:
    """The descriptor of a blob."""
    return Descriptor(media_type="application/octet-stream", digest=digest_of(data), size=len(data))


def source(data: bytes) -> Callable[[int], Iterator[bytes]]:
    """Gives `data` from an offset on, in odd pieces."""
    return lambda offset: (data[at : at + 70_001] for at in range(offset, len(data), 70_001))


def test_a_pushed_blob_comes_back(server: Server, connect: Connect) -> None:
    data = os.urandom(700_000)
    there, told = connect(server), list[int]()
    assert not there.has_blob(blob_of(data))
    there.upload(blob_of(data), source(data), progress=told.append)
    assert there.has_blob(blob_of(data))
    assert told == sorted(told)
    assert told[-1] == len(data)
    with there.blob(blob_of(data)) as chunks:
        assert b"".join(chunks) == data


def test_a_blob_is_uploaded_in_two_requests(server: Server, connect: Connect) -> None:
    connect(server).upload(blob_of(b"layer"), source(b"layer"))
    assert [seen.method for seen in server.state.seen] == ["POST", "PUT"]


def test_an_empty_blob_goes_both_ways(server: Server, connect: Connect) -> None:
    there = connect(server)
    there.upload(blob_of(b""), source(b""))
    with there.blob(blob_of(b"")) as chunks:
        assert list(chunks) == []


def test_a_blob_can_be_had_from_an_offset_on(server: Server, connect: Connect) -> None:
    server.state.add_blob(b"0123456789")
    with connect(server).blob(blob_of(b"0123456789"), 4) as chunks:
        assert b"".join(chunks) == b"456789"
    assert server.state.seen[0].headers["range"] == "bytes=4-9"


def test_a_tag_is_resolved_by_one_head(server: Server, connect: Connect) -> None:
    digest = server.state.add_manifest("a/b", "latest", media_type=OCI_MANIFEST, body=MANIFEST)
    assert connect(server).resolve("latest") == Descriptor(OCI_MANIFEST, digest, len(MANIFEST))
    assert server.state.methods() == ["HEAD /v2/a/b/manifests/latest"]


def test_a_head_that_tells_too_little_is_followed_by_a_get(server: Server, connect: Connect) -> None:
    digest = server.state.add_manifest("a/b", "latest", media_type=OCI_MANIFEST, body=MANIFEST)
    server.state.rules.append(lambda handler, seen: seen.method == "HEAD" and handler.answer(200))
    assert connect(server).resolve("latest").digest == digest
    assert [seen.method for seen in server.state.seen] == ["HEAD", "GET"]


def test_a_manifest_comes_with_what_it_is(server: Server, connect: Connect) -> None:
    digest = server.state.add_manifest("a/b", "latest", media_type=DOCKER_MANIFEST, body=MANIFEST)
    descriptor, body = connect(server).manifest(digest)
    assert (descriptor.media_type, descriptor.digest, body) == (DOCKER_MANIFEST, digest, MANIFEST)


def test_what_is_missing_is_told_in_dockers_words(server: Server, connect: Connect) -> None:
    with pytest.raises(RegistryNotFound) as caught:
        connect(server).resolve("none")
    assert str(caught.value) == "manifest unknown: manifest unknown"
    told = pull_error(caught.value, reference.parse("busybox:none"))
    assert str(told) == "manifest for busybox:none not found: manifest unknown: manifest unknown"


def test_a_missing_blob_is_not_asked_for_again(server: Server, connect: Connect) -> None:
    with pytest.raises(RegistryNotFound, match="blob unknown"), connect(server).blob(blob_of(b"x")) as chunks:
        list(chunks)
    assert len(server.state.seen) == 1


def test_a_manifest_is_put_under_a_tag_with_its_type(server: Server, connect: Connect) -> None:
    descriptor = Descriptor(OCI_MANIFEST, digest_of(MANIFEST), len(MANIFEST))
    connect(server).put_manifest("1", descriptor, body=MANIFEST)
    assert server.state.manifests["a/b:1"] == (OCI_MANIFEST, MANIFEST)


def test_a_manifest_that_is_stored_as_another_is_refused(server: Server, connect: Connect) -> None:
    other = digest_of(b"other")
    server.state.rules.append(lambda handler, seen: handler.answer(201, Docker_Content_Digest=other))
    with pytest.raises(UntrustedContent, match="stored manifest"):
        connect(server).put_manifest("1", Descriptor(OCI_MANIFEST, digest_of(MANIFEST), 43), body=MANIFEST)


def test_a_blob_is_mounted_where_the_registry_has_it(server: Server, connect: Connect) -> None:
    digest = server.state.add_blob(b"layer")
    assert connect(server).mount(digest, from_repository="c/d")
    assert server.state.seen[0].query == {"mount": [digest], "from": ["c/d"]}


def test_a_mount_that_is_not_possible_leaves_no_upload_behind(server: Server, connect: Connect) -> None:
    assert not connect(server).mount(digest_of(b"layer"), from_repository="c/d")
    assert not server.state.uploads


def test_tags_come_from_all_pages_once_each(server: Server, connect: Connect) -> None:
    def pages(handler: Handler, seen: Seen) -> bool:
        last = seen.query.get("last")
        if last:
            return handler.answer(200, b'{"tags": ["b", "c", "../d"]}')
        return handler.answer(200, b'{"tags": ["a", "b"]}', Link='</v2/a/b/tags/list?last=b&n=2>; rel="next"')

    server.state.rules.append(pages)
    assert connect(server).tags() == ["a", "b", "c"]


def test_pages_without_end_are_not_followed_without_end(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PAGES_MAX", 20)
    body = b'{"tags": ["a"]}'
    server.state.rules.append(lambda handler, seen: handler.answer(200, body, Link='</v2/a/b/tags/list>; rel="next"'))
    with pytest.raises(UntrustedContent, match="too many tags"):
        connect(server).tags()


@pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/.b", "a?b", "a#b", "a b", "a\nb"])
def test_a_path_that_would_lead_elsewhere_is_refused(path: str, server: Server, connect: Connect) -> None:
    with pytest.raises(InvalidArgument):
        connect(server).registry.repository(path)


@pytest.mark.parametrize("name", ["", "a/b", "..", "a?b", "sha256:x", "sha256:../../x", "a b"])
def test_a_reference_that_would_lead_elsewhere_is_refused(name: str, server: Server, connect: Connect) -> None:
    with pytest.raises(InvalidArgument):
        connect(server).resolve(name)
    assert not server.state.seen


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("localhost:99999", "dial tcp: address 99999: invalid port"),
        ("[::1]:70000", "dial tcp: address 70000: invalid port"),
        ("127.0.0.1:0", "dial tcp 127.0.0.1:0: connect: connection refused"),
        ("[:::]", "dial tcp: lookup :::: no such host"),
    ],
)
def test_a_name_without_an_address_is_a_registry_where_nobody_is(name: str, text: str, connect: Connect) -> None:
    assert parse(f"{name}/a/b").domain == name
    with pytest.raises(ConnectionFailed, match=re.escape(f'Get "https://{name}/v2/": {text}')):
        connect(Endpoint(f"https://{name}/v2")).resolve("1")


def test_a_next_page_that_is_nowhere_is_refused(server: Server, connect: Connect) -> None:
    server.state.rules.append(lambda handler, seen: handler.answer(200, b'{"tags": ["1"]}', Link='<//[>; rel="next"'))
    with pytest.raises(UntrustedContent, match="usable location"):
        connect(server).tags()


def test_a_certificate_that_is_written_anew_is_read_anew(
    server: Server, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.state.add_manifest("a/b", "1", media_type=OCI_MANIFEST, body=MANIFEST)
    read, ca = list[bytes](), tmp_path / "ca.crt"

    def manager(tls: Tls, proxy: str) -> urllib3.PoolManager:
        read.append(Path(tls.ca_files[0]).read_bytes())
        return connect_module.manager_of(Tls(), proxy)

    monkeypatch.setattr(transport_module, "manager_of", manager)
    there = connect(Endpoint(server.url, tls=Tls((str(ca),))))
    for content in (b"first", b"first", b"second", b"second"):
        if not ca.exists() or ca.read_bytes() != content:
            ca.write_bytes(content)
        there.resolve("1")
    assert read == [b"first", b"second"]
