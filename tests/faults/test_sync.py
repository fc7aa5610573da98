"""What reaches the disk before somebody relies on it (design.md §5), seen by strace on a real cortend.

A disk object's bytes are synced before the name that makes them visible, the name before the record of it, the record
before the answer: one fsync of the log per request.  Kernel objects are gone with the machine: their records are not
synced, so a start, an exec or a stop costs none.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import images, paths
from support.engine import CortenEngine
from support.faultlife import Life
from support.killpoints import Trace

SYNCS = ("fsync", "fdatasync", "syncfs", "sync", "sync_file_range")
RENAMES = ("rename", "renameat", "renameat2", "link", "linkat")
CALLS = (*SYNCS, *RENAMES, "sendto")
_ENTRY = re.compile(r"^(?:\d+ +)?(\w+)\((.*)$")
_PATH = re.compile(r'<(/[^>]*)>|"(/[^"]*)"')


@dataclass(frozen=True, slots=True)
class Event:
    """One call: its name, the paths in it (below the data root, relative to it), its text."""

    call: str
    paths: tuple[str, ...]
    text: str


def events(text: str, data_root: Path) -> list[Event]:
    """The calls of a log in the order in which they were entered; syncs of what is not on the data root left out."""
    found = []
    for line in text.splitlines():
        match = _ENTRY.match(line)
        if match is None:
            continue
        named = [one or other for one, other in _PATH.findall(match[2])]
        inside = tuple(str(Path(one).relative_to(data_root)) for one in named if f"{one}/".startswith(f"{data_root}/"))
        if inside or match[1] in ("sendto", "sync"):
            found.append(Event(match[1], inside, match[2]))
    return found


def traced(engine: CortenEngine, life: Life, *steps: str) -> list[Event]:
    """What cortend, all its threads, did for some steps of a life."""
    with Trace(engine.pid, calls=CALLS, follow=True) as trace:
        life.do(*steps)
        trace.end()
        return events(trace.log.read_text(errors="replace"), engine.data_root)


def syncs(found: Sequence[Event]) -> list[str]:
    """`call path` of every sync."""
    return [f"{one.call} {' '.join(one.paths)}" for one in found if one.call in SYNCS]


def place(found: Sequence[Event], call: str, *parts: str, start: int = 0) -> int:
    """Where the first call of that name stands, from `start` on, that has all the parts in its text."""
    for index, one in enumerate(found[start:], start):
        if one.call == call and all(part in one.text for part in parts):
            return index
    raise AssertionError(f"no {call} of {parts} from {start} on in {syncs(found)}")


def judge_renames(found: Sequence[Event]) -> list[str]:
    """Every rename into content or to the id has its file synced before and its folder after it; the new names."""
    names = []
    for index, one in enumerate(found):
        if one.call not in RENAMES or not re.match(r"content/blobs/|engine-id$", one.paths[-1]):
            continue
        old, new = one.paths
        place(found[:index], "fsync", f"/{old}>")
        place(found, "fsync", f"/{Path(new).parent}>" if "/" in new else "/data>", start=index)
        names.append(new)
    return names


def test_an_image_is_on_the_disk_name_and_all_before_it_is_recorded_and_the_client_hears_of_it() -> None:
    with CortenEngine() as engine, Trace(engine.pid, calls=CALLS, follow=True) as trace:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        trace.end()
        found = events(trace.log.read_text(errors="replace"), engine.data_root)
    blobs = judge_renames(found)
    assert len(blobs) >= 3, "archive's documents and layers"
    layers = [index for index, one in enumerate(found) if one.call == "rename" and "snapshots/staging/" in one.text]
    assert layers, "no layer was renamed into place"
    for index in layers:
        place(found[:index], "syncfs", "/snapshots>")
    last = max(index for index, one in enumerate(found) if one.call == "rename" and "index.json" not in one.text)
    recorded = place(found, "fsync", "/corten.db-wal>", start=last)
    assert recorded < place(found, "sendto", "Loaded image"), "the client heard of it before it was recorded"


def test_the_engines_id_is_on_the_disk_before_anything_bears_it() -> None:
    folder = paths.scratch("strace")
    log = folder / "log"

    class TracedEngine(CortenEngine):
        def start(self, prefix: Sequence[str] = ()) -> None:
            super().start(["strace", "-D", "-f", "-yy", "-o", str(log), "-e", f"trace={','.join(CALLS)}"])

    with TracedEngine() as engine:
        found = events(log.read_text(errors="replace"), engine.data_root)
    shutil.rmtree(folder)
    assert judge_renames(found) == ["engine-id"]
    renamed = place(found, "rename", 'engine-id"')
    assert place(found, "fsync", "/data>", start=renamed) < place(found, "sendto", "ctn-"), "the bridge bears it"


@pytest.mark.parametrize(("step", "head"), [("create", "201 Created"), ("remove", "204 No Content")])
def test_a_request_for_a_disk_object_syncs_its_record_once_before_the_answer(
    lived_engine: CortenEngine, step: str, head: str
) -> None:
    life = Life(lived_engine)
    if step == "remove":
        life.do("create")
    found = traced(lived_engine, life, step)
    assert syncs(found) == ["fsync corten.db-wal"]
    assert place(found, "fsync", "corten.db-wal") < place(found, "sendto", f"HTTP/1.1 {head}")
    if step == "create":
        life.do("remove")


def test_start_exec_pause_kill_and_wait_sync_nothing(lived_engine: CortenEngine) -> None:
    life = Life(lived_engine)
    life.do("create")
    found = traced(lived_engine, life, "start", "exec", "pause", "unpause", "kill", "wait")
    assert syncs(found) == []
    assert place(found, "sendto", "HTTP/1.1 204") >= 0, "nothing was seen"
    life.do("remove")


def test_a_container_that_removes_itself_syncs_nothing(lived_engine: CortenEngine) -> None:
    with Trace(lived_engine.pid, calls=CALLS, follow=True) as trace:
        lived_engine.docker("run", "--rm", "-p", "8093:80", images.BUSYBOX_REF, "true", check=True)
        trace.end()
        found = events(trace.log.read_text(errors="replace"), lived_engine.data_root)
    assert syncs(found) == []
    assert place(found, "sendto", "HTTP/1.1 201 Created") >= 0, "nothing was seen"
