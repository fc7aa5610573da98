"""Blobs and lines that break, for tests at the registry of `support.registryserver`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from corten.registry.client import Repository
from corten.spec.image import Descriptor
from support.registryserver import Handler, Rule, Seen, digest_of


def blob_of(data: bytes) -> Descriptor:
    """The descriptor of a blob."""
    return Descriptor(media_type="application/octet-stream", digest=digest_of(data), size=len(data))


def source(data: bytes) -> Callable[[int], Iterator[bytes]]:
    """Gives `data` from an offset on, in odd pieces."""
    return lambda offset: (data[at : at + 65_537] for at in range(offset, len(data), 65_537))


def received(there: Repository, descriptor: Descriptor, waits: list[float] | None = None) -> bytes:
    """A blob as it comes; `waits` gets what it waits before it is asked for again."""
    told = waits if waits is not None else []
    with there.blob(descriptor, on_retry=told.append) as chunks:
        return b"".join(chunks)


def cut_after(data: bytes, pieces: list[int]) -> Rule:
    """Answers with so many bytes of what is asked for, then breaks the line, as often as there are pieces."""

    def rule(handler: Handler, seen: Seen) -> bool:
        if seen.method != "GET" or not pieces:
            return False
        start = int(seen.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(data) - start))
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.end_headers()
        handler.wfile.write(data[start : start + pieces.pop(0)])
        return handler.cut()

    return rule


def times(count: int, rule: Rule) -> Rule:
    """The rule, for the first `count` requests."""
    left = [count]

    def limited(handler: Handler, seen: Seen) -> bool:
        left[0] -= 1
        return left[0] >= 0 and rule(handler, seen)

    return limited
