"""Ping, version, info, events, disk usage, and what clients ask for in passing."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from corten.docker.call import Call
from corten.docker.streams import Begun, json_line
from corten.docker.versions import (
    DISK_USAGE_RULES,
    IMAGE_LIST_RULES,
    INFO_RULES,
    LIST_RULES,
    adapt_answer,
)
from corten.errors import CortenError, InvalidArgument
from corten.registry.credentials import AuthConfig

# The builder that `docker build` should use: 1 until there is a BuildKit behind `POST /grpc` and `/session`.
BUILDER_VERSION = "1"

_KINDS = frozenset({"container", "image", "volume", "build-cache"})

PING_HEADERS = {
    "Builder-Version": BUILDER_VERSION,
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
    "Swarm": "inactive",
}


async def ping(call: Call) -> web.StreamResponse:
    headers = {**call.headers, **PING_HEADERS, "Content-Type": "text/plain; charset=utf-8"}
    if call.request.method == "HEAD":
        return web.Response(headers={**headers, "Content-Length": "0"})
    return web.Response(body=b"OK", headers=headers)


async def version(call: Call) -> web.StreamResponse:
    return call.answer(await call.engine.version())


async def info(call: Call) -> web.StreamResponse:
    return call.answer(adapt_answer(await call.engine.info(), INFO_RULES, call.version))


async def events(call: Call) -> web.StreamResponse:
    """One JSON object a line, until `until` or the client goes away."""
    query = call.query
    source = call.engine.events(query.filters(), query.text("since"), query.text("until"))
    async with Begun(source) as values:
        await values.checked()
        response = await call.stream()
        try:
            async for event in values:
                await response.write(json_line(event))
        except CortenError as error:
            await response.write(json_line({"message": error.text}))
    return response


async def disk_usage(call: Call) -> web.StreamResponse:
    """`GET /system/df`: what images, containers and volumes take; a build cache does not exist yet."""
    kinds = call.query.texts("type") if call.version >= (1, 42) else []
    for kind in kinds:
        if kind not in _KINDS:
            raise InvalidArgument(f"unknown object type: {kind}")
    usage: dict[str, Any] = {"LayersSize": 0, "Images": None, "Containers": None, "Volumes": None, "BuildCache": None}
    if not kinds or "image" in kinds:
        usage |= await call.engine.image_usage()
        users = [image["Containers"] for image in usage["Images"]]  # here in all versions, unlike in a list
        for image, count in zip(usage["Images"], users, strict=True):
            adapt_answer(image, IMAGE_LIST_RULES, call.version)["Containers"] = count
    if not kinds or "container" in kinds:
        containers = await call.engine.container_list(True, 0, True, {})
        logs = await call.engine.log_usage()
        for row in containers:  # clients add SizeRw up: what a log takes is the container's, too
            row["SizeLog"] = logs.get(row["Id"], 0)
            row["SizeRw"] = row.get("SizeRw", 0) + row["SizeLog"]
        usage["Containers"] = [adapt_answer(item, LIST_RULES, call.version) for item in containers]
    if not kinds or "volume" in kinds:
        usage["Volumes"] = await call.engine.volume_usage()
    if not kinds or "build-cache" in kinds:
        usage["BuildCache"] = []
    return call.answer(adapt_answer(usage, DISK_USAGE_RULES, call.version))


async def options(call: Call) -> web.StreamResponse:
    return call.empty(200)


async def auth(call: Call) -> web.StreamResponse:
    """`POST /auth`: whether a registry takes the credentials in the body."""
    return call.answer(await call.engine.login(await call.json(AuthConfig)))


async def build_prune(call: Call) -> web.StreamResponse:
    call.query.filters()
    return call.answer({"CachesDeleted": None, "SpaceReclaimed": 0})


def _check_filters(call: Call, known: frozenset[str]) -> None:
    for name in call.query.filters():
        if name not in known:
            raise InvalidArgument(f"invalid filter '{name}'")


async def plugins(call: Call) -> web.StreamResponse:
    call.query.filters()
    return call.answer([])
