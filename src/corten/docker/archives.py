"""Operations that answer with an archive, and those about what a container changed."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
from aiohttp import web

from corten.docker.call import Call
from corten.docker.streams import Begun
from corten.errors import InvalidArgument
from corten.spec.image import Platform


async def save(call: Call) -> web.StreamResponse:
    """One image by its path, several by `names`."""
    names = list(call.args) or call.query.texts("names")
    return await _archive(call, call.engine.image_save(names, platform(call, (1, 48))), "application/x-tar")


async def export(call: Call) -> web.StreamResponse:
    return await _archive(call, call.engine.container_export(call.args[0]), "application/octet-stream")


async def changes(call: Call) -> web.StreamResponse:
    return call.answer(await call.engine.container_changes(call.args[0]))


def platform(call: Call, since: tuple[int, int]) -> Platform | None:
    """`platform`, the API's JSON object, which older versions do not have; the first of several."""
    text = call.query.text("platform")
    return parse_platform(text) if text and call.version >= since else None


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
