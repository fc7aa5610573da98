"""Operations on images."""

from __future__ import annotations

from aiohttp import web

from corten.docker.archives import only_platform, parse_platform, platform
from corten.docker.call import Call
from corten.docker.registries import header_credentials
from corten.docker.streams import progress
from corten.docker.versions import IMAGE_INSPECT_RULES, IMAGE_LIST_RULES, LEGACY_KEY, adapt_answer
from corten.errors import InvalidArgument


async def list_all(call: Call) -> web.StreamResponse:
    query = call.query
    filters = dict(query.filters())
    if call.version < (1, 41) and query.text("filter"):
        filters["reference"] = [*filters.get("reference", ()), query.text("filter")]
    shared_size = call.version >= (1, 42) and query.flag("shared-size")
    manifests = call.version >= (1, 47) and query.flag("manifests")
    found = await call.engine.image_list(query.flag("all"), filters, shared_size, manifests)
    return call.answer([adapt_answer(item, IMAGE_LIST_RULES, call.version) for item in found])


async def inspect(call: Call) -> web.StreamResponse:
    wanted = platform(call, (1, 49))
    manifests = call.version >= (1, 48) and call.query.flag("manifests")
    if wanted is not None and manifests:
        raise InvalidArgument("conflicting options: manifests and platform options cannot both be set")
    found = await call.engine.image_inspect(call.args[0], wanted, manifests)
    answer = adapt_answer(found, IMAGE_INSPECT_RULES, call.version)
    answer.pop(LEGACY_KEY, None)
    return call.answer(answer)


async def history(call: Call) -> web.StreamResponse:
    return call.answer(await call.engine.image_history(call.args[0], platform(call, (1, 48))))


async def tag(call: Call) -> web.StreamResponse:
    await call.engine.image_tag(call.args[0], call.query.text("repo"), call.query.text("tag"))
    return call.empty(201)


async def remove(call: Call) -> web.StreamResponse:
    if not call.args[0].strip():
        raise InvalidArgument("image name cannot be blank")
    query = call.query
    platforms = [parse_platform(text) for text in query.texts("platforms") if text and call.version >= (1, 50)]
    return call.answer(
        await call.engine.image_remove(call.args[0], query.flag("force"), query.flag("noprune"), platforms)
    )


async def prune(call: Call) -> web.StreamResponse:
    """`dry-run` (of Corten): what would be removed, once the containers of `leaving` were."""
    query = call.query
    found = await call.engine.image_prune(query.filters(), query.flag("dry-run"), frozenset(query.texts("leaving")))
    return call.answer(found)


async def load(call: Call) -> web.StreamResponse:
    """The archive is read as it comes; what went wrong is the last line of the stream."""
    wanted = only_platform(call, (1, 48))
    quiet = call.query.flag("quiet", default=True)
    return await progress(call, call.engine.image_load(call.body(), quiet, wanted), errors_in_stream=True)


async def create(call: Call) -> web.StreamResponse:
    """A pull (`fromImage`) or an import (`fromSrc`)."""
    query = call.query
    if query.text("fromImage"):
        return await _pull(call)
    made = (
        *(query.text("repo"), query.text("tag"), query.text("message")),
        *(query.texts("changes"), query.text("platform")),
    )
    if query.text("fromSrc") not in ("", "-"):
        return await progress(call, call.engine.image_import_url(query.text("fromSrc"), *made))
    return await progress(call, call.engine.image_import(call.body(), *made))


async def _pull(call: Call) -> web.StreamResponse:
    query = call.query
    platform = query.text("platform") if call.version >= (1, 32) else ""
    credentials = header_credentials(call)
    source = call.engine.image_pull(query.text("fromImage"), query.text("tag"), platform, credentials)
    return await progress(call, source)


# Corten's own: an image's files at a directory of the host.


async def mount(call: Call) -> web.StreamResponse:
    """`target` is a directory, empty for one that the engine makes."""
    found = await call.engine.image_mount(call.args[0], call.query.text("target"), platform(call, (1, 40)))
    return call.answer(found, 201)


async def mounts(call: Call) -> web.StreamResponse:
    return call.answer(await call.engine.image_mounts())


async def unmount(call: Call) -> web.StreamResponse:
    """`what`: a path, or an image."""
    return call.answer(await call.engine.image_unmount(call.query.text("what")))
