"""`docker import URL`: the engine fetches the archive itself, as dockerd does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from corten.core import importer
from corten.core.archive import host_platform
from corten.core.images import new_tag
from corten.engine.parts import Parts
from corten.engine.relay import Tell, relayed
from corten.errors import Internal, InvalidArgument
from corten.registry.cancel import Cancel
from corten.registry.errors import RegistryError
from corten.registry.proxies import masked
from corten.registry.transport import Answer
from corten.spec import progress
from corten.spec.platforms import parse_platform

Json = dict[str, Any]

_EXPLANATION_BYTES: Final = 1024


class WebImport:
    """Imports of one engine from the web, for the user in the URL, if any, who is shown to nobody else."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def import_url(
        self, url: str, repo: str, tag: str, message: str, changes: Sequence[str], platform: str
    ) -> AsyncIterator[Json]:
        """ImageCreate's messages; the last is the new image's id.  An address without a scheme is one of http.

        Raises InvalidArgument (the name, the address, the archive), Internal (no answer, or another than 200).
        """
        reference = new_tag(repo, tag) if repo else None
        wanted = parse_platform(platform, host_platform()) if platform else None
        address, cancel = _address(url), Cancel()
        shown = masked(address)  # a comment goes where the image goes

        def work(tell: Tell) -> None:
            try:
                with self._parts.registries.transport.fetch(address, cancel=cancel) as answer:
                    _require_success(answer, shown)
                    tell(progress.status(f"Downloading from {shown}"))
                    image = importer.import_rootfs(
                        _counted(answer, tell),
                        self._parts.images,
                        reference=reference,
                        message=message or f"Imported from {masked(url)}",
                        changes=changes,
                        platform=wanted,
                    )
            except RegistryError as error:
                raise Internal(error.text) from error
            tell(progress.status(image.id))

        async for line in relayed("import", work, stop=cancel.cancel):
            yield line


def _address(url: str) -> str:
    """Raises InvalidArgument for what is no address of http."""
    address = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(address)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port)
    except ValueError as error:
        raise InvalidArgument(f'parse "{url}": {error}') from error
    if not is_good:
        raise InvalidArgument(f'unsupported address "{url}": give http:// or https://')
    return address


def _require_success(answer: Answer, shown: str) -> None:
    if answer.status >= 400:
        said = answer.read_some(_EXPLANATION_BYTES).decode(errors="replace").strip()
        raise Internal(f"failed to GET {shown} with status {answer.status}: {said}")


def _counted(answer: Answer, tell: Tell) -> Iterator[bytes]:
    length = answer.header("Content-Length")
    total = int(length) if length.isdigit() and len(length) < 19 else 0
    seen = 0
    for chunk in answer.chunks():
        yield chunk
        seen += len(chunk)
        tell(progress.moved("Importing", "", current=seen, total=total))
    if total and seen != total:
        raise Internal("unexpected EOF")
