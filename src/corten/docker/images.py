"""Operations on images."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
from aiohttp import web

from corten import errors
from corten.docker.call import Call
from corten.docker.engine_api import Json
from corten.docker.streams import progress
from corten.docker.versions import IMAGE_INSPECT_RULES, IMAGE_LIST_RULES, adapt_answer
from corten.errors import InvalidArgument, NotFound


async def list_all(call: Call) -> web.StreamResponse:
    query = call.query
    filters = dict(query.filters())
    if call.version < (1, 41) and query.text("filter"):
        filters["reference"] = [*filters.get("reference", ()), query.text("filter")]
    shared_size = call.version >= (1, 42) and query.flag("shared-size")
    found = await call.engine.image_list(query.flag("all"), filters, shared_size, query.flag("digests"))
    return call.answer([adapt_answer(item, IMAGE_LIST_RULES, call.version) for item in found])


async def inspect(call: Call) -> web.StreamResponse:
    found = await call.engine.image_inspect(call.args[0])
    if wanted := _platform(call, (1, 49)):
        _check_platform(call.args[0], found, wanted)
    return call.answer(adapt_answer(found, IMAGE_INSPECT_RULES, call.version))


async def history(call: Call) -> web.StreamResponse:
    found = await call.engine.image_history(call.args[0])
    if wanted := _platform(call, (1, 48)):
        _check_platform(call.args[0], await call.engine.image_inspect(call.args[0]), wanted)
    return call.answer(found)


def _check_platform(name: str, image: Json, wanted: list[str]) -> None:
    """An image has exactly one platform, so it is this one or none."""
    actual = [image["Os"], image["Architecture"], *([image["Variant"]] if image.get("Variant") else [])]
    if actual[: len(wanted)] != wanted:
        raise NotFound(
            f"image with reference {name} was found but does not match the specified platform: "
            f"wanted {'/'.join(wanted)}, actual: {'/'.join(actual)}"
        )


def _platform(call: Call, since: tuple[int, int]) -> list[str]:
    """`platform`, the API's JSON: {"os": …, "architecture": …, "variant": …}; older versions do not have it."""
    text = call.query.text("platform")
    if call.version < since or not text:
        return []
    try:
        given = msgspec.json.decode(text, type=dict[str, str | list[str]])
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"failed to parse platform: {error}") from error
    found = [given.get(name, "") for name in ("os", "architecture", "variant")]
    if not found[0] or not found[1]:
        raise InvalidArgument("both OS and Architecture must be provided")
    return [str(part) for part in found if part]


async def tag(call: Call) -> web.StreamResponse:
    await call.engine.image_tag(call.args[0], call.query.text("repo"), call.query.text("tag"))
    return call.empty(201)


async def remove(call: Call) -> web.StreamResponse:
    if not call.args[0].strip():
        raise InvalidArgument("image name cannot be blank")
    if call.version >= (1, 50) and call.query.texts("platforms"):
        raise errors.NotImplemented("removing a platform of an image is not supported yet: it has one")
    removed = await call.engine.image_remove(call.args[0], call.query.flag("force"), call.query.flag("noprune"))
    return call.answer(removed)


async def prune(call: Call) -> web.StreamResponse:
    return call.answer(await call.engine.image_prune(call.query.filters()))


async def load(call: Call) -> web.StreamResponse:
    """The archive is read as it comes; what went wrong is the last line of the stream."""
    if call.version >= (1, 48) and call.query.text("platform"):
        raise errors.NotImplemented("loading a platform of an image is not supported yet: load all of it")
    quiet = call.query.flag("quiet", default=True)
    return await progress(call, call.engine.image_load(call.body(), quiet), errors_in_stream=True)


async def create(call: Call) -> web.StreamResponse:
    """A pull (`fromImage`) or an import (`fromSrc`)."""
    query = call.query
    if query.text("fromImage"):
        return await _pull(call)
    if query.text("fromSrc") not in ("", "-"):
        raise errors.NotImplemented("importing an image from a URL is not supported yet: no registry client")
    source = call.engine.image_import(
        call.body(),
        query.text("repo"),
        query.text("tag"),
        query.text("message"),
        query.texts("changes"),
        query.text("platform"),
    )
    return await progress(call, source)


async def _pull(call: Call) -> web.StreamResponse:
    name, tag = call.query.text("fromImage"), call.query.text("tag")
    separator = "@" if tag.startswith("sha256:") else ":"
    ref = f"{name}{separator}{tag}" if tag else name
    try:
        await call.engine.image_inspect(ref)
    except NotFound as error:
        raise errors.NotImplemented(f"pulling {ref} is not supported yet: no registry client") from error
    return await progress(call, _present(ref))


async def _present(ref: str) -> AsyncIterator[Json]:
    yield {"status": f"Status: Image is present: {ref} (pulling is not supported yet)"}
