"""Kinds of failure, by what the caller can do about them.

Each edge (HTTP, gRPC, exit status) maps these kinds in one table of its own.  The text is lower case, has no
full stop and names the object.  This module is on the runtime's cold path: it imports nothing.

    CortenError
      InvalidArgument      the request can never work as it stands
      NotFound             the named object does not exist
      AlreadyExists        the name is taken
      FailedPrecondition   the object is in the wrong state for this
        NotModified        …because it already is as asked (Docker answers 304)
        Conflict           …because another object or request holds it (Docker answers 409)
      PermissionDenied     the caller or the kernel policy forbids it
        Unauthorized       …because nobody knows who the caller is (Docker answers 401)
      Unavailable          try again later
      NotImplemented       known, and not supported
      Internal             a defect or a broken host
"""

from __future__ import annotations


class CortenError(Exception):
    """Base of every failure that Corten raises on purpose."""

    kind = "internal"
    evidence: dict[str, object] | None = None
    """What a failed start leaves for its verdict: {"op", "path", "errno"} of the step (docs/why.md)."""

    @property
    def text(self) -> str:
        """The sentence for the user."""
        return str(self)


class InvalidArgument(CortenError):
    """The request can never work as it stands."""

    kind = "invalid-argument"


class NotFound(CortenError):
    """The named object does not exist."""

    kind = "not-found"


class AlreadyExists(CortenError):
    """The name is taken."""

    kind = "already-exists"


class FailedPrecondition(CortenError):
    """The object is in the wrong state for this request."""

    kind = "failed-precondition"


class NotModified(FailedPrecondition):
    """The object already is as asked."""

    kind = "not-modified"


class Conflict(FailedPrecondition):
    """Another object or request holds what is asked for."""

    kind = "conflict"


class PermissionDenied(CortenError):
    """The caller or a policy of the kernel forbids it."""

    kind = "permission-denied"


class Unauthorized(PermissionDenied):
    """Nobody knows who the caller is, or he did not prove it."""

    kind = "unauthorized"


class Unavailable(CortenError):
    """It may work later."""

    kind = "unavailable"


class NotImplemented(CortenError):
    """Known, and not supported."""

    kind = "not-implemented"


class Internal(CortenError):
    """A defect, or a host that does not behave."""

    kind = "internal"


KINDS: dict[str, type[CortenError]] = {
    cls.kind: cls
    for cls in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        NotModified,
        Conflict,
        PermissionDenied,
        Unauthorized,
        Unavailable,
        NotImplemented,
        Internal,
    )
}


def from_kind(kind: str, text: str) -> CortenError:
    """The error of a kind that crossed a process boundary; an unknown kind is `Internal`."""
    return KINDS.get(kind, Internal)(text)
