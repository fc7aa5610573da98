"""Who has a volume: containers with it among their mounts, and those of which nobody knows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from corten.engine.mountspec import MountPoint
from corten.engine.volumes import Volumes
from corten.errors import Conflict


def volumes(*points: MountPoint, **unreadable: bytes) -> Volumes:
    """Of an engine with one container that has these mounts."""
    effective = SimpleNamespace(mounts=points)
    container = SimpleNamespace(id="known", record=SimpleNamespace(effective=effective))
    store = SimpleNamespace(get=lambda name: SimpleNamespace(name=name))
    parts: Any = SimpleNamespace(volumes=store, roster=[container], unreadable=unreadable)
    return Volumes(parts)


def test_an_image_that_is_mounted_is_no_volume_of_its_name() -> None:
    points = [MountPoint(kind=kind, name="busybox", target="/x") for kind in ("image", "volume")]
    assert volumes(points[0]).users("busybox") == []
    assert [one.id for one in volumes(points[1]).users("busybox")] == ["known"]


@pytest.mark.parametrize("record", [b'{"version": 9, "mounts": [{"name": "data"}]}', b"{", b""])
async def test_a_volume_of_a_container_that_cannot_be_read_is_not_removed(record: bytes) -> None:
    with pytest.raises(Conflict, match=r"remove data: volume is in use - \[lost\]"):
        await volumes(lost=record).remove("data", force=True)
    assert not await volumes(lost=record)._pruned("data")
