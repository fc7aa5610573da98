"""What a registry answered, as an error, in dockerd's words.

A registry explains itself by JSON, `{"errors": [{"code": "DENIED", "message": "…"}]}` (distribution-spec, "Error
Codes"); token servers by that or by `{"details": "…"}`, or in `WWW-Authenticate` (RFC 6750 §3.1).  dockerd prints
`denied: requested access to the resource is denied`: the code in lower case and the message.

    RegistryError               dockerd answers 500
      RegistryUnauthorized      401 or code UNAUTHORIZED
      RegistryDenied            code DENIED
      RegistryNotFound          codes MANIFEST_UNKNOWN, NAME_UNKNOWN, BLOB_UNKNOWN, …
      RegistryUnavailable       nobody answered, or 429, 502, 503, 504 to the end
        ConnectionFailed        nobody answered with HTTP
      UntrustedContent          what came is not what was asked for
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

import msgspec

from corten.errors import (
    CortenError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthorized,
    Unavailable,
)
from corten.spec.reference import Reference

TEXT_MAX = 2048
"""Characters of a stranger's message that reach a user or a log."""

UNKNOWN = "UNKNOWN"
NO_CREDENTIALS = "no basic auth credentials"
"""What is said, behind the URL, to a user who is not logged in (distribution registry/client/auth)."""

# Codes with the words that stand for a message when the registry sends none (distribution registry/api).
CODES: dict[str, str] = {
    "UNKNOWN": "unknown error",
    "UNSUPPORTED": "The operation is unsupported.",
    "UNAUTHORIZED": "authentication required",
    "DENIED": "requested access to the resource is denied",
    "UNAVAILABLE": "service unavailable",
    "TOOMANYREQUESTS": "too many requests",
    "DIGEST_INVALID": "provided digest did not match uploaded content",
    "SIZE_INVALID": "provided length did not match content length",
    "NAME_INVALID": "invalid repository name",
    "TAG_INVALID": "manifest tag did not match URI",
    "NAME_UNKNOWN": "repository name not known to registry",
    "MANIFEST_UNKNOWN": "manifest unknown",
    "MANIFEST_INVALID": "manifest invalid",
    "MANIFEST_UNVERIFIED": "manifest failed signature verification",
    "MANIFEST_BLOB_UNKNOWN": "blob unknown to registry",
    "BLOB_UNKNOWN": "blob unknown to registry",
    "BLOB_UPLOAD_UNKNOWN": "blob upload unknown to registry",
    "BLOB_UPLOAD_INVALID": "blob upload invalid",
}


class RegistryError(CortenError):
    """A registry refused, failed or lied.

    `status` is the HTTP status (0: none came), `code` the code of the specification ("" when the registry gave none),
    `message` the registry's own words.
    """

    def __init__(self, text: str, *, status: int = 0, code: str = "", message: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after: float | None = None
        """Seconds that the registry asks to wait (`Retry-After`)."""


class RegistryUnauthorized(RegistryError, Unauthorized):
    """The registry wants to know who asks, or does not believe it."""


class RegistryDenied(RegistryError, PermissionDenied):
    """The registry knows who asks, and does not allow it (or hides that there is nothing)."""


class RegistryNotFound(RegistryError, NotFound):
    """No such repository, manifest, blob or upload."""


class RegistryUnavailable(RegistryError, Unavailable):
    """Nobody answered, or the registry asks to come back later."""


class ConnectionFailed(RegistryUnavailable):
    """No HTTP was spoken: name, address, TLS, proxy (then nobody `was_connected`) or a connection that ended early."""

    def __init__(self, text: str, *, was_connected: bool = False) -> None:
        super().__init__(text)
        self.was_connected = was_connected


class UntrustedContent(RegistryError, InvalidArgument):
    """What came has another digest, size or type than it should have, or breaks a budget."""


_BY_CODE: dict[str, type[RegistryError]] = {
    "UNAUTHORIZED": RegistryUnauthorized,
    "DENIED": RegistryDenied,
    "NAME_UNKNOWN": RegistryNotFound,
    "MANIFEST_UNKNOWN": RegistryNotFound,
    "BLOB_UNKNOWN": RegistryNotFound,
    "BLOB_UPLOAD_UNKNOWN": RegistryNotFound,
    "TOOMANYREQUESTS": RegistryUnavailable,
    "UNAVAILABLE": RegistryUnavailable,
}
_BY_STATUS: dict[int, type[RegistryError]] = {
    401: RegistryUnauthorized,
    403: RegistryDenied,
    404: RegistryNotFound,
    429: RegistryUnavailable,
    502: RegistryUnavailable,
    503: RegistryUnavailable,
    504: RegistryUnavailable,
}


@dataclass(frozen=True, slots=True)
class Said:
    """One error of a registry's list, cleaned."""

    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.code.lower().replace('_', ' ')}: {self.message}"


class _Entry(msgspec.Struct, frozen=True):
    code: str | None = None
    message: str | None = None


