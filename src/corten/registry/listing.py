"""Lists that a registry gives: tags, referrers.

Documents: distribution-spec "Listing Tags", "Listing Referrers", "Unavailable Referrers API".
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from corten.errors import InvalidArgument
from corten.registry.documents import Place, fetch
from corten.registry.errors import RegistryError, RegistryNotFound, UntrustedContent
from corten.registry.session import Call
from corten.registry.transport import Answer
from corten.spec.image import DOCUMENT_SIZE_MAX, OCI_INDEX, Descriptor, parse_index
from corten.spec.reference import parse_digest, parse_tag

PAGES_MAX = 1000
TAGS_MAX = 1_000_000
REFERRERS_MAX = 100_000
_LINK = re.compile(r"<([^<>]*)>([^<>]*)")  # linear on what a registry may send: nothing in it overlaps
_IS_NEXT = re.compile(r';[ \t]*rel[ \t]*=[ \t]*"?next(?![^", \t;])', re.IGNORECASE)


T = TypeVar("T")


class _Tags(msgspec.Struct, frozen=True):
    tags: list[str] | None = None


def tags(place: Place) -> list[str]:
    """Every tag of the repository at one endpoint, once each.  What is no tag is left out."""
    found: dict[str, None] = {}
    url = place.url("tags/list")
    for _ in range(PAGES_MAX):
        answer, body = place.session.document(Call("GET", url, place.to_pull), DOCUMENT_SIZE_MAX)
        page = _decoded(body, _Tags).tags or []
        url = _next(place, answer)
        found |= dict.fromkeys(tag for tag in page if _is_tag(tag))
        if len(found) > TAGS_MAX:
            break
        if not url or not page:
            return list(found)
    raise UntrustedContent(f"repository {place.path} has too many tags")


def referrers(place: Place, digest: str, *, artifact_type: str) -> list[Descriptor]:
    """Manifests that refer to `digest`, of one artifact type unless that is ""."""
    query = {"artifactType": artifact_type} if artifact_type else {}
    url = place.url(f"referrers/{parse_digest(digest)}", query)
    found: list[Descriptor] = []
    for _ in range(PAGES_MAX):
        try:
            answer, body = place.session.document(Call("GET", url, place.to_pull), DOCUMENT_SIZE_MAX)
        except RegistryError as error:
            if error.status not in (400, 404, 405) or found:
                raise
            return _of_type(_by_tag(place, digest), artifact_type)
        if answer.header("Content-Type").partition(";")[0].strip() != OCI_INDEX:
            return _of_type(_by_tag(place, digest), artifact_type)
        found += _index(body)
        url = _next(place, answer)
        if len(found) > REFERRERS_MAX:
            break
        if not url:
            return _of_type(found, artifact_type)
    raise UntrustedContent(f"{digest} has too many referrers")


def _of_type(found: list[Descriptor], artifact_type: str) -> list[Descriptor]:
    """Those of the type: a registry may leave that to its client, and who says that it filtered may not have."""
    return [each for each in found if not artifact_type or each.artifact_type == artifact_type]


def _by_tag(place: Place, digest: str) -> list[Descriptor]:
    """The index under the tag that is made of the digest, where a registry has no API for it."""
    algorithm, _, encoded = digest.partition(":")
    try:
        descriptor, body = fetch(place, f"{algorithm[:32]}-{encoded[:64]}", want=None)
    except RegistryNotFound:
        return []
    return _index(body) if descriptor.media_type == OCI_INDEX else []


def _index(body: bytes) -> list[Descriptor]:
    """The descriptors of an index.  Raises UntrustedContent."""
    try:
        return parse_index(body).manifests
    except InvalidArgument as error:
        raise UntrustedContent(f"the registry gave an invalid list: {error}") from None


def _decoded(body: bytes, shape: type[T]) -> T:
    """The answer as JSON.  Raises UntrustedContent."""
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UntrustedContent(f"the registry gave an invalid list: {error}") from None


def _is_tag(text: str) -> bool:
    try:
        parse_tag(text)
    except InvalidArgument:
        return False
    return True


def _next(place: Place, answer: Answer) -> str:
    """The URL of the next page, at the endpoint itself; "" on the last one (RFC 8288)."""
    for match in _LINK.finditer(answer.header("Link")):
        if _IS_NEXT.search(match[2]):
            return place.session.located(answer, match[1])
    return ""
