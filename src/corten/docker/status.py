"""Kinds of failure as HTTP status codes, and the error body: `{"message": text}`."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from corten.errors import CortenError

# One table for the whole door.  dockerd answers 409 for a wrong state, 304 when there is nothing to do.
STATUS: dict[str, int] = {
    "invalid-argument": 400,
    "permission-denied": 403,
    "unauthorized": 401,
    "not-found": 404,
    "already-exists": 409,
    "failed-precondition": 409,
    "conflict": 409,
    "not-modified": 304,
    "unavailable": 503,
    "not-implemented": 501,
    "internal": 500,
}


def status_of(error: CortenError) -> int:
    """The HTTP status of an error, by its kind."""
    return STATUS[error.kind]


def error_body(text: str) -> bytes:
    """The JSON object that Docker's clients print."""
    return msgspec.json.encode({"message": text}) + b"\n"


def reason(status: int) -> str:
    """The phrase of the status line, as Go writes it."""
    return HTTPStatus(status).phrase
