"""The health of containers as their shims tell it: kept in the record, told in events (docs/health.md).

The shims do the checking.  A record is saved when the status changes and with everything else that is saved of its
container; what a cortend that was killed had not saved comes with the adoption.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

from corten.engine import healthcheck, launcherrors, times
from corten.engine.container import Container
from corten.engine.events import container_event
from corten.engine.execs import Execs
from corten.engine.parts import Parts
from corten.engine.record import HealthEntry, Record
from corten.errors import Internal

Json = dict[str, Any]

_LOG_ENTRIES: Final = 5


class Healths:
    """What follows from the events `health-probe`, `health` and `health-action` of shims."""

    def __init__(self, parts: Parts, execs: Execs) -> None:
        self._parts = parts
        self._execs = execs

    def told(self, container: Container, message: Json) -> None:
        """An event of a container's shim."""
        match message["event"]:
            case "health-probe":
                self._execs.probe(container, str(message["exec_id"]), _command(container.record))
            case "health":
                self._result(container, message)
            case _:
                event = container_event(container.record, "kill", signal=str(message["signal"]))
                self._parts.bus.publish(event)

    def _result(self, container: Container, message: Json) -> None:
        entry, change = message["entry"], int(message.get("change", 0))
        if entry.get("failed"):
            self._execs.probe_failed(str(entry["exec_id"]))
        health = container.record.state.health
        if health is None:
            return
        before, status = health.status, str(message["status"])
        health = replace(
            health,
            status=status,
            failing_streak=int(message["failing_streak"]),
            log=[*health.log, _entry(container.record, entry)][-_LOG_ENTRIES:],
            told=change or health.told,
        )
        record = container.record.with_state(health=health)
        if status == before:
            container.record = record
            return
        self._parts.note(container, record)
        self._tell_status(container, status, 0)

    def adopt(self, container: Container, told: Json | None) -> None:
        """What the shim knows (its `hello`), with the events of what nobody heard of; the caller saves the record."""
        health = container.record.state.health
        if health is None:
            return
        if not told:  # a shim of a release that did no checks
            container.record = container.record.with_state(health=None)
            return
        record = container.record
        known = {entry.start for entry in health.log}
        missed = [entry for entry in told["log"] if entry["start"] not in known]
        changes = [change for change in told["changes"] if int(change["number"]) > health.told]
        log = [*health.log, *(_entry(record, entry) for entry in missed)][-_LOG_ENTRIES:]
        container.record = record.with_state(
            health=replace(
                health,
                status=str(told["status"]),
                failing_streak=int(told["failing_streak"]),
                log=log,
                told=int(changes[-1]["number"]) if changes else health.told,
            )
        )
        self._replay(container, missed, changes)

    def keep(self, container: Container) -> None:
        """The daemon ends: what is in memory alone is saved."""
        if container.is_running and container.record.state.health is not None:
            self._parts.note(container, container.record)

    def _replay(self, container: Container, missed: list[Json], changes: list[Json]) -> None:
        """In the order of their times, which they keep."""
        rows = [(str(entry["end"]), entry) for entry in missed] + [(str(change["at"]), change) for change in changes]
        for at, one in sorted(rows, key=lambda row: times.from_rfc3339(row[0])):
            if "number" in one:
                self._tell_status(container, str(one["status"]), times.from_rfc3339(at))
            else:
                self._execs.replay_probe(container, one, _command(container.record))

    def _tell_status(self, container: Container, status: str, time_ns: int) -> None:
        event = container_event(container.record, f"health_status: {status}")
        self._parts.bus.publish(replace(event, time_ns=time_ns))


def _command(record: Record) -> list[str]:
    return healthcheck.command(record.effective.config) or [""]


def _entry(record: Record, entry: Json) -> HealthEntry:
    text = healthcheck.output(record.effective.config, entry)
    if entry.get("failed"):
        text = launcherrors.exec_error(Internal(text)).text
    return HealthEntry(start=str(entry["start"]), end=str(entry["end"]), exit_code=int(entry["status"]), output=text)
