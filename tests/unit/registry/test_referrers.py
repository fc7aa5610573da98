"""Who refers to a manifest: by the API of distribution-spec 1.1, by the tag that stands in for it, and by no lie."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from corten.errors import InvalidArgument
from corten.registry import listing
from corten.registry.client import Repository
from corten.registry.errors import RegistryDenied, RegistryError, UntrustedContent
from corten.spec.image import OCI_INDEX, OCI_MANIFEST, Descriptor
from support.registryserver import Handler, Rule, Seen, Server, digest_of

Connect = Callable[..., Repository]
SUBJECT = digest_of(b"subject")
SIGNATURE, BILL = "application/vnd.example.signature", "application/vnd.example.sbom"
TAG = SUBJECT.replace(":", "-")


def referrer(number: int, artifact_type: str = SIGNATURE) -> Descriptor:
    digest = digest_of(str(number).encode())
    return Descriptor(
        media_type=OCI_MANIFEST, digest=digest, size=number, artifact_type=artifact_type, annotations={"n": str(number)}
    )


def index(*found: Descriptor, **more: Any) -> bytes:
    manifests = [
        {
            "mediaType": each.media_type,
            "digest": each.digest,
            "size": each.size,
            "artifactType": each.artifact_type,
            "annotations": each.annotations,
        }
        for each in found
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests, **more}).encode()


def api(body: bytes, content_type: str = OCI_INDEX, **headers: str) -> Rule:
    """Has the API, and always this answer."""
    return lambda handler, seen: (
        "/referrers/" in seen.path and handler.answer(200, body, Content_Type=content_type, **headers)
    )


def test_referrers_come_with_all_that_is_said_of_them(server: Server, connect: Connect) -> None:
    server.state.rules.append(api(index(referrer(1), referrer(2, BILL))))
    assert connect(server).referrers(SUBJECT) == [referrer(1), referrer(2, BILL)]
    assert server.state.methods() == [f"GET /v2/a/b/referrers/{SUBJECT}"]
    assert not server.state.seen[0].query


def test_a_registry_may_filter(server: Server, connect: Connect) -> None:
    server.state.rules.append(api(index(referrer(1)), OCI_Filters_Applied="artifactType"))
    assert connect(server).referrers(SUBJECT, artifact_type=SIGNATURE) == [referrer(1)]
    assert server.state.seen[0].query == {"artifactType": [SIGNATURE]}


@pytest.mark.parametrize("headers", [{}, {"OCI_Filters_Applied": "artifactType"}], ids=["open", "lying"])
def test_what_a_registry_does_not_filter_is_filtered_here(
    headers: dict[str, str], server: Server, connect: Connect
) -> None:
    server.state.rules.append(api(index(referrer(1), referrer(2, BILL), referrer(3, "")), **headers))
    assert connect(server).referrers(SUBJECT, artifact_type=BILL) == [referrer(2, BILL)]


def test_referrers_come_from_all_pages(server: Server, connect: Connect) -> None:
    def pages(handler: Handler, seen: Seen) -> bool:
        at = int(seen.query.get("at", ["1"])[0])
        link = f'<{seen.path}?at={at + 1}>; rel="next"' if at < 3 else ""
        return handler.answer(200, index(referrer(at)), Content_Type=OCI_INDEX, **({"Link": link} if link else {}))

    server.state.rules.append(pages)
    assert connect(server).referrers(SUBJECT) == [referrer(1), referrer(2), referrer(3)]


def test_nobody_refers_to_it(server: Server, connect: Connect) -> None:
    server.state.rules.append(api(index()))
    assert connect(server).referrers(SUBJECT) == []


@pytest.mark.parametrize("status", [400, 404, 405])
def test_a_registry_without_the_api_has_a_tag(status: int, server: Server, connect: Connect) -> None:
    listed = index(referrer(1), referrer(2, BILL))
    server.state.add_manifest("a/b", TAG, media_type=OCI_INDEX, body=listed)
    server.state.rules.append(lambda handler, seen: "/referrers/" in seen.path and handler.answer(status))
    assert connect(server).referrers(SUBJECT) == [referrer(1), referrer(2, BILL)]
    assert connect(server).referrers(SUBJECT, artifact_type=BILL) == [referrer(2, BILL)]


def test_a_registry_with_neither_has_none(server: Server, connect: Connect) -> None:
    assert connect(server).referrers(SUBJECT) == []
    assert server.state.methods() == [f"GET /v2/a/b/referrers/{SUBJECT}", f"GET /v2/a/b/manifests/{TAG}"]


def test_a_page_that_is_no_index_stands_for_no_api(server: Server, connect: Connect) -> None:
    server.state.add_manifest("a/b", TAG, media_type=OCI_INDEX, body=index(referrer(1)))
    server.state.rules.append(api(b"<html>welcome</html>", "text/html"))
    assert connect(server).referrers(SUBJECT) == [referrer(1)]


def test_a_manifest_under_the_tag_is_no_list(server: Server, connect: Connect) -> None:
    body = b'{"schemaVersion":2,"config":{},"layers":[]}'
    server.state.add_manifest("a/b", TAG, media_type=OCI_MANIFEST, body=body)
    assert connect(server).referrers(SUBJECT) == []


def test_the_tag_of_a_long_digest_is_cut(server: Server, connect: Connect) -> None:
    connect(server).referrers("sha512:" + "ab" * 64)
    assert server.state.seen[-1].path == "/v2/a/b/manifests/sha512-" + "ab" * 32


def test_a_refusal_is_no_missing_api(server: Server, connect: Connect) -> None:
    server.state.rules.append(lambda handler, seen: handler.refuse(403, "DENIED"))
    with pytest.raises(RegistryDenied):
        connect(server).referrers(SUBJECT)
    assert len(server.state.seen) == 1


BROKEN = [
    b"",
    b"[]",
    b"null",
    b'{"schemaVersion": 2}',
    index(layers=[]),
    index(config={}),
    index(mediaType="application/vnd.oci.image.manifest.v1+json"),
    index(Descriptor(media_type=OCI_MANIFEST, digest="sha256:../../x", size=1)),
    index(Descriptor(media_type=OCI_MANIFEST, digest=SUBJECT, size=-1)),
    b'{"schemaVersion": 2, "manifests": ' + b"[" * 50_000,
]


@pytest.mark.parametrize("body", BROKEN)
def test_a_list_that_is_none_is_refused(body: bytes, server: Server, connect: Connect) -> None:
    server.state.rules.append(api(body))
    with pytest.raises(UntrustedContent):
        connect(server).referrers(SUBJECT)


def test_lists_without_end_are_left(server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGES_MAX", 5)
    link = f'</v2/a/b/referrers/{SUBJECT}>; rel="next"'
    server.state.rules.append(api(index(referrer(1)), Link=link))
    with pytest.raises(UntrustedContent, match="too many referrers"):
        connect(server).referrers(SUBJECT)
    monkeypatch.setattr(listing, "REFERRERS_MAX", 2)
    server.state.rules[:] = [api(index(*map(referrer, range(1, 5))))]
    with pytest.raises(UntrustedContent, match="too many referrers"):
        connect(server).referrers(SUBJECT)


def test_a_second_page_that_fails_is_an_error_and_no_missing_api(server: Server, connect: Connect) -> None:
    link = f'</v2/a/b/referrers/{SUBJECT}?second=1>; rel="next"'

    def pages(handler: Handler, seen: Seen) -> bool:
        if "second" in seen.query:
            return handler.answer(404)
        return handler.answer(200, index(referrer(1)), Content_Type=OCI_INDEX, Link=link)

    server.state.rules.append(pages)
    with pytest.raises(RegistryError):
        connect(server).referrers(SUBJECT)


@pytest.mark.parametrize("digest", ["", "sha256:x", "latest", "sha256:../../../x"])
def test_only_a_digest_is_asked_for(digest: str, server: Server, connect: Connect) -> None:
    with pytest.raises(InvalidArgument, match="digest"):
        connect(server).referrers(digest)
    assert not server.state.seen
