"""A blob on its way to a registry: in one piece, or in several when it has to be.

    POST uploads/ ──202 Location──► PUT whole body ──201
                                      ├─ 413: POST again, then PATCH piece by piece, PUT without a body
                                      └─ line breaks: is the blob there?  GET Location ──204 Range: 0-N──► PATCH N+1-
                                                                                       └─ gone: from the start

Documents: distribution-spec "Pushing blobs", "Pushing a blob in chunks", "Mounting a blob from another repository".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from urllib.parse import quote

from corten.registry.attempts import wait_before_next
from corten.registry.cancel import Cancel
from corten.registry.documents import Place, has_blob
from corten.registry.download import PROGRESS
from corten.registry.errors import RegistryError, UntrustedContent, cleaned
from corten.registry.session import Call
from corten.registry.transport import Answer, Body
from corten.spec.image import Descriptor, check_descriptor

OpenAt = Callable[[int], Iterator[bytes]]
"""Gives content from a byte offset on, in chunks; called again when a request is repeated."""

PIECE = 16 << 20
"""Bytes of a piece for a registry that refuses a blob as a whole."""
PIECE_MAX = 1 << 30
"""The largest least size of a piece (OCI-Chunk-Min-Length) that is believed."""
_SLICE = 64 << 10  # sendall(2) has to get one away within the timeout
_RANGE = re.compile(r"(?:bytes[=:] ?)?0-(\d{1,19})")
_NO_MOUNT = frozenset({400, 403, 404, 405, 409})


class SourceFailed(Exception):
    """What is to be sent cannot be read here: no fault of the registry.  `__cause__` says why."""


class Upload:
    """One blob to one place.  Holds where the registry has got to."""

    def __init__(
        self,
        place: Place,
        descriptor: Descriptor,
        *,
        open_at: OpenAt,
        progress: Callable[[int], None],
        chunk_size: int = 0,
    ) -> None:
        check_descriptor(descriptor)
        self._place = place
        self._blob = descriptor
        self._open_at = open_at
        self._progress = progress
        self._piece = chunk_size
        self._location = ""
        self._arrived = 0
        self._is_again = False

    def run(self, *, cancel: Cancel, attempts: int, on_retry: Callable[[float], None]) -> None:
        """Sends it; again where something passes.  Raises as Repository.upload; what reading the source raised."""
        attempt = 1
        while True:
            before = self._arrived
            try:
                self._attempt()
                return
            except SourceFailed as error:
                raise (error.__cause__ or error) from None
            except RegistryError as error:
                attempt = 1 if self._arrived - before >= PROGRESS else attempt
                wait = wait_before_next(error, attempt)
                if wait is None or attempt >= attempts or self._place.session.is_hopeless(error):
                    self._forget()
                    raise
            on_retry(wait)
            cancel.wait(wait)
            attempt += 1
            self._is_again = True

    def _attempt(self) -> None:
        if self._is_again and has_blob(self._place, self._blob):
            return  # the answer was lost, not the blob
        offset = self._where() if self._location else 0
        if not self._location:
            self._begin()
        if self._piece or offset:
            self._in_pieces(offset)
        else:
            self._whole()

    def _begin(self) -> None:
        self._arrived = 0
        call = Call("POST", self._place.url("blobs/uploads/"), self._place.to_push, expect=frozenset({202}))
        with self._place.session.call(call) as answer:
            self._move(answer)
            least = answer.header("OCI-Chunk-Min-Length")
        if self._piece and least.isascii() and least.isdigit() and len(least) < 19:
            self._piece = max(self._piece, min(int(least), PIECE_MAX))

    def _whole(self) -> None:
        body = Body(self._blob.size, lambda: self._read(0, self._blob.size))
        with self._put(body, frozenset({413})) as answer:
            is_too_large = answer.status == 413
        if is_too_large:
            self._forget()
            self._piece = PIECE
            self._begin()
            self._in_pieces(0)

    def _in_pieces(self, offset: int) -> None:
        size = self._blob.size
        while offset < size:
            length = min(self._piece or size, size - offset)
            arrived = self._patch(offset, length)
            if not offset < arrived <= offset + length:
                text = f"the registry has {arrived} bytes of blob {self._blob.digest}, not {offset + length}"
                raise UntrustedContent(text)
            offset = self._arrived = arrived
        self._put(None, frozenset()).close()

    def _patch(self, offset: int, length: int) -> int:
        """Sends a piece; the bytes that the registry has by then."""
        call = Call(
            "PATCH",
            self._location,
            self._place.to_push,
            expect=frozenset({200, 202, 204}),
            headers={
                "Content-Type": "application/octet-stream",
                "Content-Range": f"{offset}-{offset + length - 1}",
            },
            body=Body(length, lambda: self._read(offset, length)),
            missing="BLOB_UPLOAD_UNKNOWN",
            attempts=1,
        )
        with self._place.session.call(call) as answer:
            self._move(answer)
            match = _RANGE.fullmatch(answer.header("Range").strip())
        return int(match[1]) + 1 if match else offset + length

    def _put(self, body: Body | None, others: frozenset[int]) -> Answer:
        """Ends the upload.  The statuses in `others` are given back too."""
        separator = "&" if "?" in self._location else "?"
        call = Call(
            "PUT",
            f"{self._location}{separator}digest={quote(self._blob.digest, safe='')}",
            self._place.to_push,
            expect=frozenset({200, 201, 204}) | others,
            headers={"Content-Type": "application/octet-stream"},
            body=body or Body(0, lambda: iter(())),
            missing="BLOB_UPLOAD_UNKNOWN",
            attempts=1,
        )
        answer = self._place.session.call(call)
        digest = answer.header("Docker-Content-Digest")
        if answer.status not in others and digest and digest != self._blob.digest:
            answer.close()
            raise UntrustedContent(f"the registry stored blob {self._blob.digest} as {cleaned(digest)[:200]}")
        return answer

    def _where(self) -> int:
        """How far the registry is with the upload that broke off; forgets it when it cannot go on."""
        call = Call("GET", self._location, self._place.to_push, expect=frozenset({200, 202, 204}), attempts=1)
        try:
            with self._place.session.call(call) as answer:
                match = _RANGE.fullmatch(answer.header("Range").strip())
                self._move(answer)
        except RegistryError as error:
            if not error.status or error.status >= 500:
                raise
            match = None
        end = int(match[1]) if match else 0  # 0-0 is what Docker's registry says of an empty one
        if not 0 < end < self._blob.size:
            self._forget()
            return 0
        self._arrived = end + 1
        return end + 1

    def _move(self, answer: Answer) -> None:
        """The next request goes where this answer says."""
        location = answer.header("Location")
        if location or not self._location:
            self._location = self._place.session.located(answer, location)

    def _forget(self) -> None:
        """Gives an upload up and tells the registry, if it listens."""
        location, self._location, self._arrived = self._location, "", 0
        if location:
            abandon(self._place, location)

    def _read(self, offset: int, length: int) -> Iterator[bytes]:
        """Exactly `length` bytes of the source.  Raises SourceFailed."""
        sent = 0
        try:
            for chunk in self._open_at(offset):
                view = memoryview(chunk)[: length - sent]
                for start in range(0, len(view), _SLICE):
                    piece = view[start : start + _SLICE]
                    yield bytes(piece)
                    sent += len(piece)
                    self._progress(offset + sent)
                if sent == length:
                    return
        except (OSError, ValueError) as error:
            raise SourceFailed from error
        if sent < length:
            raise SourceFailed(f"blob {self._blob.digest} ends after {offset + sent} bytes")


def mounted(place: Place, digest: str, *, from_repository: str) -> bool:
    """Whether the registry took `digest` over from another of its repositories."""
    call = Call(
        "POST",
        place.url("blobs/uploads/", {"mount": digest, "from": from_repository}),
        (*place.to_push, f"repository:{from_repository}:pull"),
        expect=frozenset({201, 202}) | _NO_MOUNT,
    )
    with place.session.call(call) as answer:
        status, location, stored = answer.status, answer.header("Location"), answer.header("Docker-Content-Digest")
        if status == 202 and location:
            location = place.session.located(answer, location)
    if status == 202 and location:
        abandon(place, location)
    return status == 201 and stored in ("", digest)


def abandon(place: Place, location: str) -> None:
    """Tells the registry that an upload will not be finished.  Its answer does not matter."""
    call = Call("DELETE", location, place.to_push, expect=frozenset(range(200, 600)), attempts=1)
    try:
        place.session.call(call).close()
    except RegistryError:
        return