class _Body(msgspec.Struct, frozen=True):
    errors: list[_Entry] | None = None
    details: str | None = None


def error_of(status: int, body: bytes, *, bearer_error: tuple[str, str] = ("", "")) -> RegistryError:
    """The error that an answer of `status` with `body` is, which was not expected.

    `bearer_error` is (error, error_description) of a Bearer challenge, if the answer had one.
    """
    if not 400 <= status < 500:
        said = _parse(status, body)
        phrase = HTTPStatus(status).phrase if status in HTTPStatus.__members__.values() else ""
        text = f"received unexpected HTTP status: {status} {phrase}".rstrip()
        first = said[0] if said else Said("", "")
        return _BY_STATUS.get(status, RegistryError)(text, status=status, code=first.code, message=first.message)
    said = [*_of_bearer(*bearer_error), *_parse(status, body)]
    if said:
        kind = _BY_CODE.get(said[0].code) or _BY_STATUS.get(status, RegistryError)
        return kind(_listed(said), status=status, code=said[0].code, message=said[0].message)
    if status == 401:
        text = str(Said("UNAUTHORIZED", CODES["UNAUTHORIZED"]))
        return RegistryUnauthorized(text, status=status, code="UNAUTHORIZED")
    text = f"error parsing HTTP {status} response body: {_why_unread(body)}: {quoted(body)}"
    return _BY_STATUS.get(status, RegistryError)(text, status=status)


def refused_login(url: str, status: int) -> RegistryError:
    """What an answer to a login other than 200 is, in dockerd's words."""
    phrase = HTTPStatus(status).phrase if status in HTTPStatus.__members__.values() else ""
    text = f"login attempt to {url} failed with status: {status} {phrase}".rstrip()
    return _BY_STATUS.get(status, RegistryError)(text, status=status)


def coded(code: str, status: int, message: str = "") -> RegistryError:
    """An error as the registry would have explained it: for answers without a body (HEAD)."""
    said = Said(code, message or CODES[code])
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status, RegistryError)
    return kind(str(said), status=status, code=code, message=said.message)


def pull_error(error: RegistryError, reference: Reference) -> CortenError:
    """`error` as dockerd words it when it pulled `reference`; the error itself when it adds nothing.

    Source: moby distribution/errors.go, translatePullError.
    """
    first = str(Said(error.code, error.message))  # of several it takes one
    match error.code:
        case "DENIED":
            may = "repository does not exist or may require 'docker login'"
            return NotFound(f"pull access denied for {reference.familiar_name}, {may}: {first}")
        case "MANIFEST_UNKNOWN":
            return NotFound(f"manifest for {reference.familiar} not found: {first}")
        case "NAME_UNKNOWN":
            return NotFound(f"repository {reference.familiar_name} not found: {first}")
    return error


def cleaned(text: str) -> str:
    """A stranger's words without control characters, not too many of them."""
    shown = "".join(letter if letter.isprintable() or letter == " " else " " for letter in text[: TEXT_MAX + 1])
    return shown if len(shown) <= TEXT_MAX else shown[:TEXT_MAX] + "…"


def quoted(body: bytes) -> str:
    """The beginning of a body, quoted as Go's %q does for what is usual in one."""
    text = body[:TEXT_MAX].decode(errors="replace")
    named = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(named.get(letter) or (letter if letter.isprintable() else "?") for letter in text) + '"'


def _parse(status: int, body: bytes) -> list[Said]:
    try:
        found = msgspec.json.decode(body, type=_Body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    if found.details:
        code = {401: "UNAUTHORIZED", 403: "DENIED", 429: "TOOMANYREQUESTS"}.get(status, UNKNOWN)
        return [Said(code, cleaned(found.details))]
    return [_said(entry) for entry in (found.errors or [])[:16]]


def _said(entry: _Entry) -> Said:
    """dockerd knows the codes of the specification; any other is `unknown`."""
    code = entry.code if entry.code in CODES else UNKNOWN
    return Said(code or UNKNOWN, cleaned(entry.message or "") or CODES[code or UNKNOWN])


def _of_bearer(error: str, description: str) -> list[Said]:
    code = {"invalid_token": "UNAUTHORIZED", "insufficient_scope": "DENIED"}.get(error)
    return [Said(code, cleaned(description) or CODES[code])] if code else []


def _listed(said: Sequence[Said]) -> str:
    """One error as it is, several as Go's errcode.Errors prints them; what is said twice is said once."""
    texts = list(dict.fromkeys(str(one) for one in said))
    return texts[0] if len(texts) == 1 else "errors:\n" + "".join(f"{text}\n" for text in texts)


def _why_unread(body: bytes) -> str:
    try:
        msgspec.json.decode(body, type=_Body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        if not body:
            return "unexpected end of JSON input"
        return f"invalid character '{cleaned(body[:1].decode(errors='replace'))}' looking for beginning of value"
    return "no error details found in HTTP response body"
