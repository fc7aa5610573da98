"""The networks of the fake engine: what was asked of them is kept."""

from __future__ import annotations

from typing import Any

from corten.docker.engine_api import Filters, Json
from corten.errors import NotFound
from corten.spec.docker import EndpointSettings, NetworkCreateRequest


class FakeNetworks:
    """One network that is there, and what was asked of others."""

    calls: list[tuple[Any, ...]]

    async def network_list(self, filters: Filters) -> list[Json]:
        return [{"Name": "bridge"}]

    async def network_inspect(self, ref: str) -> Json:
        raise NotFound(f"network {ref} not found")

    async def network_create(self, request: NetworkCreateRequest) -> Json:
        self.calls.append(("network_create", request))
        return {"Id": "1" * 64, "Warning": ""}

    async def network_remove(self, ref: str) -> None:
        self.calls.append(("network_remove", ref))

    async def network_connect(self, ref: str, container: str, settings: EndpointSettings | None) -> None:
        self.calls.append(("network_connect", ref, container, settings))

    async def network_disconnect(self, ref: str, container: str, force: bool = False) -> None:
        self.calls.append(("network_disconnect", ref, container, force))

    async def network_prune(self, wanted: Filters, dry_run: bool = False) -> Json:
        self.calls.append(("network_prune", wanted, dry_run))
        return {"NetworksDeleted": None}
