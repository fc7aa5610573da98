"""From a name to an image: what `docker pull` does, without HTTP's words and Docker's API.

    resolve      manifest or index by tag or digest; of an index the manifest for the platform
    configuration
    layers       each: here already | fetched into a file that grows ── read while it grows ──► unpacked into staging
    commit       every digest and diff id right ──► one syncfs ──► snapshots, blobs ──► one transaction: image and name

Nothing of a pull that fails is visible; what came of its blobs stays for the next one (corten.core.partials).
Documents: distribution-spec "Pull"; dockerd 26.1 for texts and their order (moby distribution/pull_v2.go, facts only).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from corten.core import gc
from corten.core.archive import host_platform
from corten.core.images import Image, ImageStore
from corten.core.layers import Layer, WrongDiffId, layers_of, sync, unpacked
from corten.core.leases import CONTENT, SNAPSHOT
from corten.core.limits import DEFAULT, Limits
from corten.core.partials import Partial
from corten.errors import CortenError, Internal, InvalidArgument, NotFound
from corten.registry.arrivals import Arrivals, Line, Tell
from corten.registry.cancel import Cancel
from corten.registry.client import Repository
from corten.registry.documents import check
from corten.registry.downloads import Claims, Downloads, Fetch
from corten.registry.errors import RegistryError, pull_error
from corten.spec.image import (
    INDEXES,
    Descriptor,
    ImageConfig,
    Manifest,
    Platform,
    chain_ids,
    digest_of,
    parse_config,
    parse_index,
    parse_manifest,
    platform_text,
    runs_on,
    select_platform,
)
from corten.spec.progress import status
from corten.spec.reference import Digest, Reference

_LOST_BLOB = "BLOB_UNKNOWN"
_ANEW = " anew"
"""Behind a registry's name: the source of a second attempt, in which nothing of the first one is."""
_INDEX_DEPTH = 4
_MISMATCH = "layers from manifest don't match image configuration"


@dataclass(frozen=True, slots=True)
class Shared:
    """What all pulls of an engine work with."""

    images: ImageStore
    downloads: Downloads
    claims: Claims
    limits: Limits = DEFAULT


@dataclass(frozen=True, slots=True)
class _Found:
    """What a name led to."""

    target: Descriptor
    """What the name stands for: the manifest, or the index that has it."""
    manifest_descriptor: Descriptor
    manifest: Manifest
    config: ImageConfig
    documents: tuple[bytes, ...]
    """To keep: indexes, manifest, configuration."""

    @property
    def layers(self) -> list[Layer]:
        """Bottom first."""
        return layers_of([layer.digest for layer in self.manifest.layers], self.config.diff_ids)


def pull(
    shared: Shared,
    reference: Reference,
    repository: Repository,
    *,
    tell: Tell,
    cancel: Cancel,
    platform: Platform | None = None,
) -> None:
    """Brings the image that `reference` names here, or with neither tag nor digest those of all tags.

    Raises:
        NotFound, RegistryError: in Docker's words; before the first `tell` when the registry does not have it.
        NotFound: at the very end, when the only image of the name is for another platform.
        InvalidArgument: what came is damaged, hostile or not what it should be.
        Unavailable: the disk is about to be full.
        Cancelled: the user went away.
    """
    is_newer, images = False, []
    try:
        for one in _references(reference, repository):
            image, is_new = _Pull(shared, one, repository, tell, cancel, platform).run()
            is_newer |= is_new
            images.append(image)
    except RegistryError as error:
        if error.code == _LOST_BLOB:
            raise Internal("unknown blob") from error
        raise pull_error(error, reference) from error
    except WrongDiffId as error:
        raise InvalidArgument(_MISMATCH) from error
    finally:
        cancel.cancel()  # whatever is still open has nobody to read it
    what = "Downloaded newer image" if is_newer else "Image is up to date"
    tell(status(f"Status: {what} for {reference.familiar}"))
    is_one = bool(reference.tag or reference.digest)
    labels = (images[0].config.run.labels if is_one else None) or {}
    shared.images.publish("pull", reference.familiar, {**labels, "name": reference.familiar_name})
    if platform is not None and is_one:
        _check_platform(reference, images[0].platform, platform)


def _check_platform(reference: Reference, actual: Platform, wanted: Platform) -> None:
    """A name without an index was pulled whatever it is for; as with dockerd it stays, and that is told last."""
    if not runs_on(actual, wanted):
        raise NotFound(
            f"image with reference {reference.familiar} was found but does not match the specified platform:"
            f" wanted {platform_text(wanted)}, actual: {platform_text(actual)}"
        )


def _references(reference: Reference, repository: Repository) -> Sequence[Reference]:
    if reference.tag or reference.digest:
        return [reference]
    return [Reference(reference.domain, reference.path, tag) for tag in repository.tags()]


