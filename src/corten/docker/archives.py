"""Operations that answer with an archive, and those about what a container changed."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
from aiohttp import web

from corten.docker.call import Call
from corten.docker.streams import Begun
from corten.errors import InvalidArgument
from corten.spec.docker import ContainerConfig
from corten.spec.docker_parse import parse_named
from corten.spec.image import Platform


async def save(call: Call) -> web.StreamResponse:
    """One image by its path, several by `names`."""
    names = list(call.args) or call.query.texts("names")
    return await _archive(call, call.engine.image_save(names, only_platform(call, (1, 48))), "application/x-tar")


async def export(call: Call) -> web.StreamResponse:
    return await _archive(call, call.engine.container_export(call.args[0]), "application/octet-stream")


async def changes(call: Call) -> web.StreamResponse:
    return call.answer(await call.engine.container_changes(call.args[0]))


async def commit(call: Call) -> web.StreamResponse:
    """The body is a configuration that takes the place of the container's, if it names a field of one."""
    query = call.query
    body = (await call.json_bytes()).strip()
    found = await call.engine.container_commit(
        query.text("container"),
        query.text("repo"),
        query.text("tag"),
        comment=query.text("comment"),
        author=query.text("author"),
        pause=query.flag("pause", default=True) if query.text("pause") else True,
        changes=query.texts("changes"),
        config=parse_named(body, ContainerConfig),
    )
    return call.answer(found, 201)


def platform(call: Call, since: tuple[int, int]) -> Platform | None:
    """`platform`, the API's JSON object, which older versions do not have; the first of several."""
    text = call.query.text("platform")
    return parse_platform(text) if text and call.version >= since else None


def only_platform(call: Call, since: tuple[int, int]) -> Platform | None:
    """As `platform`; raises InvalidArgument for several, as dockerd, for the others would not come along."""
    if call.version >= since and len(call.query.texts("platform")) > 1:
        raise InvalidArgument("multiple platform parameters not supported")
    return platform(call, since)


def parse_platform(text: str) -> Platform:
    """The API's JSON object.  Raises InvalidArgument."""
    try:
        given = msgspec.json.decode(text, type=Platform)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"failed to parse platform: {error}") from error
    if not given.os or not given.architecture:
        raise InvalidArgument("both OS and Architecture must be provided")
    return given


async def _archive(call: Call, source: AsyncIterator[bytes], content_type: str) -> web.StreamResponse:
    """The bytes as they come; an error before the first is an ordinary answer, a later one cuts the stream."""
    async with Begun(source) as values:
        await values.settled()
        await values.checked()
        response = await call.stream(content_type)
        async for chunk in values:
            await response.write(chunk)
    return response
