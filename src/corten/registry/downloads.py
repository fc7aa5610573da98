"""Blobs that are being fetched: each one once, however many pulls want it, so many at a time of one registry.

    waiting ──► downloading ──► verifying ──► complete
                  │     ▲  └─────────┴──► failed      what came stays for the next pull (corten.core.partials)
                  ▼     │
                 retrying                             the client's: it goes on where the line broke

Registries are told apart: one that lies of a blob, or drips it, is joined by no pull of another, nor takes its turn.
The first pull that asks for a blob fetches it; when that one goes away, the next in the row goes on from the same byte.
"""

from __future__ import annotations

import functools
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from enum import Enum

from corten.core.content import ContentStore
from corten.core.limits import DEFAULT, Limits
from corten.core.partials import Partial
from corten.errors import Internal, Unavailable
from corten.registry.cancel import Cancel, Cancelled
from corten.spec.image import Descriptor

Fetch = Callable[[int, Callable[[float], None]], AbstractContextManager[Iterator[bytes]]]
"""Opens a blob from a byte on; tells of the seconds until it tries again."""


_Key = tuple[str, str, int]


class Stage(Enum):
    """Where a download is; the words are dockerd's."""

    WAITING = "Waiting"
    DOWNLOADING = "Downloading"
    RETRYING = "Retrying in"
    VERIFYING = "Verifying Checksum"
    COMPLETE = "Download complete"


Watch = Callable[[Stage, int], object]
"""Told of a stage and its number: bytes so far, or the seconds until a retry.  Called by the thread that downloads."""


@dataclass(eq=False, slots=True)
class _Ticket:
    """One pull's share in a download."""

    fetch: Fetch
    watch: Watch
    is_gone: bool = False
    """It left, or its pull was given up and it soon will."""


@dataclass(eq=False, slots=True)
class _Download:
    key: _Key
    partial: Partial
    tickets: list[_Ticket] = field(default_factory=list)
    stage: Stage = Stage.WAITING
    is_running: bool = True
    """Waiting for its thread, or in it."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Of the tickets and the stage."""


