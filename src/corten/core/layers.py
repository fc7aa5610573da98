"""From the blobs of an image to snapshots: each layer once, several at a time.

A layer goes into a staging directory of its own at once, without waiting for the layers below.  Bottom up, each is then
settled over what lies below it, or, when its archive refers to something there, unpacked again with that in sight.
When all are whole and every diff id was right, one syncfs puts the files on the disk, and one transaction makes
snapshots of them, named by chain id.  Nothing of a failed image stays.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Protocol

from corten.core.limits import DEFAULT, Limits
from corten.core.lower import LowerView
from corten.core.snapshots import Adoption, Overlay, Staged
from corten.core.streams import Ahead, Hashed, decompressed
from corten.core.trees import Usage
from corten.core.unpack import Applied, NeedsLower, apply_layer, settle
from corten.errors import InvalidArgument
from corten.spec.image import chain_ids
from corten.spec.reference import Digest
from corten.sys.syncfs import syncfs

PARALLEL = 2


class WrongDiffId(InvalidArgument):
    """What is in a blob is not what the image's configuration says."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an image: its blob, and the digest of what is inside the blob."""

    blob: str
    diff_id: str
    number: int = 0
    """From 0 at the bottom."""


def layers_of(blobs: Sequence[str], diff_ids: Sequence[str]) -> list[Layer]:
    """The layers of an image, bottom first, from its manifest and its configuration."""
    pairs = zip(blobs, diff_ids, strict=True)
    return [Layer(blob, diff_id, number) for number, (blob, diff_id) in enumerate(pairs)]


class Blobs(Protocol):
    """Where layers' blobs are read: the content store, or a pull for which some are still on their way."""

    def chunks(self, digest: str, /) -> Generator[bytes, None, None]:
        """The blob piece by piece; each call begins at its start.  Closed by who stops before its end."""
        ...


Failed = Callable[[BaseException], object]
"""Told of what ends the unpacking, at once."""

Settled = Callable[[Layer], object]
"""Told of every layer that got its place, bottom first."""


def unpack(layers: Sequence[Layer], content: Blobs, overlay: Overlay, limits: Limits = DEFAULT) -> tuple[Digest, ...]:
    """Makes a committed snapshot of every layer that has none yet; the chain ids, bottom first.

    The caller makes the database durable.

    Raises:
        InvalidArgument: a layer is damaged, hostile, too large, or has another diff id.
        NotFound: a blob is missing.
        Unavailable: the disk is about to be full.
    """
    with unpacked(layers, content, overlay, limits) as adoptions:
        if adoptions:
            sync(overlay.root)
            overlay.adopt(adoptions)
    return chain_ids([layer.diff_id for layer in layers])


@contextmanager
def unpacked(
    layers: Sequence[Layer],
    content: Blobs,
    overlay: Overlay,
    limits: Limits = DEFAULT,
    *,
    settled: Settled = lambda _: None,
    stop: Callable[[], object] = lambda: None,
) -> Iterator[list[Adoption]]:
    """Every layer that is no snapshot yet, in staging, for the caller to sync and adopt; what he does not take goes.

    `stop` is called when it fails, perhaps in a thread and more than once, before anybody waits for a thread: `content`
    should give them no more to wait for.  What is raised is what failed first, and not what came of `stop`.

    Raises as `unpack`.
    """
    chain = chain_ids([layer.diff_id for layer in layers])
    present = _present(chain, overlay)
    base = chain[present - 1] if present else ""
    missing = layers[present:]
    with ExitStack() as stack:
        # the pool is left first: nobody may still write into a directory that is being removed
        staged = [stack.enter_context(overlay.stage()) for _ in missing]
        pool = stack.enter_context(ThreadPoolExecutor(PARALLEL, thread_name_prefix="unpack"))
        stack.callback(pool.shutdown, cancel_futures=True)
        failure = stack.enter_context(_Failure(stop))
        jobs = [
            (
                layer,
                place,
                pool.submit(_first_try, layer, place, content, overlay, base, number == 0, limits, failure.tell),
            )
            for number, (layer, place) in enumerate(zip(missing, staged, strict=True))
        ]
        try:
            done = _settled(jobs, content, overlay, base, stack, limits, settled)
        except Exception as error:
            failure.tell(error)
            raise failure.first or error from None
        parents = [base, *chain[present:]]
        yield [
            Adoption(place, chain[present + number], parents[number], Usage(applied.size, applied.entries))
            for number, (place, applied) in enumerate(done)
        ]


