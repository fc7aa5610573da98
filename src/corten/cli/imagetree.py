"""`corten images --tree`: the platforms behind each name, those that are not here too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from corten.cli.table import align
from corten.cli.units import human_size

_HEADINGS = ("IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "IN USE")


def write_tree(found: Iterable[Mapping[str, Any]]) -> None:
    """Prints what `GET /images/json?manifests=1` answered; attestations are left out."""
    lines: list[tuple[str, ...]] = [_HEADINGS]
    for item in found:
        manifests = [one for one in item.get("Manifests") or () if one["Kind"] == "image"]
        names = item.get("RepoTags") or ["<untagged>"]
        lines += [(name, "", "", "", "") for name in names[:-1]]
        content = sum(one["Size"]["Content"] for one in manifests)
        lines.append((names[-1], *_cells(item["Id"], item["Size"], content, item["Containers"] > 0)))
        for one in manifests:
            branch = "└─ " if one is manifests[-1] else "├─ "
            size, data = one["Size"], one["ImageData"]
            cells = _cells(one["ID"], size["Total"], size["Content"], bool(data["Containers"]))
            lines.append((branch + _platform(data["Platform"]), *cells))
    align(lines)


def _cells(digest: str, total: int, content: int, is_used: bool) -> tuple[str, ...]:
    return (digest.removeprefix("sha256:")[:12], human_size(total), human_size(content), "yes" if is_used else "")


def _platform(platform: Mapping[str, str]) -> str:
    return "/".join(platform[name] for name in ("os", "architecture", "variant") if platform.get(name))