class _Pull:
    """The pull of one tag or digest."""

    def __init__(
        self,
        shared: Shared,
        reference: Reference,
        repository: Repository,
        tell: Tell,
        cancel: Cancel,
        platform: Platform | None,
    ) -> None:
        self._shared = shared
        self._images = shared.images
        self._reference = reference
        self._repository = repository
        self._tell = tell
        self._cancel = cancel
        self._attempt = Cancel()
        self._source = reference.domain
        self._is_doubtful = False
        self._platform = platform

    def run(self) -> tuple[Image, bool]:
        """The image, and whether the name led to another one before."""
        try:
            return self._once()
        except InvalidArgument:  # a digest is known to be wrong when all has come: too late for the client to go on
            if not (self._repository.registry.distrust_mirrors() or self._is_doubtful):
                raise
        self._attempt = Cancel()  # the first one stopped what it had begun
        self._source += _ANEW
        return self._once()

    def _once(self) -> tuple[Image, bool]:
        forget = self._cancel.on_cancel(self._attempt.cancel)
        try:
            return self._bring()
        finally:
            forget()

    def _bring(self) -> tuple[Image, bool]:
        reference = self._reference
        wanted = reference.digest or reference.tag
        target = self._repository.resolve(wanted)
        body = self._document(target)
        subject = reference.familiar if reference.digest else reference.tag
        self._tell({"status": f"Pulling from {reference.path}", "id": subject})
        found = self._complete(target, body)
        brought: set[str] = set()
        try:
            with gc.request(self._images) as lease:
                return self._take_in(found, lease.id, brought)
        except BaseException:
            gc.drop_blobs(self._images, brought)
            raise

    # -- documents

    def _complete(self, target: Descriptor, body: bytes) -> _Found:
        """The documents behind a name: an index leads to the manifest for the platform."""
        descriptor, documents = target, [body]
        while descriptor.media_type in INDEXES:
            if len(documents) > _INDEX_DEPTH:
                raise InvalidArgument("image index in an image index, too deep")
            chosen = self._chosen(documents[-1])
            descriptor = chosen
            documents.append(self._document(chosen))
        manifest = parse_manifest(documents[-1])
        data = self._configuration(manifest.config)
        config = parse_config(data)
        count = len(manifest.layers)
        if count != len(config.diff_ids) or count > self._shared.limits.layers:
            raise InvalidArgument(_MISMATCH)
        if config.os not in ("", "linux"):
            raise InvalidArgument(f'image operating system "{config.os[:64]}" cannot be used on this platform')
        return _Found(target, descriptor, manifest, config, (*documents, data))

    def _document(self, descriptor: Descriptor) -> bytes:
        """A manifest or index: one that is here and whole need not come, and counts for no limit of the registry's."""
        content = self._images.content
        if content.has(descriptor.digest):
            with suppress(CortenError, OSError):
                data = content.read(descriptor.digest)
                check(data, descriptor)  # the registry's word may go into the store
                return data
        return self._repository.manifest(descriptor.digest, want=descriptor)[1]

    def _chosen(self, body: bytes) -> Descriptor:
        platform = self._platform or host_platform()
        found = select_platform(parse_index(body), platform)
        if found is None:
            raise NotFound(f"no matching manifest for {platform_text(platform)} in the manifest list entries")
        return found

    def _configuration(self, descriptor: Descriptor) -> bytes:
        if self._images.content.has(descriptor.digest):
            with suppress(CortenError, OSError):  # a damaged one comes again
                return self._images.content.read(descriptor.digest)
        if descriptor.size > self._shared.limits.document:
            raise InvalidArgument(f"image configuration larger than {self._shared.limits.document} bytes")
        with self._repository.blob(descriptor) as chunks:
            data = b"".join(chunks)
        if digest_of(data) != descriptor.digest:
            wrong = f"image config verification failed for digest {descriptor.digest}"
            raise InvalidArgument(f"error pulling image configuration: {wrong}")
        return data

    # -- layers

    def _take_in(self, found: _Found, lease_id: str, brought: set[str]) -> tuple[Image, bool]:
        """Layers, blobs, documents, image and name."""
        images, layers = self._images, found.layers
        chain = chain_ids(found.config.diff_ids)

        def keep(digest: Digest) -> None:
            images.leases.add(lease_id, CONTENT, digest)
            brought.add(digest)

        with images.lock:
            for chain_id in chain:
                images.leases.add(lease_id, SNAPSHOT, chain_id)
            with images.content.lock:
                for layer in layers:
                    images.leases.add(lease_id, CONTENT, layer.blob)
        self._bring_layers(found, layers, chain, keep)
        for document in found.documents:
            images.content.put(document, keep)
        return self._record(found, chain)

    def _bring_layers(
        self, found: _Found, layers: Sequence[Layer], chain: Sequence[str], keep: Callable[[Digest], None]
    ) -> None:
        overlay = self._images.overlay
        lines = {one.digest: Line(one, self._tell) for one in found.manifest.layers}
        missing = [chain_id for chain_id in chain if not overlay.exists(chain_id)]
        unpacked_here = len(chain) - len(missing)
        with ExitStack() as stack:
            partials = self._begin(found, layers, lines, unpacked_here, stack)
            arrivals = Arrivals(self._images.content, partials, lines, self._attempt)
            stack.callback(self._attempt.on_cancel(arrivals.wake))
            try:
                self._unpack(layers, arrivals, lines, missing)
            except InvalidArgument as error:
                if not isinstance(error, RegistryError):  # an image that no attempt will unpack: keep nothing of it
                    for partial in partials.values():
                        self._is_doubtful |= partial.is_doubtful
                        partial.spoil()
                raise
            self._take(partials, keep)

    def _begin(
        self, found: _Found, layers: Sequence[Layer], lines: dict[str, Line], unpacked_here: int, stack: ExitStack
    ) -> dict[str, Partial]:
        """Tells of every layer and has those that are missing fetched."""
        content, wanted = self._images.content, []
        is_known = unpacked_here == len(layers) and all(content.has(layer.blob) for layer in layers)
        if is_known and self._images.find_id(found.manifest.config.digest) is not None:
            return {}
        for layer in layers:
            if layer.number < unpacked_here and content.has(layer.blob):
                lines[layer.blob].already_exists()
            else:
                lines[layer.blob].begin()
                wanted.append(layer)
        partials: dict[str, Partial] = {}
        for layer in wanted:
            line = lines[layer.blob]
            if layer.blob in partials:
                continue
            partial = None
            if not content.has(layer.blob):
                joined = self._shared.downloads.joined(self._source, line.blob, self._fetch(line.blob), line.watch)
                partial = stack.enter_context(joined)
            if partial is None:
                line.is_present()
            else:
                partials[layer.blob] = partial
        return partials

    def _fetch(self, blob: Descriptor) -> Fetch:
        return lambda offset, on_retry: self._repository.blob(blob, offset, on_retry=on_retry)

    def _unpack(
        self, layers: Sequence[Layer], arrivals: Arrivals, lines: dict[str, Line], missing: Sequence[str]
    ) -> None:
        """Everything unpacked and whole, on the disk, and the layers snapshots."""
        images = self._images

        def settled(layer: Layer) -> None:
            lines[layer.blob].complete()

        with (
            self._shared.claims.held([(self._reference.domain, chain_id) for chain_id in missing], self._attempt),
            unpacked(
                layers, arrivals, images.overlay, self._shared.limits, settled=settled, stop=self._attempt.cancel
            ) as adoptions,
        ):
            arrivals.wait()
            if adoptions or not arrivals.is_empty:
                self._sync()
            images.overlay.adopt(adoptions)
        for line in lines.values():
            line.end()

    def _sync(self) -> None:
        roots = (self._images.content.root, self._images.overlay.root)
        for root in {os.stat(root).st_dev: root for root in roots}.values():
            sync(root)

    def _take(self, partials: dict[str, Partial], keep: Callable[[Digest], None]) -> None:
        content = self._images.content
        for digest, partial in partials.items():
            with content.lock:
                if content.has(digest):  # another pull was first
                    keep(Digest(digest))
                    partial.remove()
                else:
                    content.take(partial.path, digest, keep)
        if partials:
            content.sync()

    # -- the image and its name

    def _record(self, found: _Found, chain: Sequence[str]) -> tuple[Image, bool]:
        images = self._images
        size = sum(images.overlay.stat(chain_id).size for chain_id in chain)
        self._tell(status(f"Digest: {found.target.digest}"))
        with images.together():
            image = images.add(found.manifest.config.digest, found.manifest_descriptor, size=size)
            before = self._point(image, found.target)
        return image, before != image.id

    def _point(self, image: Image, target: Descriptor) -> str:
        """The name, and beside a tag the digest that it had at the registry; the id that the name led to before.

        The digest of an index stays with the platform that came first, as in dockerd.
        """
        stands_for = None if target.digest == image.manifest.digest else target
        reference = self._reference
        if reference.tag:
            pinned = Reference(reference.domain, reference.path, digest=target.digest)
            if not self._is_known(pinned):
                self._images.point(pinned, image.id, target=stands_for)
        return self._images.point(reference, image.id, target=stands_for)

    def _is_known(self, reference: Reference) -> bool:
        try:
            self._images.find(str(reference))
        except NotFound:
            return False
        return True
