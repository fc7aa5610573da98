"""A registry as pull and push see it: repositories with manifests, blobs and tags, behind one or several endpoints.

Documents: distribution-spec 1.1 ("Pull", "Push", "Content Management", "Referrers").  Endpoints are tried in order, as
dockerd tries them; what comes is checked before anybody sees it (field.md D15).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from enum import Enum
from typing import TypeVar

from corten.errors import InvalidArgument
from corten.registry import documents, listing
from corten.registry.cancel import Cancel
from corten.registry.credentials import Credentials
from corten.registry.documents import Place
from corten.registry.download import Download, may_go_on
from corten.registry.endpoint import Endpoint
from corten.registry.errors import RegistryError, refused_login
from corten.registry.session import Call, Session
from corten.registry.transport import Transport
from corten.registry.upload import OpenAt, Upload, mounted
from corten.spec.image import Descriptor, check_descriptor
from corten.spec.reference import parse_digest

T = TypeVar("T")

_PATH = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_ANY_STATUS = frozenset(range(200, 600))


class Purpose(Enum):
    """What an endpoint is used for; hosts.toml's capabilities."""

    RESOLVE = "resolve"
    PULL = "pull"
    PUSH = "push"


class Registry:
    """The endpoints of one registry for one request of one user.  Thread-safe.

    `transport` is the engine's (connections are kept there); tokens live as long as this object.  Methods of
    `Repository` raise Cancelled as soon as `cancel` is set.
    """

    def __init__(
        self, transport: Transport, endpoints: Sequence[Endpoint], *, credentials: Credentials, cancel: Cancel
    ) -> None:
        self.transport = transport
        self.cancel = cancel
        self._is_direct = False
        self._sessions = [
            Session(transport, endpoint, credentials=credentials, cancel=cancel) for endpoint in _expanded(endpoints)
        ]

    def repository(self, path: str) -> Repository:
        """The repository at `path`: `library/busybox`, without domain.  Raises InvalidArgument."""
        if not _PATH.fullmatch(path):
            raise InvalidArgument(f"invalid repository path {path[:300]!r}")
        return Repository(self, path)

    def login(self) -> str:
        """Proves the credentials to the registry (`GET /v2/`); returns its identity token, or "".

        Raises RegistryUnauthorized, RegistryUnavailable (`Get "https://…/v2/": …`), RegistryError.
        """

        def prove(session: Session) -> str:
            call = Call("GET", session.url(""), (), expect=_ANY_STATUS, is_offline=True, attempts=1)
            with session.call(call) as answer:
                if answer.status == 200:
                    return session.auth.identity_token
                raise refused_login(f"{session.endpoint.url}/", answer.status)

        return self.anywhere(prove, self.candidates(Purpose.RESOLVE))

    def distrust_mirrors(self) -> bool:
        """Asks mirrors no more; whether that makes a difference.

        For who finds that what came has another digest: a blob is known to be wrong only when all of it is there, and
        dockerd goes on to the next endpoint then as well.
        """
        mirrors = [session for session in self._sessions if session.endpoint.is_mirror and session.has_spoken]
        if self._is_direct or not mirrors or len(mirrors) == len(self._sessions):
            return False
        self._is_direct = True
        return True

    def candidates(self, purpose: Purpose) -> list[Session]:
        """The endpoints that may be used for it, in their order, those where nobody answered last."""
        able = [session for session in self._sessions if _may(session.endpoint, purpose)]
        if self._is_direct:
            able = [session for session in able if not session.endpoint.is_mirror]
        if not able:
            raise RegistryError(f"no endpoint of the registry is configured for {purpose.value}")
        return sorted(able, key=lambda session: session.is_down)

    def anywhere(self, work: Callable[[Session], T], candidates: Sequence[Session]) -> T:
        """`work` at the first endpoint where it succeeds.

        A mirror may fail with anything; the registry itself decides with any explained error.  As dockerd's
        continueOnError; the last error is raised.
        """
        failure = RegistryError("no endpoint of the registry can be used")
        for session in candidates:
            if self.is_pointless(session):
                continue
            try:
                return work(session)
            except RegistryError as error:
                if not may_go_on(session, error):
                    raise
                failure = error
        raise failure

    def is_pointless(self, session: Session) -> bool:
        """Whether it has no TLS at a host that has spoken TLS: then its failure was no reason to do without."""
        if _is_tls(session):
            return False
        host = _host_of(session)
        return any(other.has_spoken and _is_tls(other) and _host_of(other) == host for other in self._sessions)


