"""A conversation with one endpoint: its headers, what it wants to see of the user, its errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlencode, urljoin

from corten.registry.attempts import DOCUMENT_ATTEMPTS, persistently, retry_after
from corten.registry.auth import Authorizer, Scopes, bearer_error, widened
from corten.registry.cancel import Cancel
from corten.registry.credentials import Credentials
from corten.registry.endpoint import Endpoint, origin_of
from corten.registry.errors import (
    CODES,
    ConnectionFailed,
    RegistryError,
    UntrustedContent,
    cleaned,
    coded,
    error_of,
)
from corten.registry.failures import without_address
from corten.registry.transport import LOCATION_MAX, Answer, Body, Request, Transport

ERROR_BODY_MAX = 64 << 10
_UNEXPLAINED = {401: "UNAUTHORIZED", 403: "DENIED", 429: "TOOMANYREQUESTS"}


@dataclass(frozen=True, slots=True)
class Call:
    """One request to an endpoint.  `expect` are the statuses that are no error; `missing` is what a 404 means."""

    method: str
    url: str
    scopes: Scopes
    expect: frozenset[int] = frozenset({200})
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None
    missing: str = "NAME_UNKNOWN"
    attempts: int = DOCUMENT_ATTEMPTS
    is_offline: bool = False
    """Whether a token that stands for the user is asked for as well (a login)."""


class Session:
    """One endpoint for one user and one request of his.  Thread-safe."""

    def __init__(self, transport: Transport, endpoint: Endpoint, *, credentials: Credentials, cancel: Cancel) -> None:
        self.endpoint = endpoint
        self.has_spoken = False
        """Whether HTTP was spoken: then these terms (TLS or none) are right."""
        self.is_down = False
        """Whether nobody answered the last time: then others are asked before it."""
        self.auth = Authorizer(transport, endpoint, credentials=credentials, cancel=cancel)
        self._transport = transport
        self._cancel = cancel

    def url(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """The URL of `path` (parsed, below the endpoint's root)."""
        pairs = dict(query or {})
        if self.endpoint.namespace:
            pairs["ns"] = self.endpoint.namespace
        return f"{self.endpoint.url}/{path}" + (f"?{urlencode(pairs)}" if pairs else "")

    def call(self, call: Call) -> Answer:
        """The answer, with a status of `call.expect`; to be closed.  Raises RegistryError and its kinds, Cancelled."""
        return persistently(lambda: self._once(call), cancel=self._cancel, attempts=call.attempts)

    def document(self, call: Call, limit: int) -> tuple[Answer, bytes]:
        """The answer, read (at most `limit` bytes) and closed, and its body.  Raises as `call`; UntrustedContent."""

        def whole() -> tuple[Answer, bytes]:
            with self._once(call) as answer:
                return answer, answer.read(limit)

        return persistently(whole, cancel=self._cancel, attempts=call.attempts)

    def is_hopeless(self, error: RegistryError) -> bool:
        """Whether waiting for it makes no sense: nobody is there, and nobody was, or others have the same."""
        is_absent = isinstance(error, ConnectionFailed) and not error.was_connected
        return is_absent and (self.endpoint.is_mirror or not self.has_spoken)

    def located(self, answer: Answer, location: str) -> str:
        """Where the registry says that an upload or the next page is.  Raises UntrustedContent.

        A registry behind a proxy that ends TLS may name itself with http: it is asked by https all the same.
        """
        if not location or len(location) > LOCATION_MAX:
            raise UntrustedContent("the registry gave no usable location")
        try:
            target = urljoin(answer.url, location)
            here, there = self.endpoint.origin, origin_of(target)
        except ValueError:
            raise UntrustedContent(f"the registry gave no usable location: {cleaned(location)[:200]!r}") from None
        if here[0] == "https" and there[0] == "http":
            if here[1] != there[1]:
                raise UntrustedContent("refusing a location without TLS")
            root = self.endpoint.url.split("/", 3)
            return "/".join([*root[:3], *target.split("/", 3)[3:]])
        return target

    def _once(self, call: Call) -> Answer:
        scopes = call.scopes
        answer = self._send(call, scopes)
        for _ in range(2):  # one challenge, and one token that was no longer good
            if answer.status != 401 or not self._learn(call, answer, scopes):
                break
            answer.close()
            answer = self._send(call, scopes)
            if answer.status == 401:
                scopes = widened(scopes, answer)
        if answer.status in call.expect:
            return answer
        with answer:
            raise self._error(call, answer)

    def _send(self, call: Call, scopes: Scopes) -> Answer:
        secrets: dict[str, str] = {}
        tls = replace(self.endpoint.tls, client_certs=())
        try:
            if self._is_own(call.url):
                secrets = {**dict(self.endpoint.headers), **self.auth.headers(scopes)}
                tls = self.endpoint.tls
            request = Request(call.method, call.url, call.headers, secrets, body=call.body)
            answer = self._transport.send(request, tls=tls, cancel=self._cancel)
        except RegistryError as error:
            self.is_down = isinstance(error, ConnectionFailed)
            raise self._told(error, call) from error.__cause__
        self.has_spoken = True
        self.is_down = False
        return answer

    def _is_own(self, url: str) -> bool:
        """Whether it is at the endpoint.  Raises ConnectionFailed for a name that no connection can be made to."""
        try:
            return origin_of(url) == self.endpoint.origin
        except ValueError:
            raise ConnectionFailed(without_address(url)) from None

    def _learn(self, call: Call, answer: Answer, scopes: Scopes) -> bool:
        """Only the endpoint itself may ask who the user is: not where it redirected to."""
        try:
            return origin_of(answer.url) == self.endpoint.origin and self.auth.learn(
                answer, scopes, is_offline=call.is_offline
            )
        except RegistryError as error:
            answer.close()
            raise self._told(error, call) from error.__cause__
        except BaseException:
            answer.close()
            raise

    def _told(self, error: RegistryError, call: Call) -> RegistryError:
        """The error with the request before it, as Go's url.Error has it."""
        if isinstance(error, ConnectionFailed) and not self.has_spoken:
            error.args = (f'Get "{self.endpoint.url}/": {error}',)
        else:
            shown = call.url.partition("?")[0]  # what follows may be a secret of the registry
            error.args = (f'{call.method.title()} "{shown}": {error}',)
        return error

    def _error(self, call: Call, answer: Answer) -> RegistryError:
        if call.method == "HEAD":
            code = call.missing if answer.status == 404 else _UNEXPLAINED.get(answer.status, "")
            error = coded(code, answer.status) if code in CODES else error_of(answer.status, b"")
        else:
            body = answer.read_some(ERROR_BODY_MAX)
            error = error_of(answer.status, body, bearer_error=bearer_error(answer))
        error.retry_after = retry_after(answer.header("Retry-After"))
        return error
