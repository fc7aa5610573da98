"""Operations on volumes."""

from __future__ import annotations

from aiohttp import web

from corten.docker.call import Call
from corten.errors import Unavailable
from corten.spec.docker import VolumeCreateRequest

NOT_A_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm '
    "and try again."
)


async def create(call: Call) -> web.StreamResponse:
    request = await call.json(VolumeCreateRequest)
    if request.cluster_volume_spec is not None and call.version >= (1, 42):
        raise Unavailable(NOT_A_MANAGER)
    made = await call.engine.volume_create(request.name, request.driver, request.driver_opts, request.labels)
    return call.answer(made, 201)


async def list_all(call: Call) -> web.StreamResponse:
    return call.answer(await call.engine.volume_list(call.query.filters()))


async def inspect(call: Call) -> web.StreamResponse:
    return call.answer(await call.engine.volume_inspect(call.args[0]))


async def remove(call: Call) -> web.StreamResponse:
    await call.engine.volume_remove(call.args[0], call.query.flag("force"))
    return call.empty()


async def update(call: Call) -> web.StreamResponse:
    await call.engine.volume_update(call.args[0])
    return call.empty(200)


async def prune(call: Call) -> web.StreamResponse:
    """Up to 1.41 all that nobody uses, then anonymous ones unless the filter `all` says otherwise.

    `dry-run` (of Corten): what would be removed, once the containers of `leaving` were.
    """
    filters = dict(call.query.filters())
    if call.version < (1, 42):
        filters.setdefault("all", ["true"])
    query = call.query
    found = await call.engine.volume_prune(filters, query.flag("dry-run"), frozenset(query.texts("leaving")))
    return call.answer(found)
