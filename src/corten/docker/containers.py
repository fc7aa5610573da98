"""Operations on containers and execs that are ordinary requests (attach and exec start: `hijack`)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from aiohttp import web
from msgspec.structs import replace

from corten.docker.call import Call
from corten.docker.engine_api import Json, LogOptions
from corten.docker.plain import MULTIPLEXED_STREAM, RAW_STREAM
from corten.docker.query import integer
from corten.docker.streams import close, json_line
from corten.docker.versions import INSPECT_RULES, LIST_RULES, adapt_answer, adapt_create
from corten.errors import CortenError, Internal, InvalidArgument, NotFound, NotModified, Unavailable, from_kind
from corten.spec.docker import ContainerCreateRequest, ContainerUpdateRequest, ExecConfig, PortsRequest
from corten.spec.docker_parse import parse_create

STATS_PERIOD_S = 1.0
WAIT_CONDITIONS = ("not-running", "next-exit", "removed")
_NO_TIME = "0001-01-01T00:00:00Z"


async def _create_request(call: Call) -> tuple[ContainerCreateRequest, list[str]]:
    request = parse_create(await call.json_bytes(), call.version)
    return adapt_create(request, call.version, is_cgroup2=call.is_cgroup2)


async def create(call: Call) -> web.StreamResponse:
    request, warnings = await _create_request(call)
    platform = call.query.text("platform") if call.version >= (1, 41) else ""
    created = await call.engine.container_create(request, call.query.text("name"), platform)
    if warnings:
        created = {**created, "Warnings": [*(created.get("Warnings") or []), *warnings]}
    return call.answer(created, 201)


async def explain(call: Call) -> web.StreamResponse:
    """Ours: the effective configuration with the origin of each value, and the plan, without creating anything."""
    request, _ = await _create_request(call)
    return call.answer(await call.engine.container_explain(request, call.query.text("name")))


async def trace(call: Call) -> web.StreamResponse:
    """Ours: the recorded steps of the last start."""
    return call.answer(await call.engine.container_trace(call.args[0]))


async def why(call: Call) -> web.StreamResponse:
    """Ours: how the last run ended, with the evidence."""
    return call.answer(await call.engine.container_why(call.args[0]))


async def ports(call: Call) -> web.StreamResponse:
    """Ours: other published ports for a container that exists."""
    return call.answer(await call.engine.container_ports(call.args[0], await call.json(PortsRequest)))


async def start(call: Call) -> web.StreamResponse:
    length = call.request.content_length
    if "Transfer-Encoding" in call.request.headers or (length is not None and length > 7):
        raise InvalidArgument(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24"
        )
    await call.engine.container_start(call.args[0], call.query.text("detachKeys"))
    return call.empty()


async def stop(call: Call) -> web.StreamResponse:
    signal = call.query.text("signal") if call.version >= (1, 42) else ""
    name, timeout_s = call.args[0], call.query.integer("t")
    with _as_dockerd_says(f"cannot stop container: {name}"):
        await call.engine.container_stop(name, signal, timeout_s)
    return call.empty()


async def restart(call: Call) -> web.StreamResponse:
    signal = call.query.text("signal") if call.version >= (1, 42) else ""
    name, timeout_s = call.args[0], call.query.integer("t")
    with _as_dockerd_says(f"Cannot restart container {name}"):
        await call.engine.container_restart(name, signal, timeout_s)
    return call.empty()


@contextlib.contextmanager
def _as_dockerd_says(what: str) -> Iterator[None]:
    """Around what fails once the container is found: dockerd has 500 for it, be it the client's mistake or not."""
    try:
        yield
    except (NotFound, NotModified):
        raise
    except Unavailable as error:
        raise Unavailable(f"{what}: {error.text}") from error
    except CortenError as error:
        raise Internal(f"{what}: {error.text}") from error


async def kill(call: Call) -> web.StreamResponse:
    name = call.args[0]
    try:
        await call.engine.container_kill(name, call.query.text("signal") or "SIGKILL")
    except CortenError as error:
        raise from_kind(error.kind, f"cannot kill container: {name}: {error.text}") from error
    return call.empty()


async def pause(call: Call) -> web.StreamResponse:
    await call.engine.container_pause(call.args[0])
    return call.empty()


async def unpause(call: Call) -> web.StreamResponse:
    await call.engine.container_unpause(call.args[0])
    return call.empty()


async def rename(call: Call) -> web.StreamResponse:
    await call.engine.container_rename(call.args[0], call.query.text("name"))
    return call.empty()


async def resize(call: Call) -> web.StreamResponse:
    rows, cols = integer(call.query.text("h")), integer(call.query.text("w"))
    await call.engine.container_resize(call.args[0], rows, cols)
    return call.empty(200)


