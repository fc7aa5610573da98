"""Manifests and what is known of blobs: small answers, read whole and checked before anybody sees them.

Documents: distribution-spec "Pulling manifests", "Pushing Manifests"; image-spec media types.  A body is what its
digest says, whatever the headers say; its type is what header and body agree on (CVE-2021-41190).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from corten.errors import InvalidArgument
from corten.registry.errors import RegistryError, UntrustedContent, cleaned
from corten.registry.session import Call, Session
from corten.registry.transport import Answer, body_of
from corten.spec.image import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    DOCUMENT_SIZE_MAX,
    INDEXES,
    MANIFESTS,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
)
from corten.spec.reference import parse_digest, parse_tag

ACCEPTED = ", ".join((DOCKER_MANIFEST, DOCKER_INDEX, OCI_INDEX, OCI_MANIFEST, "*/*;q=0.1"))
SCHEMA_1 = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)
_UNEXPLAINED = frozenset({200, 400, 401, 403, 404, 405})  # of a HEAD: GET will tell
_HASHES = ("sha256", "sha384", "sha512")


class UnsupportedManifest(RegistryError, InvalidArgument):
    """A schema 1 manifest, or something that is none; `media_type` is what the registry calls it."""

    def __init__(self, text: str, media_type: str) -> None:
        super().__init__(text)
        self.media_type = media_type


@dataclass(frozen=True, slots=True)
class Place:
    """A repository at one endpoint."""

    session: Session
    path: str

    def url(self, rest: str, query: dict[str, str] | None = None) -> str:
        """The URL of something in the repository: `manifests/latest`."""
        return self.session.url(f"{self.path}/{rest}", query)

    @property
    def to_pull(self) -> tuple[str, ...]:
        """The scope of a token that reads."""
        return (f"repository:{self.path}:pull",)

    @property
    def to_push(self) -> tuple[str, ...]:
        """The scope of a token that writes."""
        return (f"repository:{self.path}:pull,push",)


class _Typed(msgspec.Struct, frozen=True, rename={"media_type": "mediaType", "schema_version": "schemaVersion"}):
    media_type: str = ""
    schema_version: int = 0


def resolve(place: Place, reference: str) -> Descriptor:
    """What a tag or digest stands for at one endpoint."""
    with place.session.call(_call(place, "HEAD", reference)) as answer:
        descriptor = _of_head(answer, reference) if answer.status == 200 else None
    return descriptor or fetch(place, reference, want=None)[0]  # GET tells why, or what HEAD did not


def fetch(place: Place, reference: str, *, want: Descriptor | None) -> tuple[Descriptor, bytes]:
    """A manifest or index at one endpoint; all of it is checked."""
    limit = DOCUMENT_SIZE_MAX if want is None else min(want.size, DOCUMENT_SIZE_MAX)
    answer, body = place.session.document(_call(place, "GET", reference), limit)
    stated, digest = _type_of(answer), answer.header("Docker-Content-Digest")
    asked = want.digest if want is not None else reference if ":" in reference else ""
    if asked:
        digest = asked
    elif not digest:
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    verify(body, _parsed(digest))
    descriptor = Descriptor(media_type=_agreed_type(body, stated), digest=digest, size=len(body))
    if want is not None:
        _require(descriptor, want)
    return descriptor, body


def check(body: bytes, want: Descriptor) -> None:
    """Raises UntrustedContent unless `body`, which has the digest of `want`, is what else `want` says of it."""
    _require(Descriptor(_agreed_type(body, want.media_type), want.digest, len(body)), want)


def _require(found: Descriptor, want: Descriptor) -> None:
    if (want.size, want.media_type) != (found.size, found.media_type):
        what = f"{found.media_type} of {found.size} bytes, not {want.media_type} of {want.size}"
        raise UntrustedContent(f"manifest {found.digest} is {what}")


def store(place: Place, reference: str, *, descriptor: Descriptor, body: bytes) -> None:
    """Puts a manifest or index at one endpoint under a tag or its digest."""
    call = Call(
        "PUT",
        place.url(f"manifests/{_checked(reference)}"),
        place.to_push,
        expect=frozenset({200, 201, 202}),
        headers={"Content-Type": descriptor.media_type},
        body=body_of(body),
    )
    with place.session.call(call) as answer:
        digest = answer.header("Docker-Content-Digest")
    if digest and digest != descriptor.digest and digest.startswith("sha256:"):
        raise UntrustedContent(f"the registry stored manifest {descriptor.digest} as {cleaned(digest)[:200]}")


def has_blob(place: Place, descriptor: Descriptor) -> bool:
    """Whether one endpoint has a blob."""
    url = place.url(f"blobs/{parse_digest(descriptor.digest)}")
    with place.session.call(Call("HEAD", url, place.to_push, expect=frozenset({200, 404}))) as answer:
        return answer.status == 200 and answer.header("Content-Length") in ("", str(descriptor.size))


def verify(body: bytes, digest: str) -> None:
    """Raises UntrustedContent unless `body` has `digest` (parsed)."""
    algorithm = digest.partition(":")[0]
    if algorithm not in _HASHES or f"{algorithm}:{hashlib.new(algorithm, body).hexdigest()}" != digest:
        raise UntrustedContent(f"manifest verification failed for digest {digest}")


def _call(place: Place, method: str, reference: str) -> Call:
    return Call(
        method,
        place.url(f"manifests/{_checked(reference)}"),
        place.to_pull,
        expect=_UNEXPLAINED if method == "HEAD" else frozenset({200}),
        headers={"Accept": ACCEPTED},
    )


def _checked(reference: str) -> str:
    """A tag or digest, which becomes part of a URL."""
    return parse_digest(reference) if ":" in reference else parse_tag(reference)


def _of_head(answer: Answer, reference: str) -> Descriptor | None:
    """The descriptor that the head tells; None when it leaves something out."""
    digest, length = answer.header("Docker-Content-Digest"), answer.header("Content-Length")
    media_type = _type_of(answer)
    if not digest or not (length.isascii() and length.isdigit()) or media_type not in MANIFESTS | INDEXES:
        return None
    if ":" in reference and reference != digest:
        return None
    if len(length) > 12 or int(length) > DOCUMENT_SIZE_MAX:
        raise UntrustedContent(f"manifest {reference} is larger than {DOCUMENT_SIZE_MAX} bytes")
    return Descriptor(media_type=media_type, digest=_parsed(digest), size=int(length))


def _type_of(answer: Answer) -> str:
    return cleaned(answer.header("Content-Type").partition(";")[0].strip().lower())[:256]


def _agreed_type(body: bytes, stated: str) -> str:
    """The media type that header and body agree on; a header without meaning leaves it to the body."""
    try:
        typed = msgspec.json.decode(body, type=_Typed)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UntrustedContent(f"invalid manifest: {error}") from None
    known = MANIFESTS | INDEXES
    if stated in SCHEMA_1 or (typed.schema_version == 1 and stated not in known):
        raise UnsupportedManifest("unsupported manifest: Docker Image manifest version 2, schema 1", stated)
    if typed.media_type and stated in known and typed.media_type != stated:
        raise UntrustedContent(f"manifest has media type {cleaned(typed.media_type)[:256]!r}, not {stated!r}")
    found = stated if stated in known else typed.media_type
    if found not in known:
        raise UnsupportedManifest(f"unsupported manifest media type {stated or cleaned(found)[:256]!r}", stated)
    return found


def _parsed(digest: str) -> str:
    try:
        return parse_digest(digest)
    except InvalidArgument as error:
        raise UntrustedContent(f"the registry gave a digest that is none: {error}") from None
