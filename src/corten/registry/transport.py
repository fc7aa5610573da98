"""HTTP to registries: one request, its redirects, its answer; rules of ours on top of urllib3.

What the other side says is bounded everywhere: heads by http.client's limits and a deadline, redirects by count and by
scheme, documents by size and a deadline, silence by a timeout.  What proves who the user is (`Request.secrets`) goes to
the origin that it was meant for and is dropped by the first redirect that leads elsewhere (CVE-2020-15157).
"""

from __future__ import annotations

import contextlib
import http.client
import math
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import urllib3
from urllib3.util import make_headers

from corten.errors import InvalidArgument
from corten.registry.cancel import Cancel
from corten.registry.connect import FilesState, manager_of, state_of
from corten.registry.endpoint import Tls, origin_of
from corten.registry.errors import ConnectionFailed, UntrustedContent, cleaned
from corten.registry.failures import is_malformed, is_refused, words_of
from corten.registry.proxies import Proxies
from corten.registry.watch import Watch, Watchdog, watched

CHUNK = 256 << 10
HEAD_SECONDS = 60.0
"""From the end of the request to the end of the answer's head."""
PIECE_SECONDS = 90.0
"""For one read: what a peer that says a byte now and then may take."""
DOCUMENT_SECONDS = 300.0
_DRAIN_SECONDS = 2.0
STORING_SECONDS = 900.0
"""The longest silence after a body was sent: a registry may move gigabytes before it answers."""
REDIRECTS_MAX = 10
LOCATION_MAX = 16 << 10
IDLE_SECONDS = 60.0
"""Connections that nobody uses are closed after that."""
_DRAIN_MAX = 64 << 10
_FOLLOWED = {301, 302, 303, 307, 308}
_REPEATED = {307, 308}  # with method and body

_FAILURES: tuple[type[Exception], ...] = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError)


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """What an engine's configuration says about connections.  Times are seconds."""

    user_agent: str = "docker/26.1.5 corten"
    proxies: Proxies = field(default_factory=Proxies, repr=False)
    connect_timeout: float = 15.0
    """For the connection, and again for TLS."""
    read_timeout: float = 60.0
    """The longest silence of a peer."""
    attempts: int = 5
    """How often a blob is asked for without a byte coming (`max-download-attempts`)."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """Connections, and the state in which the files were whose certificates they use."""

    manager: urllib3.PoolManager
    state: FilesState


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent with a request; `open` gives it from its beginning, again for every attempt."""

    size: int
    open: Callable[[], Iterator[bytes]] = field(repr=False)


def body_of(data: bytes) -> Body:
    """A small body."""
    return Body(len(data), lambda: iter((data,)))