class Repository:
    """One repository.  All raise RegistryError and its kinds (corten.registry.errors), and Cancelled.

    Tokens for what changes it are asked for with `pull,push`, for the rest with `pull`.
    """

    def __init__(self, registry: Registry, path: str) -> None:
        self.registry = registry
        self.path = path

    def resolve(self, reference: str) -> Descriptor:
        """What a tag or digest stands for: HEAD, and GET where that does not tell.

        Raises RegistryNotFound, RegistryDenied, RegistryUnauthorized …; `errors.pull_error` has Docker's wording.
        """
        return self._anywhere(Purpose.RESOLVE, lambda place: documents.resolve(place, reference))

    def manifest(self, reference: str, *, want: Descriptor | None = None) -> tuple[Descriptor, bytes]:
        """A manifest or index by tag or digest, as its bytes, with its media type, digest and size checked.

        `want` is what an index or `resolve` promised: digest, size and media type must be those.  Raises
        UntrustedContent; UnsupportedManifest for schema 1 and what is no manifest.
        """
        purpose = Purpose.PULL if ":" in reference else Purpose.RESOLVE  # what a tag means, not every mirror may say
        return self._anywhere(purpose, lambda place: documents.fetch(place, reference, want=want))

    @contextmanager
    def blob(
        self,
        descriptor: Descriptor,
        offset: int = 0,
        *,
        on_retry: Callable[[float], None] = lambda _: None,
    ) -> Iterator[Iterator[bytes]]:
        """The bytes of a blob from `offset` on, as they come, in chunks of at most 256 KiB.

        A line that breaks is taken up again where it broke (Range), on the next endpoint when one does not recover;
        `on_retry` is told the seconds until the next attempt.  Exactly `size - offset` bytes come, or an error is
        raised; **the digest is the caller's to check**, since he may have the beginning.

        Raises RegistryNotFound; UntrustedContent (too many bytes, another range than asked); RegistryUnavailable.
        """
        check_descriptor(descriptor)
        candidates = self.registry.candidates(Purpose.PULL)
        places = (Place(each, self.path) for each in candidates if not self.registry.is_pointless(each))
        attempts = self.registry.transport.settings.attempts
        download = Download(places, descriptor, cancel=self.registry.cancel, attempts=attempts, on_retry=on_retry)
        with closing(download.chunks(offset)) as chunks:
            yield chunks

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the registry has the blob already (HEAD)."""
        return self._anywhere(Purpose.PUSH, lambda place: documents.has_blob(place, descriptor))

    def mount(self, digest: str, *, from_repository: str) -> bool:
        """Asks the registry to take a blob over from another repository of its own.  False: upload it."""
        self.registry.repository(from_repository)
        parse_digest(digest)
        return self._anywhere(Purpose.PUSH, lambda place: mounted(place, digest, from_repository=from_repository))

    def upload(
        self,
        descriptor: Descriptor,
        open_at: OpenAt,
        *,
        progress: Callable[[int], None] = lambda _: None,
        on_retry: Callable[[float], None] = lambda _: None,
        chunk_size: int = 0,
    ) -> None:
        """Sends a blob, in one request if the registry takes that, else in pieces; goes on where a line broke.

        `open_at(offset)` gives the content from there on; it is called again for every attempt.  `progress` is told how
        many bytes of it are sent by now; that may fall when something is sent again.  `chunk_size` asks for pieces of
        that many bytes from the start.
        """
        attempts = self.registry.transport.settings.attempts

        def send(place: Place) -> None:
            upload = Upload(place, descriptor, open_at=open_at, progress=progress, chunk_size=chunk_size)
            upload.run(cancel=self.registry.cancel, attempts=attempts, on_retry=on_retry)

        self._anywhere(Purpose.PUSH, send)

    def put_manifest(self, reference: str, descriptor: Descriptor, *, body: bytes) -> None:
        """Stores a manifest or index under a tag or its digest.  `descriptor` has its media type and digest."""
        self._anywhere(Purpose.PUSH, lambda place: documents.store(place, reference, descriptor=descriptor, body=body))

    def referrers(self, digest: str, *, artifact_type: str = "") -> list[Descriptor]:
        """Manifests whose `subject` is `digest`: by the API, else by the tag that stands in for it."""
        return self._anywhere(Purpose.PULL, lambda place: listing.referrers(place, digest, artifact_type=artifact_type))

    def tags(self) -> list[str]:
        """All tags, in the registry's order, over all pages."""
        return self._anywhere(Purpose.RESOLVE, listing.tags)

    def _anywhere(self, purpose: Purpose, work: Callable[[Place], T]) -> T:
        candidates = self.registry.candidates(purpose)
        return self.registry.anywhere(lambda session: work(Place(session, self.path)), candidates)


def _expanded(endpoints: Sequence[Endpoint]) -> Iterator[Endpoint]:
    for endpoint in endpoints:
        yield endpoint
        if endpoint.plain_http_fallback and endpoint.url.startswith("https://"):
            yield endpoint.plain()


def _is_tls(session: Session) -> bool:
    return session.endpoint.url.startswith("https://")


def _host_of(session: Session) -> str:
    return session.endpoint.url.split("/", 3)[2].lower()


def _may(endpoint: Endpoint, purpose: Purpose) -> bool:
    may = {Purpose.RESOLVE: endpoint.can_resolve, Purpose.PULL: endpoint.can_pull, Purpose.PUSH: endpoint.can_push}
    return may[purpose]
