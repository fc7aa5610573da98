"""Names of images as users write them, as Docker stores them and as Docker shows them.

    busybox              -> docker.io/library/busybox          shown as busybox
    reg.example:5000/a/b -> the same                           shown as it is
    busybox:1            -> docker.io/library/busybox:1        shown as busybox:1
    busybox@sha256:…     -> docker.io/library/busybox@sha256:…

The grammar is that of distribution-spec's `<name>` and of Docker's references, and so are the texts of refusals.
No I/O.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NewType

from corten.errors import InvalidArgument

Digest = NewType("Digest", str)
"""`algorithm:hex`; a value of this type went through `parse_digest` or was computed here."""

DEFAULT_DOMAIN = "docker.io"
LEGACY_DOMAIN = "index.docker.io"
OFFICIAL_PREFIX = "library/"
DEFAULT_TAG = "latest"
NAME_LENGTH_MAX = 255

DIGEST_HEX_LENGTH = {"sha256": 64, "sha384": 96, "sha512": 128}

_ALNUM = "[a-z0-9]+"
_PATH_COMPONENT = f"{_ALNUM}(?:(?:[._]|__|-+){_ALNUM})*"
_PATH = f"{_PATH_COMPONENT}(?:/{_PATH_COMPONENT})*"
_HOST_PART = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_HOST_PART}(?:\.{_HOST_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = "[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"

_REFERENCE = re.compile(f"(?P<domain>{_DOMAIN})/(?P<path>{_PATH})(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?")
_IDENTIFIER = re.compile("[a-f0-9]{64}")
_DIGEST_SHAPE = re.compile(_DIGEST)
_TAG_SHAPE = re.compile(_TAG)
_LOWER_HEX = re.compile("[a-f0-9]+")


@dataclass(frozen=True, slots=True)
class Reference:
    """A normalized name: always with a domain; `tag` and `digest` are empty when absent."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """`docker.io/library/busybox`: domain and path."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """`busybox`: what Docker shows for the name."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        short = self.path.removeprefix(OFFICIAL_PREFIX)
        return self.path if "/" in short else short

    @property
    def suffix(self) -> str:
        """`:tag`, `@digest`, both or nothing."""
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.name + self.suffix

    @property
    def familiar(self) -> str:
        """`busybox:1`: what Docker shows for the whole reference."""
        return self.familiar_name + self.suffix

    @property
    def is_canonical(self) -> bool:
        """Whether it is pinned by a digest."""
        return bool(self.digest)

    def tagged(self) -> Reference:
        """Itself, with `latest` when it has neither tag nor digest."""
        if self.tag or self.digest:
            return self
        return Reference(self.domain, self.path, DEFAULT_TAG)

    def stored(self) -> Reference:
        """The key under which a store keeps it: the digest wins over the tag, `latest` stands for neither."""
        if self.digest:
            return Reference(self.domain, self.path, digest=self.digest)
        return self.tagged()


def parse_digest(text: str) -> Digest:
    """`text` as a digest whose algorithm is known and whose hex has the right length and case.

    Raises InvalidArgument with Docker's words.  What passes is safe as a file name (CVE-2024-3727).
    """
    algorithm, _, encoded = text.partition(":")
    if not _DIGEST_SHAPE.fullmatch(text):
        raise InvalidArgument("invalid checksum digest format")
    if algorithm not in DIGEST_HEX_LENGTH:
        raise InvalidArgument("unsupported digest algorithm")
    if len(encoded) != DIGEST_HEX_LENGTH[algorithm]:
        raise InvalidArgument("invalid checksum digest length")
    if not _LOWER_HEX.fullmatch(encoded):
        raise InvalidArgument("invalid checksum digest format")
    return Digest(text)


def parse_tag(text: str) -> str:
    """`text` as a tag; raises InvalidArgument."""
    if not _TAG_SHAPE.fullmatch(text):
        raise InvalidArgument("invalid tag format")
    return text


def parse(text: str) -> Reference:
    """A name, with or without tag and digest, normalized.  Raises InvalidArgument with Docker's words."""
    if _IDENTIFIER.fullmatch(text):
        raise InvalidArgument(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    domain, remainder = _split_domain(text)
    remote = remainder.partition(":")[0]
    if remote.lower() != remote:
        raise InvalidArgument(f"invalid reference format: repository name ({remote}) must be lowercase")
    match = _REFERENCE.fullmatch(f"{domain}/{remainder}")
    if match is None:
        raise InvalidArgument("invalid reference format")
    found = Reference(match["domain"], match["path"], match["tag"] or "", match["digest"] or "")
    if len(found.name) > NAME_LENGTH_MAX:
        raise InvalidArgument(f"repository name must not be more than {NAME_LENGTH_MAX} characters")
    if found.digest:
        parse_digest(found.digest)
    return found


def parse_any(text: str) -> Reference | Digest:
    """What a user may give for an image: a name, a digest, or 64 hexadecimal digits.

    A short id parses as a name: only the store knows better.
    """
    if _IDENTIFIER.fullmatch(text):
        return Digest(f"sha256:{text}")
    try:
        return parse_digest(text)
    except InvalidArgument:
        return parse(text)


def _split_domain(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    looks_like_host = "." in first or ":" in first or first == "localhost" or first.lower() != first
    if slash and looks_like_host:
        domain, remainder = first, rest
    else:
        domain, remainder = DEFAULT_DOMAIN, text
    if domain == LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in remainder:
        remainder = OFFICIAL_PREFIX + remainder
    return domain, remainder
