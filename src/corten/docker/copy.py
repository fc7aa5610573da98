"""Operations that copy files out of and into containers.

Docker API ContainerArchiveInfo, ContainerArchive, PutContainerArchive.  An archive is never packed, whatever the client
would take: it is on the same machine, or compresses its connection (ssh).
"""

from __future__ import annotations

import base64

import msgspec
from aiohttp import web

from corten.docker.call import Call
from corten.docker.streams import Begun
from corten.errors import InvalidArgument

STAT_HEADER = "X-Docker-Container-Path-Stat"


async def stat(call: Call) -> web.StreamResponse:
    """`HEAD`: what is at the path, in a header."""
    found = await call.engine.container_path_stat(call.args[0], _path(call))
    response = call.empty(200)
    response.headers[STAT_HEADER] = _encoded(msgspec.json.encode(found))
    return response


async def archive(call: Call) -> web.StreamResponse:
    """`GET`: the same, and what is there as an archive."""
    async with Begun(call.engine.container_archive(call.args[0], _path(call))) as values:
        await values.settled()
        await values.checked()
        response: web.StreamResponse | None = None
        async for piece in values:
            if response is None:
                response = await call.stream("application/x-tar", {STAT_HEADER: _encoded(piece)})
            else:
                await response.write(piece)
        assert response is not None  # there is a first piece, or an error
    return response


async def extract(call: Call) -> web.StreamResponse:
    """`PUT`: the body is an archive, packed or not."""
    query = call.query
    await call.engine.container_extract(
        call.args[0],
        _path(call),
        call.body(),
        keeps_kinds=query.flag("noOverwriteDirNonDir"),
        copies_owner=query.flag("copyUIDGID"),
    )
    return call.empty(200)


def _path(call: Call) -> str:
    path = call.query.text("path")
    if not path:  # the text is dockerd's
        raise InvalidArgument("bad parameter: pathcannot be empty")
    if "\0" in path:
        raise InvalidArgument("bad parameter: 'path' has a null byte")
    return path


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
