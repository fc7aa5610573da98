"""A push: blobs side by side, then manifests, then the tag (distribution-spec, "Push").

    for each blob, top layer first       client reads
    the registry has it                  Layer already exists
    another repository there has it      Mounted from <repository>
    else it is sent                      Waiting, Pushing, Pushed

A blob is sent only when the registry says that it is not there; a tag moves only when all of its blobs and manifests
are there.  What a killed engine leaves is at most an upload that the registry throws away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any, Protocol

import msgspec

from corten.core.images import ImageStore
from corten.core.leases import CONTENT
from corten.core.streams import chunks_of
from corten.errors import InvalidArgument, NotFound
from corten.registry.cancel import Cancel, Cancelled
from corten.registry.errors import (
    ConnectionFailed,
    RegistryDenied,
    RegistryError,
    RegistryNotFound,
    RegistryUnauthorized,
)
from corten.registry.pushplan import Layer, Plan, plan
from corten.registry.slots import Slots
from corten.registry.sources import BlobSources
from corten.spec import progress
from corten.spec.image import Descriptor, Platform
from corten.spec.reference import Reference

Json = dict[str, Any]
Tell = Callable[[Json], None]

_THREADS = 8  # of one push; the engine's slots say how many of them send
_CHUNK_BYTES = 256 << 10


class Target(Protocol):
    """What a push needs of `registry.client.Repository`."""

    path: str

    def resolve(self, reference: str) -> Descriptor: ...
    def has_blob(self, descriptor: Descriptor) -> bool: ...
    def mount(self, digest: str, *, from_repository: str) -> bool: ...
    def upload(
        self,
        descriptor: Descriptor,
        open_at: Callable[[int], Iterator[bytes]],
        *,
        progress: Callable[[int], None] = ...,
        on_retry: Callable[[float], None] = ...,
    ) -> None: ...
    def put_manifest(self, reference: str, descriptor: Descriptor, *, body: bytes) -> None: ...


class Push:
    """One request: tags of one repository.  `run` in a thread of its own."""

    def __init__(
        self, images: ImageStore, repository: Target, *, sources: BlobSources, slots: Slots, cancel: Cancel, tell: Tell
    ) -> None:
        self._images = images
        self._repository = repository
        self._sources = sources
        self._slots = slots
        self._cancel = cancel
        self._tell = tell

    def run(self, name: Reference, platform: Platform | None = None) -> None:
        """Pushes the tag, or without one every tag of the repository that is here.

        Raises NotFound, InvalidArgument, Conflict in Docker's words; RegistryError; Cancelled.
        """
        for one in tags_of(self._images, name):
            self._push(one, platform)
        familiar = name.familiar if name.tag else name.familiar_name
        self._images.publish("push", familiar, {"name": name.familiar_name})

    def _push(self, name: Reference, platform: Platform | None) -> None:
        with self._images.leases.held() as lease:
            decided = plan(self._images, name, platform, self._has_manifest)
            self._keep(decided, lease.id)
            self._bring(decided, name)
            for one in (*decided.documents, decided.target):
                self._cancel.check()
                reference = name.tag if one is decided.target else one.digest
                self._repository.put_manifest(reference, one, body=self._images.content.read(one.digest))
            self._sources.add(name, [one.digest for one in decided.blobs])
            self._note_digest(name, decided)
        self._say_pushed(name, decided)

    def _keep(self, decided: Plan, lease_id: str) -> None:
        """From here on nobody removes what is pushed.  Raises NotFound when somebody just did."""
        with self._images.lock:
            for one in (decided.target, *decided.documents, *decided.blobs):
                self._images.leases.add(lease_id, CONTENT, one.digest)
                self._images.content.size(one.digest)

    def _has_manifest(self, descriptor: Descriptor) -> bool:
        try:
            return self._repository.resolve(descriptor.digest).digest == descriptor.digest
        except RegistryNotFound:
            return False

    def _bring(self, decided: Plan, name: Reference) -> None:
        configs = self._begin(decided)
        top_first = list(reversed(decided.layers))
        count = len(top_first) + len(configs)
        with ThreadPoolExecutor(max(1, min(_THREADS, count)), thread_name_prefix="push") as pool:
            layers = [pool.submit(self._bring_layer, layer, name) for layer in top_first]
            self._together([*layers, *(pool.submit(self._bring_config, one) for one in configs)])

    def _begin(self, decided: Plan) -> list[Descriptor]:
        """Speaks to the registry for the first time, alone, so that one token serves all; configurations to send.

        As with dockerd the client hears of the layers only when there is a registry.
        """
        missing, refusal = [], None
        try:
            missing = [one for one in decided.configs if not self._repository.has_blob(one)]
        except ConnectionFailed:
            raise
        except RegistryError as error:
            refusal = error
        for layer in reversed(decided.layers):
            self._tell(progress.status("Preparing", layer.subject))
        if refusal is not None:
            raise refusal
        return missing

    def _together(self, futures: Sequence[Future[None]]) -> None:
        """Waits for all; the first failure ends the others, and is raised."""
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        failed = [error for one in done if (error := one.exception()) is not None]
        if not failed:
            return
        for one in futures:
            one.cancel()
        self._cancel.cancel()
        raise next((error for error in failed if not isinstance(error, Cancelled)), failed[0])

    def _bring_config(self, descriptor: Descriptor) -> None:
        self._cancel.check()
        self._repository.upload(descriptor, self._opener(descriptor))

    def _bring_layer(self, layer: Layer, name: Reference) -> None:
        self._cancel.check()
        if layer.is_foreign:
            self._tell(progress.status("Skipped foreign layer", layer.subject))
            return
        with self._slots.held(self._cancel, waiting=lambda: self._tell(progress.status("Waiting", layer.subject))):
            if self._repository.has_blob(layer.descriptor):
                self._tell(progress.status("Layer already exists", layer.subject))
            elif other := self._mounted_from(layer.descriptor, name):
                self._tell(progress.status(f"Mounted from {other}", layer.subject))
            else:
                self._send(layer)

    def _mounted_from(self, descriptor: Descriptor, name: Reference) -> str:
        """The repository that the registry took the blob over from; '' when from none."""
        for path in self._sources.repositories(descriptor.digest, name):
            with suppress(RegistryDenied, RegistryUnauthorized, RegistryNotFound):  # the blob can still be sent
                if self._repository.mount(descriptor.digest, from_repository=path):
                    return path
            self._sources.forget(descriptor.digest, name, path)
        return ""

    def _send(self, layer: Layer) -> None:
        total = layer.descriptor.size

        def sent(current: int) -> None:
            self._tell(progress.moved("Pushing", layer.subject, current=current, total=total))

        def again(seconds: float) -> None:
            unit = "second" if round(seconds) == 1 else "seconds"
            self._tell(progress.status(f"Retrying in {round(seconds)} {unit}", layer.subject))

        self._repository.upload(layer.descriptor, self._opener(layer.descriptor), progress=sent, on_retry=again)
        self._tell(progress.status("Pushed", layer.subject))

    def _opener(self, descriptor: Descriptor) -> Callable[[int], Iterator[bytes]]:
        def open_at(offset: int) -> Iterator[bytes]:
            with self._images.content.open(descriptor.digest) as file:
                file.seek(offset)
                for chunk in chunks_of(file, _CHUNK_BYTES):
                    self._cancel.check()
                    yield chunk

        return open_at

    def _note_digest(self, name: Reference, decided: Plan) -> None:
        """`docker images --digests` shows what the name is at the registry."""
        images, target = self._images, decided.target
        pinned = Reference(name.domain, name.path, digest=target.digest)
        with images.lock, suppress(NotFound):  # the name may be gone by now
            image = images.find(name.familiar)
            if images.target(name.familiar).digest == target.digest:
                images.point(pinned, image.id, target=None if target.digest == image.manifest.digest else target)

    def _say_pushed(self, name: Reference, decided: Plan) -> None:
        target = decided.target
        if decided.instead_of is not None:
            self._tell(
                progress.aux(
                    {
                        "manifestPushedInsteadOfIndex": True,
                        "originalIndex": msgspec.to_builtins(decided.instead_of),
                        "selectedManifest": msgspec.to_builtins(target),
                    }
                )
            )
        self._tell(progress.status(f"{name.tag}: digest: {target.digest} size: {target.size}"))
        self._tell(progress.aux({"Tag": name.tag, "Digest": target.digest, "Size": target.size}))


def tags_of(images: ImageStore, name: Reference) -> list[Reference]:
    """The tags to push: that of `name`, or all of its repository.  Raises in Docker's words."""
    if name.is_canonical:
        raise InvalidArgument("cannot push a digest reference")
    every = [one for image in images.all() for one in image.references if one.name == name.name]
    if not every:
        raise NotFound(f"An image does not exist locally with the tag: {name.familiar_name}")
    tagged = sorted((one for one in every if not one.is_canonical), key=lambda one: one.tag)
    if not name.tag:
        return tagged
    if name not in tagged:
        raise NotFound(f"tag does not exist: {name.familiar}")
    return [name]
