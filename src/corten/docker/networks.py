"""Operations on networks."""

from __future__ import annotations

from aiohttp import web

from corten.docker.call import Call
from corten.docker.versions import NETWORK_RULES, adapt_answer
from corten.spec.docker import NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest


async def list_all(call: Call) -> web.StreamResponse:
    found = await call.engine.network_list(call.query.filters())
    return call.answer([adapt_answer(network, NETWORK_RULES, call.version) for network in found])


async def inspect(call: Call) -> web.StreamResponse:
    return call.answer(adapt_answer(await call.engine.network_inspect(call.args[0]), NETWORK_RULES, call.version))


async def create(call: Call) -> web.StreamResponse:
    return call.answer(await call.engine.network_create(await call.json(NetworkCreateRequest)), 201)


async def remove(call: Call) -> web.StreamResponse:
    await call.engine.network_remove(call.args[0])
    return call.empty()


async def connect(call: Call) -> web.StreamResponse:
    request = await call.json(NetworkConnectRequest)
    await call.engine.network_connect(call.args[0], request.container, request.endpoint_config)
    return call.empty(200)


async def disconnect(call: Call) -> web.StreamResponse:
    request = await call.json(NetworkDisconnectRequest)
    await call.engine.network_disconnect(call.args[0], request.container, request.force)
    return call.empty(200)


async def prune(call: Call) -> web.StreamResponse:
    """`dry-run` (of Corten): what would be removed."""
    return call.answer(await call.engine.network_prune(call.query.filters(), call.query.flag("dry-run")))
