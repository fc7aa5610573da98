"""`corten why`: the verdict on a container's last run, what is counted of the one that goes on, and the last lines."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from corten.engine import witness
from corten.engine.container import Container
from corten.engine.parts import Parts
from corten.engine.times import rfc3339
from corten.engine.verdict import to_json
from corten.errors import CortenError

Json = dict[str, Any]

LAST_LINES: Final = 10
_LINE_CHARS: Final = 400
_READ_BYTES: Final = 1 << 20
_HEADER_BYTES: Final = 8  # Docker API ContainerAttach, "Stream format"


@dataclass(frozen=True, slots=True)
class LastLines:
    """`logs --tail` of both streams (docker.engine_api.LogOptions)."""

    stdout: bool = True
    stderr: bool = True
    follow: bool = False
    since: str = ""
    until: str = ""
    timestamps: bool = False
    tail: str = str(LAST_LINES)
    details: bool = False


class Source(Protocol):
    """A container's log (engine.logs.LogStream)."""

    @property
    def tty(self) -> bool: ...
    async def open(self) -> None: ...
    def __aiter__(self) -> AsyncIterator[bytes]: ...


async def explain(container: Container, parts: Parts, source: Source) -> Json:
    """`{"Id", "Name", "Status", "StartedAt", "Verdict", "Now", "LastLines", "LogError"}`.

    Verdict: of inspect, null before the first end; Now: null unless it runs, else what the kernel has counted so far.
    """
    record = container.record
    lines, error = await _last_lines(source)
    return {
        "Id": record.id,
        "Name": f"/{record.name}",
        "Status": str(record.state.status),
        "StartedAt": rfc3339(record.state.started_ns),
        "Verdict": to_json(record.state.death) if record.state.death is not None else None,
        "Now": await _now(container, parts) if container.is_running else None,
        "LastLines": lines,
        "LogError": error,
    }


async def _now(container: Container, parts: Parts) -> Json:
    """Counters of the run that goes on, with the victims that the kernel's log names."""
    record = container.record
    cgroup = parts.tasks.cgroup(record.cgroup)
    counted = cgroup.counters()
    memory = witness.memory(cgroup, counted.oom_kills)
    if counted.oom_kills:
        found = await witness.kernel_log(record.cgroup, record.state.started_ns)
        memory = witness.with_victims(memory, found, record.state.death)
    processes = witness.processes(cgroup, counted.pids_max_hits)
    return {"Memory": msgspec.to_builtins(memory), "Processes": msgspec.to_builtins(processes)}


async def _last_lines(source: Source) -> tuple[list[str] | None, str]:
    """The lines, or why there are none."""
    data = bytearray()
    try:
        await source.open()
        async with contextlib.aclosing(_pieces(source)) as pieces:
            async for piece in pieces:
                data += piece
                if len(data) > _READ_BYTES:
                    break
    except CortenError as error:
        return None, error.text
    payload = bytes(data) if source.tty else joined(bytes(data))
    lines = payload.decode("utf-8", "replace").split("\n")
    return [line[:_LINE_CHARS] for line in lines if line][-LAST_LINES:], ""


async def _pieces(source: Source) -> AsyncGenerator[bytes, None]:
    async for piece in source:
        yield piece


def joined(data: bytes) -> bytes:
    """The contents of multiplexed frames; a cut one at the end is left out."""
    out, place = [], 0
    while place + _HEADER_BYTES <= len(data):
        size = int.from_bytes(data[place + 4 : place + _HEADER_BYTES], "big")
        out.append(data[place + _HEADER_BYTES : place + _HEADER_BYTES + size])
        place += _HEADER_BYTES + size
    return b"".join(out)
