"""`corten why`: the verdict on a container's last run, what is counted of the one that goes on, and the last lines."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from corten.core.eventlog import EventLog, decode
from corten.core.events import Event
from corten.engine import witness
from corten.engine.container import Container
from corten.engine.parts import Parts
from corten.engine.record import Record
from corten.engine.times import rfc3339
from corten.engine.verdict import UNKNOWN, to_json
from corten.errors import CortenError

Json = dict[str, Any]

LAST_LINES: Final = 10
_LINE_CHARS: Final = 400
_READ_BYTES: Final = 1 << 20
_HEADER_BYTES: Final = 8  # Docker API ContainerAttach, "Stream format"


@dataclass(frozen=True, slots=True)
class LastLines:
    """`logs --tail` of both streams (engine.logs.LogOptions)."""

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


# Of a container that is gone


def last_words(record: Record) -> Json:
    """What is kept with the event `destroy` for who asks later."""
    death = record.state.death
    return {
        "Name": record.name,
        "StartedAt": rfc3339(record.state.started_ns),
        "Verdict": to_json(death) if death is not None else None,
    }


def of_the_gone(log: EventLog, ref: str) -> Json | None:
    """As `explain`, with `RemovedAt`, of the last container that had this id, name, or beginning of an id, as far as
    the events that are kept go back; None where they know of none.  Reads a few MB: for a thread."""
    event = _last_event(log, ref)
    if event is None:
        return None
    is_whole = event.action == "destroy" and bool(event.detail)
    known = event.detail if is_whole else _from_die(event)
    return {
        "Id": event.id,
        "Name": f"/{known['Name']}",
        "Status": "removed",
        "StartedAt": known["StartedAt"],
        "RemovedAt": rfc3339(event.time_ns if is_whole else 0),
        "Verdict": known["Verdict"],
        "Now": None,
        "LastLines": None,
        "LogError": "the log was removed with the container",
    }


def _last_event(log: EventLog, ref: str) -> Event | None:
    """Its `destroy`, or its `die` where a cortend that was killed never came to tell the other."""
    word = ref.encode("utf-8", "replace")
    for line in log.lines():
        if word not in line or (b'"destroy"' not in line and b'"die"' not in line):
            continue
        event = decode(line)
        if event is None or event.type != "container" or event.action not in ("destroy", "die"):
            continue
        if event.attributes.get("name") == ref or event.id.startswith(ref):
            return event
    return None


def _from_die(event: Event) -> Json:
    code, at = event.attributes.get("exitCode", ""), rfc3339(event.time_ns)
    verdict = {
        "Cause": UNKNOWN,
        "Sentence": event.attributes.get("verdict", UNKNOWN),
        "ExitCode": int(code) if code.isdigit() else 0,
        "At": at,
        "Claims": [{"Claim": f"ended with code {code}", "Evidence": f"event die at {at}"}],
    }
    return {"Name": event.attributes.get("name", ""), "StartedAt": rfc3339(0), "Verdict": verdict}


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
    calls = msgspec.to_builtins(container.record.state.calls)
    return {"Memory": msgspec.to_builtins(memory), "Processes": msgspec.to_builtins(processes), "Calls": calls}


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
