"""The images of the engine without a kernel: busybox alone, and a note of every call."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any

from corten.docker.engine_api import Filters, Json
from corten.errors import Internal, InvalidArgument, NotFound
from corten.registry.credentials import AuthConfig, Credentials
from corten.spec.image import Platform
from corten.spec.reference import Reference

IMAGE = "busybox:latest"
IMAGE_ID = "sha256:" + "ab" * 32


class FakeImages:
    """A part of FakeEngine."""

    calls: list[tuple[Any, ...]]
    loaded: int
    flood: bytes

    async def image_pull(self, name: str, tag: str, platform: str, credentials: Credentials) -> AsyncIterator[Json]:
        self.calls.append(("pull", name, tag, platform, credentials))
        if name.endswith("nosuch"):
            raise NotFound("manifest for nosuch:latest not found: manifest unknown: manifest unknown")
        yield {"status": f"Pulling from {name}", "id": tag}
        if name == "broken":
            raise InvalidArgument("filesystem layer verification failed")

    async def image_import_url(
        self, url: str, repo: str, tag: str, message: str, changes: Sequence[str], platform: str
    ) -> AsyncIterator[Json]:
        self.calls.append(("import_url", url, repo, tag, message, list(changes), platform))
        yield {"status": IMAGE_ID}

    async def image_load(
        self, body: AsyncIterator[bytes], quiet: bool, platform: Platform | None
    ) -> AsyncIterator[Json]:
        digest = hashlib.sha256()
        async for piece in body:
            self.loaded += len(piece)
            digest.update(piece)
        if not self.loaded:
            raise InvalidArgument("empty archive")
        yield {"stream": f"Loaded image: {digest.hexdigest()}\n"}

    async def image_push(
        self, name: Reference, credentials: Credentials, platform: Platform | None
    ) -> AsyncIterator[Json]:
        self.calls.append(("push", str(name), credentials, platform))
        yield {"status": f"The push refers to repository [{name.name}]"}
        if name.path != "library/busybox":
            raise NotFound(f"An image does not exist locally with the tag: {name.familiar_name}")

    async def distribution(self, ref: str, credentials: Credentials) -> Json:
        self.calls.append(("distribution", ref, credentials))
        return {"Descriptor": {"mediaType": "m", "digest": IMAGE_ID, "size": 5}, "Platforms": []}

    async def image_save(self, names: Sequence[str], platform: Platform | None) -> AsyncIterator[bytes]:
        self.calls.append(("save", list(names), platform))
        for name in names:
            await self.image_inspect(name)
        yield b"archive of "
        yield " ".join(names).encode()
        if self.flood:
            raise Internal("damaged on disk")

    async def image_import(
        self,
        body: AsyncIterator[bytes],
        repo: str,
        tag: str,
        message: str,
        changes: Sequence[str],
        platform: str,
    ) -> AsyncIterator[Json]:
        self.calls.append(("import", repo, tag, message, list(changes), platform))
        async for piece in body:
            self.loaded += len(piece)
        yield {"status": IMAGE_ID}

    async def image_list(self, all: bool, filters: Filters, shared_size: bool, manifests: bool) -> list[Json]:
        return [
            {"Id": IMAGE_ID, "RepoTags": [], "RepoDigests": [], "Size": 5, "Containers": 2, "Created": 0,
             "Labels": None, "ParentId": "", "SharedSize": -1}
        ]  # fmt: skip

    async def image_inspect(self, ref: str, platform: Platform | None = None, manifests: bool = False) -> Json:
        if ref not in ("busybox", IMAGE, IMAGE_ID):
            raise NotFound(f"No such image: {ref}")
        return {"Id": IMAGE_ID, "Size": 5, "Config": {"Cmd": ["sh"]}}

    async def image_history(self, ref: str, platform: Platform | None = None) -> list[Json]:
        return []

    async def image_usage(self) -> Json:
        return {"Images": await self.image_list(False, {}, True, False), "LayersSize": 5, "ContentSize": 2}

    async def image_tag(self, ref: str, repo: str, tag: str) -> None:
        self.calls.append(("tag", ref, repo, tag))

    async def image_remove(
        self, ref: str, force: bool, noprune: bool, platforms: Sequence[Platform] = ()
    ) -> list[Json]:
        self.calls.append(("rmi", ref, force, noprune))
        return [{"Untagged": ref}]

    async def image_prune(self, filters: Filters, dry_run: bool = False, leaving: Collection[str] = ()) -> Json:
        return {"ImagesDeleted": None, "SpaceReclaimed": 0}

    async def login(self, config: AuthConfig) -> Json:
        self.calls.append(("login", config))
        return {"IdentityToken": "", "Status": "Login Succeeded"}

    async def image_mount(self, ref: str, target: str, platform: Platform | None) -> Json:
        self.calls.append(("mount", ref, target, platform))
        return {"Id": "lease", "Image": IMAGE_ID, "Path": target}

    async def image_mounts(self) -> list[Json]:
        return []

    async def image_unmount(self, wanted: str) -> list[Json]:
        self.calls.append(("unmount", wanted))
        return []