@dataclass(frozen=True, slots=True)
class Request:
    """One request.  `secrets` are headers for the origin of `url` alone; `stays` forbids redirects to other origins."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: Body | None = field(default=None, repr=False)
    stays: bool = False

    def towards(self, location: str) -> Request:
        """The request that a redirect to `location` asks for.  Raises UntrustedContent when that is not followed."""
        try:
            target = urljoin(self.url, location)
            here, there = origin_of(self.url), origin_of(target)
        except ValueError:
            raise UntrustedContent(f"refusing to follow a redirect to {cleaned(location)[:200]!r}") from None
        if here[0] == "https" and there[0] == "http":
            raise UntrustedContent(f"refusing to follow a redirect from https to http: {_host_of(target)}")
        if here == there:
            return replace(self, url=target)
        if self.stays:
            raise UntrustedContent(f"refusing to follow a redirect to another host: {_host_of(target)}")
        return replace(self, url=target, secrets={})


class Answer:
    """What came back; a context manager that owns the connection.  `url` is where it came from at last."""

    def __init__(
        self, response: Any, *, request: Request, watch: Watch, release: Callable[[], None], cancel: Cancel
    ) -> None:
        self.status = int(response.status)
        self.request = request
        self.url = request.url
        self._response = response
        self._watch = watch
        self._release = release
        self._cancel = cancel

    def header(self, name: str) -> str:
        """The value of a header, several joined by a comma; "" when there is none."""
        return str(self._response.headers.get(name, ""))

    def headers(self, name: str) -> list[str]:
        """Every value of a header."""
        return [str(value) for value in self._response.headers.getlist(name)]

    def chunks(self) -> Iterator[bytes]:
        """The body as it comes, never decoded, at most CHUNK bytes at once.  Raises ConnectionFailed, Cancelled."""
        while True:
            self._watch.deadline = time.monotonic() + PIECE_SECONDS
            try:
                chunk = self._response.read1(CHUNK, decode_content=False)
                self._watch.deadline = math.inf
            except _FAILURES as error:
                self._cancel.check()
                if is_malformed(error):
                    raise UntrustedContent(words_of(error, self.url)) from error
                raise ConnectionFailed(words_of(error, self.url), was_connected=True) from error
            self._cancel.check()
            if not chunk:
                return
            yield chunk

    def read(self, limit: int) -> bytes:
        """A document of at most `limit` bytes.  Raises UntrustedContent, ConnectionFailed, Cancelled."""
        data = bytearray()
        for chunk in self._timely():
            data += chunk
            if len(data) > limit:
                raise UntrustedContent(f"the answer of {_host_of(self.url)} is larger than {limit} bytes")
        return bytes(data)

    def read_some(self, limit: int) -> bytes:
        """The beginning of a document: what explains an error, as far as it comes."""
        data = bytearray()
        with contextlib.suppress(ConnectionFailed):
            for chunk in self._timely():
                data += chunk[: limit - len(data)]
                if len(data) >= limit:
                    break
        return bytes(data)

    def _timely(self) -> Iterator[bytes]:
        deadline = time.monotonic() + DOCUMENT_SECONDS
        for chunk in self.chunks():
            yield chunk
            if time.monotonic() > deadline:
                text = "context deadline exceeded (Client.Timeout exceeded while reading body)"
                raise ConnectionFailed(text, was_connected=True)

    def close(self) -> None:
        """Gives the connection back when the answer was read to its end (or nearly), closes it otherwise."""
        try:
            self._watch.deadline = time.monotonic() + _DRAIN_SECONDS
            left = self._response.length_remaining
            if left is not None and left <= _DRAIN_MAX and not self._watch.is_tripped:
                self._response.drain_conn()  # also what has no body: http.client wants its end to be seen
            if self._response.closed:
                self._response.release_conn()
            else:
                self._response.close()
        except _FAILURES:
            self._response.close()
        finally:
            self._watch.close()
            self._release()

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Transport:
    """The connections of an engine: one object for all pulls and pushes.  Thread-safe."""

    def __init__(self, settings: TransportSettings = TransportSettings()) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._managers: dict[tuple[Tls, str], _Kept] = {}
        self._active = 0
        self._used = 0.0
        self._sweeper: threading.Timer | None = None
        self._watchdog = Watchdog()

    def send(self, request: Request, *, tls: Tls, cancel: Cancel) -> Answer:
        """Sends `request` and follows redirects; any HTTP status is an answer.

        A GET or HEAD is followed anywhere, another method where 307 or 308 ask for it.  Raises ConnectionFailed (its
        text is Go's, without the URL), UntrustedContent (a redirect that is refused), Cancelled.
        """
        for _ in range(REDIRECTS_MAX + 1):
            answer = self._exchange(request, tls, cancel)
            location = answer.header("Location")
            if not _is_followed(request.method, answer.status) or not location:
                return answer
            answer.close()
            if len(location) > LOCATION_MAX:
                raise UntrustedContent("refusing to follow a redirect: its location is too long")
            onward = request.towards(location)
            if origin_of(onward.url) != origin_of(request.url):
                tls = replace(tls, client_certs=())
            request = onward
        raise UntrustedContent(f"stopped after {REDIRECTS_MAX} redirects")

    def fetch(self, url: str, *, cancel: Cancel) -> Answer:
        """A document of the web (`docker import URL`), for the user in the URL, if any.

        Raises as `send` does, and InvalidArgument for what is no such URL.
        """
        parts = urlsplit(url)
        user, _, host = parts.netloc.rpartition("@")
        bare = urlunsplit(parts._replace(netloc=host, fragment=""))
        try:
            origin_of(bare)
        except ValueError:
            raise InvalidArgument(f"invalid URL: {cleaned(bare)[:200]}") from None
        secrets = make_headers(basic_auth=unquote(user)) if user else {}
        named = {name.title(): value for name, value in secrets.items()}
        return self.send(Request("GET", bare, secrets=named), tls=Tls(), cancel=cancel)

    def close(self) -> None:
        """Closes kept connections; those in use end by themselves.  Usable afterwards."""
        with self._lock:
            managers = [kept.manager for kept in self._managers.values()]
            self._managers.clear()
            if self._sweeper is not None:
                self._sweeper.cancel()
                self._sweeper = None
        for manager in managers:
            manager.clear()

    def _exchange(self, request: Request, tls: Tls, cancel: Cancel) -> Answer:
        cancel.check()
        watch = Watch()
        forget = cancel.on_cancel(watch.trip)

        def release() -> None:
            self._watchdog.release(watch)
            forget()
            self._leave()

        self._enter()
        try:
            manager = self._manager(request.url, tls)
            self._watchdog.guard(watch)
            with watched(watch):
                response = self._open(manager, request, watch)
            watch.deadline = math.inf
        except BaseException as error:
            watch.close()
            release()
            cancel.check()
            if isinstance(error, _FAILURES):
                late = TimeoutError() if watch.is_tripped else error
                is_worth_more = watch.is_ready and not watch.is_tripped and not is_refused(error)
                text = words_of(late, request.url, is_ready=watch.is_ready)
                if is_malformed(error):
                    raise UntrustedContent(text) from error
                raise ConnectionFailed(text, was_connected=is_worth_more) from error
            raise
        return Answer(response, request=request, watch=watch, release=release, cancel=cancel)

    def _open(self, manager: urllib3.PoolManager, request: Request, watch: Watch) -> Any:
        headers = {"User-Agent": self.settings.user_agent, "Accept-Encoding": "identity"}
        headers.update(request.headers)
        headers.update(request.secrets)
        body, silence = request.body, self.settings.read_timeout
        if body is None:
            watch.deadline = time.monotonic() + self.settings.connect_timeout + HEAD_SECONDS
        else:
            headers["Content-Length"] = str(body.size)
            silence = max(silence, STORING_SECONDS)
        sent = _sent(body, watch) if body is not None and body.size else None
        try:
            return manager.urlopen(
                request.method,
                request.url,
                redirect=False,
                headers=headers,
                body=sent,
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=urllib3.Timeout(connect=self.settings.connect_timeout, read=silence),
            )
        finally:
            if sent is not None:
                sent.close()  # an error's traceback would keep the blob open that it reads

    def _manager(self, url: str, tls: Tls) -> urllib3.PoolManager:
        terms, state = (tls, self.settings.proxies.of(url)), state_of(tls)
        with self._lock:
            kept = self._managers.get(terms)
        if kept is None or kept.state != state:  # who uses the one before keeps it to his end
            made = _Kept(manager_of(*terms), state)  # reads files: not under the lock
            with self._lock:
                others = self._managers.get(terms)
                kept = made if others is None or others.state != state else others
                self._managers[terms] = kept
        return kept.manager

    def _enter(self) -> None:
        with self._lock:
            self._active += 1

    def _leave(self) -> None:
        with self._lock:
            self._active -= 1
            self._used = time.monotonic()
            if self._active == 0 and self._sweeper is None:
                self._sweep_later()

    def _sweep_later(self) -> None:
        self._sweeper = threading.Timer(IDLE_SECONDS, self._sweep)
        self._sweeper.daemon = True
        with contextlib.suppress(RuntimeError):  # no thread left: the next one will do
            self._sweeper.start()

    def _sweep(self) -> None:
        with self._lock:
            self._sweeper = None
            is_idle = self._active == 0 and time.monotonic() - self._used >= IDLE_SECONDS - 1
            if self._active == 0 and not is_idle:
                self._sweep_later()
        if is_idle:
            self.close()


def _sent(body: Body, watch: Watch) -> Generator[bytes, None, None]:
    """The body; when it is sent, the time for the answer begins."""
    yield from body.open()
    watch.deadline = time.monotonic() + STORING_SECONDS


def _is_followed(method: str, status: int) -> bool:
    return status in (_FOLLOWED if method in ("GET", "HEAD") else _REPEATED)


def _host_of(url: str) -> str:
    return cleaned(urlsplit(url).netloc.rpartition("@")[2])[:200]
