"""Docker's operations on images, on top of core."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

import msgspec

from corten.core import archive, importer, rmi
from corten.core.events import Event
from corten.core.images import Image, new_tag
from corten.engine import times
from corten.engine.filters import Filters, check_keys, flags, labels_match, sift
from corten.engine.inspect import DRIVER
from corten.engine.parts import Parts
from corten.engine.patterns import PathPattern
from corten.engine.threads import in_own_thread
from corten.errors import Conflict, Internal, InvalidArgument
from corten.spec.image import Platform, RunConfig
from corten.spec.reference import Reference

Json = dict[str, Any]
T = TypeVar("T")

_LIST_FILTERS: Final = frozenset({"dangling", "label", "label!", "before", "since", "reference", "until"})
_PRUNE_FILTERS: Final = frozenset({"dangling", "label", "label!", "until"})
_CHUNK_BYTES: Final = 1 << 20
_EMPTY_CONFIG: Final[Json] = {  # printed also where the image says nothing
    "User": "", "Env": None, "Cmd": None, "Volumes": None, "WorkingDir": "", "Entrypoint": None, "OnBuild": None,
    "Labels": None,
}  # fmt: skip


class Images:
    """One engine's images.  What touches layers runs in a thread."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    # Taking in

    async def load(self, body: AsyncIterator[bytes], quiet: bool) -> AsyncIterator[Json]:
        """Lines of progress as Docker's; the last say what was loaded."""
        loaded = await _in_thread_with(body, lambda chunks: archive.load(chunks, self._parts.images))
        for line in archive.messages(loaded):
            yield {"stream": line}

    async def import_rootfs(
        self, body: AsyncIterator[bytes], repo: str, tag: str, message: str, changes: Sequence[str], platform: str
    ) -> AsyncIterator[Json]:
        """The last line is the new image's id."""
        reference = new_tag(repo, tag) if repo else None
        wanted = _platform(platform)
        image = await _in_thread_with(
            body,
            lambda chunks: importer.import_rootfs(
                chunks, self._parts.images, reference=reference, message=message, changes=changes, platform=wanted
            ),
        )
        yield {"status": image.id}

    # Looking

    async def rows(self, all: bool, filters: Filters, shared_size: bool, digests: bool) -> list[Json]:
        """Rows of `docker images`; of an image's names those that a `reference` filter asks for."""
        check_keys(filters, _LIST_FILTERS)
        return await sift(filters, lambda wanted: self._rows(wanted, shared_size), filters)

    def _rows(self, filters: Filters, shared_size: bool) -> list[Json]:
        patterns = _patterns(filters)
        wanted = self._wanted(filters, patterns)
        every = self._parts.images.list()
        found = [(image, self._summary(_named_as(image, patterns))) for image in every if wanted(image)]
        if shared_size:
            users = Counter(chain for image in every for chain in image.chain_ids)
            sizes = {one.key: one.size for one in self._parts.snapshots.all()}
            for image, row in found:
                row["SharedSize"] = sum(sizes.get(chain, 0) for chain in image.chain_ids if users[chain] > 1)
        return [row for _, row in found]

    def _wanted(self, filters: Filters, patterns: Sequence[PathPattern] = ()) -> Callable[[Image], bool]:
        dangling = flags("dangling", filters)
        before_ns = [self._created_ns(ref) for ref in filters.get("before", ())]
        since_ns = [self._created_ns(ref) for ref in filters.get("since", ())]
        until_ns = [times.parse_timestamp(text) for text in filters.get("until", ())]

        def wanted(image: Image) -> bool:
            created, labels = _created_ns(image), image.config.run.labels or {}
            return (
                (dangling is None or image.is_dangling is dangling)
                and labels_match(labels, filters.get("label", ()))
                and not any(labels_match(labels, [item]) for item in filters.get("label!", ()))
                and all(created < moment for moment in (*before_ns, *until_ns))
                and all(created > moment for moment in since_ns)
                and (not patterns or bool(_named_as(image, patterns).references))
            )

        return wanted

    def _created_ns(self, ref: str) -> int:
        return _created_ns(self._parts.images.get(ref))

    def _summary(self, image: Image) -> Json:
        labels = image.config.run.labels
        return {
            "Containers": -1,
            "Created": _created_ns(image) // times.SECOND_NS,
            "Id": image.id,
            "Labels": labels or None,
            "ParentId": image.parent,
            "RepoDigests": image.repo_digests,
            "RepoTags": image.repo_tags,
            "SharedSize": -1,
            "Size": image.size,
        }

    async def inspect(self, ref: str) -> Json:
        """ImageInspect's answer."""
        image = self._parts.images.get(ref)
        config = image.config
        out: Json = {
            "Id": image.id,
            "RepoTags": image.repo_tags,
            "RepoDigests": image.repo_digests,
            "Parent": image.parent,
            "Comment": config.comment,
            "Created": times.rfc3339(_created_ns(image)) if config.created else "",
            "DockerVersion": config.docker_version,
            "Author": config.author,
            "Config": {**_EMPTY_CONFIG, **run_config(config.run)},
            "Architecture": config.architecture,
            "Os": config.os,
            "Size": image.size,
            "GraphDriver": {"Data": self._layers(image), "Name": DRIVER},
            "RootFS": {"Type": "layers", **({"Layers": list(config.diff_ids)} if config.diff_ids else {})},
            "Metadata": {"LastTagTime": times.rfc3339(image.tagged_ns)},
        }
        if config.variant:
            out["Variant"] = config.variant
        if config.os_version:
            out["OsVersion"] = config.os_version
        return out

    def _layers(self, image: Image) -> Json:
        """GraphDriver.Data: where the layers are."""
        overlay = self._parts.snapshots
        paths = [overlay.fs_path(overlay.stat(chain).id) for chain in reversed(image.chain_ids)]
        if not paths:
            return {}
        layer = paths[0].rpartition("/")[0]
        data = {"MergedDir": f"{layer}/merged", "UpperDir": paths[0], "WorkDir": f"{layer}/work"}
        return data | ({"LowerDir": ":".join(paths[1:])} if paths[1:] else {})

    async def history(self, ref: str) -> list[Json]:
        """Newest first."""
        lines = self._parts.images.history(self._parts.images.get(ref))
        return [
            {
                "Comment": line.comment,
                "Created": (times.from_rfc3339(line.created) if line.created else 0) // times.SECOND_NS,
                "CreatedBy": line.created_by,
                "Id": line.id,
                "Size": line.size,
                "Tags": list(line.tags) or None,
            }
            for line in lines
        ]

    # Changing

    async def tag(self, ref: str, repo: str, tag: str) -> None:
        """Raises NotFound, InvalidArgument."""
        await in_own_thread("tag", lambda: self._parts.images.tag(ref, repo, tag))

    async def remove(self, ref: str, force: bool, noprune: bool) -> list[Json]:
        """`[{"Untagged": …}, {"Deleted": …}]`."""
        uses = self._uses()
        removed = await in_own_thread(
            "rmi", lambda: rmi.remove_image(self._parts.images, ref, uses, force=force, prune=not noprune)
        )
        return [{str(one.what): one.subject} for one in removed]

    def _uses(self) -> list[rmi.Use]:
        return [rmi.Use(one.id, one.record.image_id, one.is_running) for one in self._parts.roster]

    async def prune(self, filters: Filters) -> Json:
        """Dangling images, or with `dangling=false` all that no container uses."""
        check_keys(filters, _PRUNE_FILTERS)
        only_dangling = flags("dangling", filters) is not False
        wanted = self._wanted({key: values for key, values in filters.items() if key != "dangling"})
        used = {one.record.image_id for one in self._parts.roster}
        removed: list[Json] = []
        space = 0
        for image in self._parts.images.list():
            if image.id in used or not wanted(image) or (only_dangling and not image.is_dangling):
                continue
            gone = await self._prune_one(image)
            removed += gone
            space += image.size if any("Deleted" in one for one in gone) else 0
        self._parts.bus.publish(Event(type="image", action="prune", id="", attributes={"reclaimed": str(space)}))
        return {"ImagesDeleted": removed or None, "SpaceReclaimed": space}

    async def _prune_one(self, image: Image) -> list[Json]:
        gone: list[Json] = []
        for ref in [reference.familiar for reference in image.references] or [image.id]:
            try:
                gone += await self.remove(ref, force=False, noprune=False)
            except Conflict:
                break
        return gone


