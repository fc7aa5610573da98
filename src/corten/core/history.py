"""`docker history`: an image's lines, with what each added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from corten.core.images import Image, ImageStore


@dataclass(frozen=True, slots=True)
class HistoryLine:
    """One line of `docker history`."""

    id: str
    """The image's for the newest line, else `<missing>`."""
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
    if not lines:
        return ()
    *older, top = lines
    tags = tuple(image.repo_tags)
    newest = HistoryLine(image.id, top.created, top.created_by, top.size, top.comment, tags)
    return [newest, *reversed(older)]
