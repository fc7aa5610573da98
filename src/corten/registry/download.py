"""A blob on its way here: one or many requests, one stream of bytes.

    position 0 ──200──► bytes … line breaks at 700 ──► wait ──206 bytes 700-──► bytes … size reached
                                                          └─ too often: the next endpoint, from 700 on

Documents: distribution-spec "Pulling blobs"; RFC 9110 §14 (Range).  Nothing is believed but the count of bytes: more
than the descriptor's size, another range than the one asked for, or a trickle are errors.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator

from corten.registry.attempts import wait_before_next
from corten.registry.cancel import Cancel
from corten.registry.documents import Place
from corten.registry.errors import ConnectionFailed, RegistryError, UntrustedContent
from corten.registry.session import Call, Session
from corten.registry.transport import Answer
from corten.spec.image import Descriptor

PROGRESS = 256 << 10
"""Bytes that make an attempt count as one that got on: the next failure is a first one again."""
TRICKLE_SECONDS = 60.0
TRICKLE_BYTES = 4 << 10
"""Fewer than these in TRICKLE_SECONDS is a broken line: nobody may hold a download for days."""

_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


def may_go_on(session: Session, error: RegistryError) -> bool:
    """Whether the next endpoint is asked after this error (moby distribution/errors.go, continueOnError)."""
    return session.endpoint.is_mirror or not error.code


class Download:
    """One blob, from wherever it is to be had."""

    def __init__(
        self,
        places: Iterable[Place],
        descriptor: Descriptor,
        *,
        cancel: Cancel,
        attempts: int,
        on_retry: Callable[[float], None],
    ) -> None:
        self._places = places
        self._wanted = descriptor
        self._cancel = cancel
        self._attempts = attempts
        self._on_retry = on_retry
        self._position = 0

    def chunks(self, offset: int) -> Generator[bytes, None, None]:
        """The bytes from `offset` to the end.  Raises as Repository.blob."""
        self._position = offset
        failure = RegistryError("no endpoint of the registry can be used")
        for place in self._places:
            try:
                yield from self._from(place)
                return
            except RegistryError as error:
                if not may_go_on(place.session, error):
                    raise
                failure = error
        raise failure

    def _from(self, place: Place) -> Iterator[bytes]:
        """From one endpoint, as often as it gets on or `attempts` times without."""
        attempt = 1
        while self._position < self._wanted.size:
            before = self._position
            try:
                yield from self._once(place)
            except RegistryError as error:
                attempt = 1 if self._position - before >= PROGRESS else attempt
                wait = wait_before_next(error, attempt)
                if wait is None or attempt >= self._attempts or place.session.is_hopeless(error):
                    raise
                self._on_retry(wait)
                self._cancel.wait(wait)
                attempt += 1

    def _once(self, place: Place) -> Iterator[bytes]:
        start, size = self._position, self._wanted.size
        call = Call(
            "GET",
            place.url(f"blobs/{self._wanted.digest}"),
            place.to_pull,
            expect=frozenset({200, 206}) if start else frozenset({200}),
            headers={"Range": f"bytes={start}-{size - 1}"} if start else {},
            missing="BLOB_UNKNOWN",
            attempts=1,
        )
        with place.session.call(call) as answer:
            skip = start if answer.status == 200 else 0
            self._check(answer, start)
            for chunk in _steady(answer.chunks()):
                piece = chunk[skip:] if skip else chunk
                skip = max(0, skip - len(chunk))
                if self._position + len(piece) > size:
                    raise UntrustedContent(f"blob {self._wanted.digest} has more than {size} bytes")
                self._position += len(piece)
                if piece:
                    yield piece
                if self._position == size and skip == 0:
                    break
        if self._position < size:
            raise ConnectionFailed("unexpected EOF", was_connected=True)

    def _check(self, answer: Answer, start: int) -> None:
        """Raises UntrustedContent when the head promises something else than what was asked for."""
        size = self._wanted.size
        if answer.status == 206:
            found = _RANGE.fullmatch(answer.header("Content-Range").strip())
            if found is None or int(found[1]) != start or int(found[2]) >= size or found[3] not in ("*", str(size)):
                raise UntrustedContent(f"blob {self._wanted.digest}: the registry sent another range than asked for")
            return
        length = answer.header("Content-Length")
        if length and length != str(size):
            raise UntrustedContent(f"blob {self._wanted.digest} has {length[:20]} bytes, not {size}")


def _steady(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks, unless they trickle.  Raises ConnectionFailed."""
    since, count = time.monotonic(), 0
    for chunk in chunks:
        yield chunk
        count += len(chunk)
        now = time.monotonic()
        if now - since >= TRICKLE_SECONDS:
            if count < TRICKLE_BYTES:
                raise ConnectionFailed("the registry sends too slowly", was_connected=True)
            since, count = now, 0
