"""What follows from what shims tell of health checks: record, events, execs."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from corten.core.events import Event
from corten.engine import execs as execs_module
from corten.engine.container import Container
from corten.engine.execs import Execs
from corten.engine.health import Healths
from corten.engine.record import Health, HealthEntry, Record, State, Status
from corten.errors import NotFound

from .conftest import ID, Decide

EXEC = "e" * 64


class Scene:
    """A running container with a check, and what its engine saves and tells."""

    def __init__(self, decide: Decide, health: Health | None) -> None:
        self.told: list[Event] = []
        self.saved = 0
        parts: Any = SimpleNamespace(bus=SimpleNamespace(publish=self.told.append), note=self._note)
        self.execs = Execs(parts)
        self.healths = Healths(parts, self.execs)
        effective = decide(Healthcheck={"Test": ["CMD", "probe", "it"]})
        state = State(status=Status.RUNNING, health=health)
        record = Record(id=ID, name="n", image_id="i", image_ref="r", created_ns=1, effective=effective, state=state)
        self.container = Container(record, asyncio.get_running_loop())

    def _note(self, container: Container, record: Record) -> None:
        self.saved += 1
        container.record = record

    @property
    def health(self) -> Health:
        found = self.container.record.state.health
        assert found is not None
        return found

    def result(self, becomes: str, number: int = 0, *, second: int = 1, **entry: Any) -> None:
        at = f"2026-01-01T00:00:{second:02d}Z"
        whole = {"exec_id": EXEC, "start": at, "end": at, "status": 0, "output": "words", **entry}
        message = {"event": "health", "status": becomes, "failing_streak": 0, "entry": whole}
        self.healths.told(self.container, message | ({"change": number} if number else {}))

    def actions(self) -> list[str]:
        return [event.action for event in self.told]


async def test_a_probe_is_an_exec_and_a_change_of_status_is_saved_and_told_once(decide: Decide) -> None:
    scene = Scene(decide, Health())
    scene.healths.told(scene.container, {"event": "health-probe", "exec_id": EXEC})
    assert scene.container.exec_ids == [EXEC]
    scene.execs.exited(scene.container, {"exec_id": EXEC, "status": 0})
    scene.result("healthy", 1)
    scene.result("healthy", second=2)
    assert scene.actions() == ["exec_create: probe it", "exec_start: probe it", "exec_die", "health_status: healthy"]
    assert (scene.health.status, scene.health.told, len(scene.health.log), scene.saved) == ("healthy", 1, 2, 1)
    assert scene.container.exec_ids == []


async def test_the_log_has_the_last_five(decide: Decide) -> None:
    scene = Scene(decide, Health())
    for second in range(8):
        scene.result("starting", second=second)
    assert [entry.start[17:19] for entry in scene.health.log] == ["03", "04", "05", "06", "07"]


async def test_a_probe_that_could_not_be_launched_has_the_runtimes_words(decide: Decide) -> None:
    scene = Scene(decide, Health())
    scene.healths.told(scene.container, {"event": "health-probe", "exec_id": EXEC})
    scene.result("starting", status=-1, failed=True, output="exec: no")
    assert scene.health.log[0].output == "OCI runtime exec failed: exec: no: unknown"
    assert scene.execs.find(EXEC).code == 126
    assert scene.container.exec_ids == []


async def test_an_adoption_tells_what_nobody_has_heard_of_with_its_own_times(decide: Decide) -> None:
    known = HealthEntry(start="2026-01-01T00:00:01Z", end="2026-01-01T00:00:01Z", exit_code=1, output="")
    scene = Scene(decide, Health(status="unhealthy", log=[known], told=1))
    entries = [
        {"exec_id": EXEC, "start": at, "end": at, "status": 0, "output": "fine"}
        for at in ("2026-01-01T00:00:01Z", "2026-01-01T00:00:05Z")
    ]
    changes = [
        {"number": 1, "status": "unhealthy", "at": "2026-01-01T00:00:01Z"},
        {"number": 2, "status": "healthy", "at": "2026-01-01T00:00:06Z"},
    ]
    told = {"status": "healthy", "failing_streak": 0, "log": entries, "changes": changes}
    scene.healths.adopt(scene.container, told)
    assert (scene.health.status, scene.health.told, len(scene.health.log)) == ("healthy", 2, 2)
    assert scene.actions() == ["exec_create: probe it", "exec_start: probe it", "exec_die", "health_status: healthy"]
    assert [event.time_ns // 10**9 % 60 for event in scene.told] == [5, 5, 5, 6]


async def test_a_shim_of_a_release_without_checks_leaves_no_health(decide: Decide) -> None:
    scene = Scene(decide, Health())
    scene.healths.adopt(scene.container, None)
    assert scene.container.record.state.health is None


async def test_probes_do_not_push_out_the_execs_of_clients(decide: Decide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execs_module, "_MAX_PROBES", 2)
    scene = Scene(decide, Health())
    for name in ("a", "b", "c"):
        scene.healths.told(scene.container, {"event": "health-probe", "exec_id": name})
        scene.execs.exited(scene.container, {"exec_id": name, "status": 0})
    assert scene.execs.find("c").code == 0
    with pytest.raises(NotFound):
        scene.execs.find("a")
