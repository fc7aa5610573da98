"""Operations that speak to registries for a client."""

from __future__ import annotations

from dataclasses import replace

from aiohttp import web

from corten.docker.archives import platform
from corten.docker.call import Call
from corten.docker.streams import progress
from corten.errors import InvalidArgument
from corten.registry.credentials import AUTH_HEADER_MAX, Credentials, decode_auth, decode_auth_body
from corten.spec.reference import parse, parse_tag

AUTH_HEADER = "X-Registry-Auth"


async def push(call: Call) -> web.StreamResponse:
    """`tag` goes before one in the name; without either all tags of the repository are meant."""
    credentials = await _push_credentials(call)
    name, tag = parse(call.args[0]), call.query.text("tag")
    if tag:
        name = replace(name, tag=parse_tag(tag))
    return await progress(call, call.engine.image_push(name, credentials, platform(call, (1, 46))))


async def distribution(call: Call) -> web.StreamResponse:
    return call.answer(await call.engine.distribution(call.args[0], header_credentials(call)))


def header_credentials(call: Call) -> Credentials:
    """What the header says; nothing where it cannot be read, as dockerd has it for the sake of old clients."""
    try:
        return decode_auth(call.request.headers.get(AUTH_HEADER, ""))
    except InvalidArgument:
        return Credentials()


async def _push_credentials(call: Call) -> Credentials:
    """A push without the header has them in its body, as it was before Docker 1.10."""
    if call.request.headers.get(AUTH_HEADER):
        return header_credentials(call)
    try:
        return decode_auth_body(await _body(call))
    except InvalidArgument as error:
        raise InvalidArgument(f"bad parameters and missing X-Registry-Auth: {error.text}") from error


async def _body(call: Call) -> bytes:
    """Whatever its Content-Type is.  Raises InvalidArgument."""
    collected = bytearray()
    async for piece in call.body():
        collected += piece
        if len(collected) > AUTH_HEADER_MAX:
            raise InvalidArgument("request body too large")
    return bytes(collected)
