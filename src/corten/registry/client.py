"""A registry as pull and push see it: repositories with manifests, blobs and tags, behind one or several endpoints.

Documents: distribution-spec 1.1 ("Pull", "Push", "Content Management", "Referrers").  Endpoints are tried in order, as
dockerd tries them; what comes is checked before anybody sees it (field.md D15).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from corten import errors
from corten.registry.cancel import Cancel
from corten.registry.credentials import Credentials
from corten.registry.endpoint import Endpoint
from corten.registry.transport import Transport
from corten.spec.image import Descriptor

OpenAt = Callable[[int], Iterator[bytes]]
"""Gives content from a byte offset on, in chunks; called again when a request is repeated."""


class Registry:
    """The endpoints of one registry for one request of one user.  Thread-safe.

    `transport` is the engine's (connections are kept there); tokens live as long as this object.  Methods of
    `Repository` raise Cancelled as soon as `cancel` is set.
    """

    def __init__(
        self, transport: Transport, endpoints: Sequence[Endpoint], *, credentials: Credentials, cancel: Cancel
    ) -> None:
        self.transport = transport
        self.endpoints = tuple(endpoints)
        self.credentials = credentials
        self.cancel = cancel

    def repository(self, path: str) -> Repository:
        """The repository at `path`: `library/busybox`, without domain, parsed (spec.reference)."""
        return Repository(self, path)

    def login(self) -> str:
        """Proves the credentials to the first endpoint (`GET /v2/`); returns its identity token, or "".

        Raises RegistryUnauthorized, RegistryUnavailable (`Get "https://…/v2/": …`), RegistryError.
        """
        raise _absent("logging in")


class Repository:
    """One repository.  All raise RegistryError and its kinds (corten.registry.errors), and Cancelled."""

    def __init__(self, registry: Registry, path: str) -> None:
        self.registry = registry
        self.path = path

    def resolve(self, reference: str) -> Descriptor:
        """What a tag or digest stands for: HEAD, and GET where that does not tell.

        Raises RegistryNotFound, RegistryDenied, RegistryUnauthorized …; `errors.pull_error` has Docker's wording.
        """
        raise _absent("resolving a reference")

    def manifest(self, reference: str, *, want: Descriptor | None = None) -> tuple[Descriptor, bytes]:
        """A manifest or index by tag or digest, as its bytes, with its media type, digest and size checked.

        `want` is what an index or `resolve` promised: digest, size and media type must be those.  Raises
        UntrustedContent; RegistryError for a schema 1 manifest.
        """
        raise _absent("fetching a manifest")

    def blob(
        self,
        descriptor: Descriptor,
        offset: int = 0,
        *,
        on_retry: Callable[[float], None] = lambda _: None,
    ) -> AbstractContextManager[Iterator[bytes]]:
        """The bytes of a blob from `offset` on, as they come, in chunks of at most 256 KiB.

        A line that breaks is taken up again where it broke (Range), on the next endpoint when one does not recover;
        `on_retry` is told the seconds until the next attempt.  Exactly `size - offset` bytes come, or an error is
        raised; **the digest is the caller's to check**, since he may have the beginning.

        Raises RegistryNotFound; UntrustedContent (too many bytes, another range than asked); RegistryUnavailable.
        """
        raise _absent("fetching a blob")

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the registry has the blob already (HEAD)."""
        raise _absent("asking for a blob")

    def mount(self, digest: str, *, from_repository: str) -> bool:
        """Asks the registry to take a blob over from another repository of its own.  False: upload it."""
        raise _absent("mounting a blob")

    def upload(
        self,
        descriptor: Descriptor,
        open_at: OpenAt,
        *,
        progress: Callable[[int], None] = lambda _: None,
        on_retry: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Sends a blob, in one request if the registry takes that, else in pieces; goes on where a line broke.

        `progress` is told how many bytes of it are sent by now; that may fall when something is sent again.
        """
        raise _absent("uploading a blob")

    def put_manifest(self, reference: str, descriptor: Descriptor, *, body: bytes) -> None:
        """Stores a manifest or index under a tag or its digest.  `descriptor` has its media type and digest."""
        raise _absent("uploading a manifest")

    def referrers(self, digest: str, *, artifact_type: str = "") -> list[Descriptor]:
        """Manifests whose `subject` is `digest`: by the API, else by the tag that stands in for it."""
        raise _absent("listing referrers")

    def tags(self) -> list[str]:
        """All tags, in the registry's order, over all pages."""
        raise _absent("listing tags")


def _absent(what: str) -> errors.NotImplemented:
    return errors.NotImplemented(f"{what} is not supported yet: no registry client")
