"""A push: blobs side by side, then manifests, then the tag (distribution-spec, "Push").

    for each blob, top layer first       client reads
    it is to be packed                   Preparing, with a bar
    the registry has it                  Layer already exists
    another repository there has it      Mounted from <repository>
    else it is sent                      Waiting, Pushing, Pushed

A blob is sent only when the registry says that it is not there; a tag moves only when all of its blobs and manifests
are there.  What a killed engine leaves is at most an upload that the registry throws away.

An image that Corten composed with plain layers gets the manifest with packed ones (`packing`) when all of it is at the
registry; until then it is what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any, Protocol

import msgspec

from corten.core import gc
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
from corten.registry.packing import Keep, Packer
from corten.registry.pushplan import Layer, Plan, plan
from corten.registry.slots import Slots
from corten.registry.sources import BlobSources
from corten.spec import progress
from corten.spec.image import Descriptor, Platform, encode, parse_manifest
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
        self,
        images: ImageStore,
        repository: Target,
        *,
        sources: BlobSources,
        packer: Packer,
        slots: Slots,
        cancel: Cancel,
        tell: Tell,
    ) -> None:
        self._images = images
        self._repository = repository
        self._sources = sources
        self._packer = packer
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
        touched: set[str] = set()
        try:
            with self._images.leases.held() as lease:

                def keep(digest: str) -> None:
                    self._images.leases.add(lease.id, CONTENT, digest)
                    touched.add(digest)

                decided = self._decide(name, platform, lease.id)
                touched.update(decided.to_replace)
                pushed = self._with_packed(decided, self._bring(decided, name, keep), keep)
                self._finish(pushed, name)
                self._note(name, decided.target, pushed.target)
        finally:
            if touched:
                gc.drop_blobs(self._images, touched)
        self._say_pushed(name, pushed)

    def _decide(self, name: Reference, platform: Platform | None, lease_id: str) -> Plan:
        """What to push, and from here on nobody removes it."""
        try:
            decided = plan(self._images, name, platform, self._has_manifest)
            self._keep(decided, lease_id)
        except NotFound:  # perhaps another push of the image ended in between, and it has another manifest now
            decided = plan(self._images, name, platform, self._has_manifest)
            self._keep(decided, lease_id)
        return decided

    def _finish(self, pushed: Plan, name: Reference) -> None:
        """Manifests, and the tag at last, when the blobs are there."""
        for one in (*pushed.documents, pushed.target):
            self._cancel.check()
            reference = name.tag if one is pushed.target else one.digest
            self._repository.put_manifest(reference, one, body=self._images.content.read(one.digest))
        self._sources.add(name, [one.digest for one in pushed.blobs])

    def _with_packed(self, decided: Plan, layers: Sequence[Layer], keep: Keep) -> Plan:
        """What is pushed when these layers were sent: with the manifest of those that were packed."""
        if not decided.to_replace:
            return decided
        sent = {one.descriptor.digest: other.descriptor for one, other in zip(decided.layers, layers, strict=True)}
        content = self._images.content
        manifest = parse_manifest(content.read(decided.target.digest))
        packed = [sent[layer.digest] for layer in manifest.layers]
        blob = content.put(encode(msgspec.structs.replace(manifest, layers=packed)), keep)
        return decided.with_layers(layers, Descriptor(decided.target.media_type, blob.digest, blob.size))

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

    def _bring(self, decided: Plan, name: Reference, keep: Keep) -> Sequence[Layer]:
        """Brings configurations and layers; the layers as they were sent, base first."""
        configs = self._begin(decided)
        top_first = list(reversed(decided.layers))
        count = len(top_first) + len(configs)
        with ThreadPoolExecutor(max(1, min(_THREADS, count)), thread_name_prefix="push") as pool:
            layers = [pool.submit(self._bring_layer, layer, name, keep) for layer in top_first]
            self._together([*layers, *(pool.submit(self._bring_config, one) for one in configs)])
        return [one.result() for one in reversed(layers)]

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

    def _together(self, futures: Sequence[Future[Any]]) -> None:
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

    def _bring_layer(self, layer: Layer, name: Reference, keep: Keep) -> Layer:
        """Brings one; as it was sent."""
        self._cancel.check()
        if layer.is_foreign:
            self._tell(progress.status("Skipped foreign layer", layer.subject))
            return layer
        with self._slots.held(self._cancel, waiting=lambda: self._tell(progress.status("Waiting", layer.subject))):
            if layer.is_to_pack:
                layer = self._packed(layer, keep)
            if self._repository.has_blob(layer.descriptor):
                self._tell(progress.status("Layer already exists", layer.subject))
            elif other := self._mounted_from(layer.descriptor, name):
                self._tell(progress.status(f"Mounted from {other}", layer.subject))
            else:
                self._send(layer)
        return layer

    def _packed(self, layer: Layer, keep: Keep) -> Layer:
        def packed(current: int) -> None:
            self._tell(progress.moved("Preparing", layer.subject, current=current, total=layer.descriptor.size))

        descriptor = self._packer.packed(layer.descriptor, keep, cancel=self._cancel, progress=packed)
        return Layer(descriptor, layer.subject)

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

    def _note(self, name: Reference, decided: Descriptor, target: Descriptor) -> None:
        """An image that was packed is what was sent from now on; `docker images --digests` shows what the name is."""
        images = self._images
        pinned = Reference(name.domain, name.path, digest=target.digest)
        with images.together(), suppress(NotFound):  # the name may be gone by now
            if target.digest != decided.digest:
                images.recompose(decided.digest, target)
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
    if not name.tag and not tagged:
        raise NotFound(f"no tags to push for {name.familiar_name}")
    if not name.tag:
        return tagged
    if name not in tagged:
        raise NotFound(f"tag does not exist: {name.familiar}")
    return [name]