async def remove(call: Call) -> web.StreamResponse:
    query = call.query
    await call.engine.container_remove(call.args[0], query.flag("force"), query.flag("v"), query.flag("link"))
    return call.empty()


async def update(call: Call) -> web.StreamResponse:
    request = await call.json(ContainerUpdateRequest)
    if call.version >= (1, 42) and request.kernel_memory:
        request = replace(request, kernel_memory=0)
    return call.answer(await call.engine.container_update(call.args[0], request))


async def prune(call: Call) -> web.StreamResponse:
    """`dry-run` (of Corten): what would be removed."""
    return call.answer(await call.engine.container_prune(call.query.filters(), call.query.flag("dry-run")))


async def inspect(call: Call) -> web.StreamResponse:
    found = await call.engine.container_inspect(call.args[0], call.query.flag("size"))
    return call.answer(adapt_answer(found, INSPECT_RULES, call.version))


async def list_all(call: Call) -> web.StreamResponse:
    """`GET /containers/json`."""
    query = call.query
    filters = query.filters()  # first, as in dockerd: what is wrong with it is 400, with the limit 500
    limit = query.integer("limit") or 0
    found = await call.engine.container_list(query.flag("all"), limit, query.flag("size"), filters)
    return call.answer([adapt_answer(item, LIST_RULES, call.version) for item in found])


async def top(call: Call) -> web.StreamResponse:
    return call.answer(await call.engine.container_top(call.args[0], call.query.text("ps_args")))


async def wait(call: Call) -> web.StreamResponse:
    """The head as soon as the wait is registered, the body at the exit."""
    condition = call.query.text("condition") or "not-running"
    if condition not in WAIT_CONDITIONS:
        raise InvalidArgument(f'invalid condition: "{condition}"')
    waiter = await call.engine.container_wait(call.args[0], condition)
    response = await call.stream()
    try:
        result: Json = await waiter.result()
    except CortenError as error:
        result = {"StatusCode": -1, "Error": {"Message": error.text}}
    await response.write(json_line(result))
    return response


async def logs(call: Call) -> web.StreamResponse:
    query = call.query
    options = LogOptions(
        stdout=query.flag("stdout"),
        stderr=query.flag("stderr"),
        follow=query.flag("follow"),
        since=query.text("since"),
        until=query.text("until"),
        timestamps=query.flag("timestamps"),
        tail=query.text("tail"),
        details=query.flag("details"),
    )
    if not (options.stdout or options.stderr):
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    source = call.engine.container_logs(call.args[0], options)
    try:
        await source.open()
        is_multiplexed = not source.tty and call.version >= (1, 42)
        response = await call.stream(MULTIPLEXED_STREAM if is_multiplexed else RAW_STREAM)
        async for piece in source:
            await response.write(piece)
    finally:
        await close(source)
    return response


async def stats(call: Call) -> web.StreamResponse:
    """One sample a second, each with the CPU figures of the one before; or a single one."""
    is_stream = call.query.flag("stream", default=True)
    is_one_shot = call.version >= (1, 41) and call.query.flag("one-shot")
    if is_stream and is_one_shot:
        raise InvalidArgument("cannot have stream=true and one-shot=true")
    sample = await call.engine.container_stats(call.args[0], is_one_shot)
    if is_one_shot:
        return call.answer(_after(sample, None))
    if not is_stream and sample["read"] == _NO_TIME:  # it does not run
        return call.answer(_after(sample, None))
    if not is_stream:
        await asyncio.sleep(STATS_PERIOD_S)
        return call.answer(_after(await call.engine.container_stats(call.args[0], False), sample))
    response = await call.stream()
    before: Json | None = None
    with contextlib.suppress(CortenError):  # removed meanwhile, or its shim hangs: the stream ends
        while True:
            await response.write(json_line(_after(sample, before)))
            await asyncio.sleep(STATS_PERIOD_S)
            before, sample = sample, await call.engine.container_stats(call.args[0], False)
    return response


def _after(sample: Json, before: Json | None) -> Json:
    if before is None:
        return {"preread": _NO_TIME, **sample}
    return {**sample, "preread": before.get("read", _NO_TIME), "precpu_stats": before.get("cpu_stats", {})}


# exec


async def exec_create(call: Call) -> web.StreamResponse:
    request = await call.json(ExecConfig)
    if not request.cmd:
        raise InvalidArgument("No exec command specified")
    if call.version < (1, 42) and request.console_size is not None:
        request = replace(request, console_size=None)
    return call.answer(await call.engine.exec_create(call.args[0], request), 201)


async def exec_resize(call: Call) -> web.StreamResponse:
    rows, cols = integer(call.query.text("h")), integer(call.query.text("w"))
    await call.engine.exec_resize(call.args[0], rows, cols)
    return call.empty(200)


async def exec_inspect(call: Call) -> web.StreamResponse:
    return call.answer(await call.engine.exec_inspect(call.args[0]))
