"""Volumes of the engine without a kernel: names in a dictionary."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from corten.docker.engine_api import Filters, Json
from corten.errors import NotFound, Unavailable


class FakeVolumes:
    """Volumes by name; `volume_filters` is what the last list or prune was asked."""

    def __init__(self) -> None:
        self.volumes: dict[str, Json] = {}
        self.volume_filters: Filters = {}

    async def volume_create(
        self, name: str, driver: str, options: Mapping[str, str] | None, labels: Mapping[str, str] | None
    ) -> Json:
        made = {
            "CreatedAt": "2026-01-01T00:00:00Z",
            "Driver": driver or "local",
            "Labels": labels,
            "Mountpoint": f"/volumes/{name}/_data",
            "Name": name,
            "Options": options,
            "Scope": "local",
        }
        return self.volumes.setdefault(name, made)

    async def volume_list(self, wanted: Filters) -> Json:
        self.volume_filters = wanted
        return {"Volumes": list(self.volumes.values()), "Warnings": None}

    async def volume_inspect(self, name: str) -> Json:
        if name not in self.volumes:
            raise NotFound(f"get {name}: no such volume")
        return self.volumes[name]

    async def volume_remove(self, name: str, force: bool) -> None:
        if not force:
            await self.volume_inspect(name)
        self.volumes.pop(name, None)

    async def volume_update(self, name: str) -> None:
        raise Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")

    async def volume_prune(self, wanted: Filters, dry_run: bool = False, leaving: Collection[str] = ()) -> Json:
        self.volume_filters = wanted
        return {"VolumesDeleted": None, "SpaceReclaimed": 0}

    async def volume_usage(self) -> list[Json]:
        return [{**one, "UsageData": {"Size": 0, "RefCount": 0}} for one in self.volumes.values()]
