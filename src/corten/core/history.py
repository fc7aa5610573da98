"""`docker history`: an image's lines, with what each added."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from corten.core.images import Image, ImageStore


@dataclass(frozen=True, slots=True)
class HistoryLine:
    """One line of `docker history`."""

    id: str
    """The image's for the newest line, then those of the images that it was committed from; else `<missing>`."""
    created: str
    """As the configuration says it (RFC 3339), '' when it does not."""
    created_by: str
    size: int
    comment: str
    tags: tuple[str, ...]


def history(images: ImageStore, image: Image) -> Sequence[HistoryLine]:
    """The lines of an image, newest first."""
    sizes = {one.key: one.size for one in images.overlay.all()}
    chain = iter(image.chain_ids)
    lines: list[HistoryLine] = []
    for entry in image.config.history or ():
        size = 0 if entry.empty_layer else sizes.get(next(chain, ""), 0)
        lines.append(HistoryLine("<missing>", entry.created or "", entry.created_by, size, entry.comment, ()))
    lines.reverse()
    named = zip(lines, _with_parents(images, image), strict=False)
    named_lines = [replace(line, id=one.id, tags=tuple(one.repo_tags)) for line, one in named]
    return [*named_lines, *lines[len(named_lines) :]]


def _with_parents(images: ImageStore, image: Image) -> Iterator[Image]:
    """It and what it was committed from, an image a line as dockerd has it, as far as they are here."""
    above: Image | None = image
    while above is not None:
        yield above
        above = images.find_id(above.parent) if above.parent else None