def run_config(run: RunConfig) -> Json:
    """An image's Config: what it has, as dockerd prints it since 1.50."""
    out = msgspec.to_builtins(run)
    for name in ("Hostname", "Domainname", "StopTimeout"):
        out.pop(name, None)
    return dict(out)


def _created_ns(image: Image) -> int:
    if not image.config.created:
        return 0
    try:
        return times.from_rfc3339(image.config.created)
    except InvalidArgument:
        return 0


def _patterns(filters: Filters) -> list[PathPattern]:
    """Of `reference=busy*`: found in the familiar name, with or without its tag."""
    return [PathPattern(text) for text in filters.get("reference", ())]


def _named_as(image: Image, patterns: Sequence[PathPattern]) -> Image:
    """The image with only those of its names that match; with all of them when there are no patterns."""
    if not patterns:
        return image
    kept = tuple(one for one in image.references if any(_is_named(one, pattern) for pattern in patterns))
    return replace(image, references=kept)


def _is_named(reference: Reference, pattern: PathPattern) -> bool:
    return pattern.match(reference.familiar) or pattern.match(reference.familiar_name)


def _platform(text: str) -> Platform | None:
    if not text:
        return None
    system, _, rest = text.partition("/")
    architecture, _, variant = rest.partition("/")
    return Platform(architecture=architecture or archive.host_platform().architecture, os=system, variant=variant)


async def _in_thread_with(body: AsyncIterator[bytes], work: Callable[[Iterator[bytes]], T]) -> T:
    """Run `work` in a thread over the chunks of a request's body.  Its errors are raised, the disk's as Internal.

    The thread is its own: a client that sends slowly, or stops, holds up nobody else.
    """
    loop = asyncio.get_running_loop()
    source = _Chunks(body, loop)
    try:
        return await in_own_thread("archive", lambda: work(iter(source)))
    except ConnectionError:  # the client's
        raise
    except OSError as error:
        raise Internal(": ".join(str(part) for part in (error.filename, error.strerror or error) if part)) from error
    finally:
        source.close()


class _Chunks:
    """The body as a blocking iterator for one thread: pieces of at least a MiB, so that hops are few."""

    def __init__(self, body: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self._body = body
        self._loop = loop
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        """Raises ConnectionAbortedError once it was closed: half an archive must not look like a whole one."""
        while True:
            chunk = b"" if self._closed else asyncio.run_coroutine_threadsafe(self._next(), self._loop).result()
            if self._closed:
                raise ConnectionAbortedError("the client went away")
            if not chunk:
                return
            yield chunk

    async def _next(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for piece in self._body:
            parts.append(piece)
            size += len(piece)
            if size >= _CHUNK_BYTES:
                break
        return b"".join(parts)

    def close(self) -> None:
        self._closed = True