class _Failure:
    """Calls `stop` for every error that it is told, or that its context is left by, and keeps the first."""

    def __init__(self, stop: Callable[[], object]) -> None:
        self._stop = stop
        self._lock = threading.Lock()
        self.first: BaseException | None = None

    def __enter__(self) -> _Failure:
        return self

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        if error is not None:
            self.tell(error)

    def tell(self, error: BaseException) -> None:
        with self._lock:
            self.first = self.first or error
        self._stop()


def _present(chain: Sequence[Digest], overlay: Overlay) -> int:
    """How many layers, from the bottom, are snapshots already."""
    for number, chain_id in enumerate(chain):
        if not overlay.exists(chain_id):
            return number
    return len(chain)


_Job = tuple[Layer, Staged, "Future[Applied | None]"]


def _first_try(
    layer: Layer,
    staged: Staged,
    content: Blobs,
    overlay: Overlay,
    base: str,
    is_lowest: bool,
    limits: Limits,
    failed: Failed,
) -> Applied | None:
    """Unpacks; the lowest missing layer knows what is below it.  None when it cannot be done without knowing."""
    if is_lowest:
        with overlay.below(base) as lower:
            return unpack_blob(layer, staged, content, lower, limits, failed=failed)
    try:
        return unpack_blob(layer, staged, content, None, limits, failed=failed)
    except NeedsLower:
        return None


def _settled(
    jobs: Sequence[_Job],
    content: Blobs,
    overlay: Overlay,
    base: str,
    stack: ExitStack,
    limits: Limits,
    settled: Settled,
) -> list[tuple[Staged, Applied]]:
    done: list[tuple[Staged, Applied]] = []
    for number, (layer, first, future) in enumerate(jobs):
        staged, applied = first, future.result()
        with overlay.below(base, [earlier for earlier, _ in done]) as lower:
            if number and applied is not None:
                applied = _settle(applied, staged, lower, limits)
            if applied is None:
                staged = stack.enter_context(overlay.stage())
                applied = unpack_blob(layer, staged, content, lower, limits)
        done.append((staged, applied))
        settled(layer)
    return done


def _settle(applied: Applied, staged: Staged, lower: LowerView, limits: Limits) -> Applied | None:
    root_fd = staged.open()
    try:
        return settle(applied, root_fd, lower, limits)
    except NeedsLower:
        return None
    finally:
        os.close(root_fd)


def unpack_blob(
    layer: Layer,
    staged: Staged,
    content: Blobs,
    lower: LowerView | None,
    limits: Limits,
    *,
    failed: Failed = lambda _: None,
) -> Applied:
    """Unpacks one blob into a staging directory and checks its diff id; raises as `unpack`, and NeedsLower.

    `failed` is told of an error before the thread that reads the blob is waited for: it may be waiting for more.
    """
    root_fd = staged.open()
    try:
        # closed here: an error's traceback would keep the blob open, and on the disk, after it was removed
        with closing(content.chunks(layer.blob)) as chunks:
            hashed = Hashed(decompressed(chunks, limits))
            with Ahead(hashed) as ahead:
                try:
                    applied = apply_layer(ahead, root_fd, lower=lower, limits=limits)
                except NeedsLower:
                    raise
                except BaseException as error:
                    failed(error)
                    raise
    finally:
        os.close(root_fd)
    if hashed.digest != layer.diff_id:
        differs = f'expected "{layer.diff_id}", got "{hashed.digest}"'
        raise WrongDiffId(f"invalid diffID for layer {layer.number}: {differs}")
    return applied


def sync(path: str) -> None:
    """Everything on the filesystem of the directory `path` reaches the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs(fd)
    finally:
        os.close(fd)