class Downloads:
    """The downloads of one engine.  Thread-safe."""

    def __init__(
        self,
        content: ContentStore,
        *,
        concurrent: Callable[[], int] = lambda: 3,
        limits: Limits = DEFAULT,
    ) -> None:
        """`concurrent` is asked each time: a reload may change it."""
        self._content = content
        self._concurrent = concurrent
        self._limits = limits
        self._lock = threading.Lock()
        self._known: dict[_Key, _Download] = {}
        self._waiting: dict[str, deque[_Download]] = defaultdict(deque)  # by source
        self._active: Counter[str] = Counter()

    @contextmanager
    def joined(self, source: str, descriptor: Descriptor, fetch: Fetch, watch: Watch) -> Iterator[Partial | None]:
        """The blob on its way from the registry `source`, for as long as the context lasts.

        None when it is in the content store by now.
        """
        ticket = _Ticket(fetch, watch)
        download = self._join(source, descriptor, ticket)
        if download is None:
            yield None
            return
        try:
            yield download.partial
        finally:
            self._leave(download, ticket)

    def digests(self) -> set[str]:
        """What is on its way now."""
        with self._lock:
            return {digest for _, digest, _ in self._known}

    def idle_size(self) -> int:
        """Bytes of what earlier pulls left and nobody fetches now."""
        used = self.digests()
        return sum(size for digest, size in self._content.partials.sizes().items() if digest not in used)

    def drop_idle(self) -> int:
        """Removes that; the bytes that it took."""
        with self._lock:  # nobody begins meanwhile
            return self._content.partials.prune({digest for _, digest, _ in self._known})

    def _join(self, source: str, descriptor: Descriptor, ticket: _Ticket) -> _Download | None:
        key = (source, descriptor.digest, descriptor.size)
        with self._lock:
            download = self._known.get(key)
            if download is None:
                if self._content.has(descriptor.digest):  # here since the caller looked
                    return None
                partial = self._content.partials.open(descriptor.digest, descriptor.size, source, self._limits)
                download = self._known[key] = _Download(key, partial)
                self._waiting[source].append(download)
            with download.lock:
                download.tickets.append(ticket)
                if download not in self._waiting[source]:
                    ticket.watch(download.stage, download.partial.have)
            self._start_next(source)
            if download in self._waiting.get(source, ()):
                ticket.watch(Stage.WAITING, 0)
            return download

    def _leave(self, download: _Download, ticket: _Ticket) -> None:
        with self._lock:
            with download.lock:
                ticket.is_gone = True
                download.tickets.remove(ticket)
            if download.tickets:
                return
            if download in self._waiting.get(download.key[0], ()):
                self._waiting[download.key[0]].remove(download)
                download.is_running = False
            if not download.is_running:
                self._end(download)

    def _end(self, download: _Download) -> None:
        """Nobody has it any more; the file may be that of another try by now, begun after this one had failed."""
        self._forget(download)
        download.partial.close(is_last=download.key not in self._known)

    def _forget(self, download: _Download) -> None:
        if self._known.get(download.key) is download:
            del self._known[download.key]

    def _start_next(self, source: str) -> None:
        waiting = self._waiting[source]
        while waiting and self._active[source] < max(1, self._concurrent()):
            download = waiting.popleft()
            thread = threading.Thread(target=self._run, args=(download,), name="download", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system has none
                download.is_running = False
                self._forget(download)
                download.partial.fail(Unavailable(f"no thread for a download: {error}"))
            else:
                self._active[source] += 1
        if not waiting and not self._active[source]:
            del self._waiting[source], self._active[source]

    # -- the thread of one download

    def _run(self, download: _Download) -> None:
        while not self._is_over(download):
            pass
        with self._lock:
            self._active[download.key[0]] -= 1
            download.is_running = False
            if not download.tickets:
                self._end(download)
            self._start_next(download.key[0])

    def _is_over(self, download: _Download) -> bool:
        """Fetches.  False when nobody wanted it any more, and now somebody does."""
        try:
            self._fetch_all(download)
        except BaseException as error:  # outermost of this thread: raised again where the blob is read
            with self._lock:
                if isinstance(error, Cancelled) and not all(ticket.is_gone for ticket in download.tickets):
                    return False
                self._forget(download)
            download.partial.fail(error)
        return True

    def _fetch_all(self, download: _Download) -> None:
        partial = download.partial
        partial.restore(lambda: self._check_wanted(download))
        while partial.have < partial.size:
            ticket = self._require_wanted(download)
            try:
                self._receive(download, ticket)
            except Cancelled:
                ticket.is_gone = True
            except Exception:
                if not ticket.is_gone:
                    raise
        self._tell(download, Stage.VERIFYING, partial.have)
        partial.verify()
        self._tell(download, Stage.COMPLETE, partial.have)

    def _receive(self, download: _Download, ticket: _Ticket) -> None:
        partial = download.partial
        self._tell(download, Stage.DOWNLOADING, partial.have)
        retrying = functools.partial(self._tell, download, Stage.RETRYING)
        with ticket.fetch(partial.have, lambda seconds: retrying(int(seconds))) as chunks:
            for chunk in chunks:
                try:
                    partial.write(chunk)
                except OSError as error:
                    raise Internal(f"{error.strerror or error}".lower()) from error
                self._check_wanted(download)
                self._tell(download, Stage.DOWNLOADING, partial.have)
        if partial.have < partial.size:
            raise Unavailable("unexpected EOF")

    def _check_wanted(self, download: _Download) -> None:
        self._require_wanted(download)

    @staticmethod
    def _require_wanted(download: _Download) -> _Ticket:
        with download.lock:
            for ticket in download.tickets:
                if not ticket.is_gone:
                    return ticket
        raise Cancelled

    @staticmethod
    def _tell(download: _Download, stage: Stage, number: int) -> None:
        with download.lock:
            download.stage = stage
            for ticket in download.tickets:
                ticket.watch(stage, number)


class Claims:
    """What somebody unpacks now: who wants one of the keys waits before he takes any, so nobody waits for two."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._taken: set[tuple[str, str]] = set()

    @contextmanager
    def held(self, keys: Iterable[tuple[str, str]], cancel: Cancel) -> Iterator[None]:
        """All of `keys`, when nobody else has any of them.  Raises Cancelled."""
        wanted = set(keys)
        forget = cancel.on_cancel(self._wake)
        try:
            with self._condition:
                while self._taken & wanted:
                    cancel.check()
                    self._condition.wait()
                self._taken |= wanted
        finally:
            forget()
        try:
            yield
        finally:
            with self._condition:
                self._taken -= wanted
                self._condition.notify_all()

    def _wake(self) -> None:
        with self._condition:
            self._condition.notify_all()
