"""`corten why` of a container that is gone: what the kept events tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from corten.core.eventlog import EventLog
from corten.core.events import Event
from corten.engine.why import of_the_gone

ID = "ab" * 32
VERDICT = {"Cause": "exited", "Sentence": "exited with code 3", "ExitCode": 3, "At": "t"}
KEPT = {"Name": "web", "StartedAt": "t0", "Verdict": VERDICT}


def event(action: str, *, id: str = ID, name: str = "web", kind: str = "container", **fields: Any) -> Event:
    attributes = {"name": name, **fields.pop("attributes", {})}
    return Event(type=kind, action=action, id=id, attributes=attributes, time_ns=10**18, **fields)


def log(tmp_path: Path, *events: Event) -> EventLog:
    made = EventLog(str(tmp_path))
    for one in events:
        made.append(one)
    return made


def test_the_verdict_is_found_by_name_id_and_beginning_of_the_id(tmp_path: Path) -> None:
    kept = log(tmp_path, event("die"), event("destroy", detail=KEPT), event("destroy", id="f" * 64, name="other"))
    for ref in ("web", ID, ID[:7]):
        found = of_the_gone(kept, ref)
        assert found is not None
        assert (found["Id"], found["Name"], found["Status"], found["Verdict"]) == (ID, "/web", "removed", VERDICT)
        assert found["RemovedAt"].startswith("2001-09-09T01:46:40")
    for ref in ("we", "webs", "cd", "die"):
        assert of_the_gone(kept, ref) is None


def test_the_last_one_of_that_name_is_meant(tmp_path: Path) -> None:
    other = {**KEPT, "Verdict": None}
    kept = log(tmp_path, event("destroy", detail=KEPT), event("destroy", id="c" * 64, detail=other))
    found = of_the_gone(kept, "web")
    assert found is not None
    assert (found["Id"], found["Verdict"]) == ("c" * 64, None)


def test_without_its_removal_the_end_of_its_run_is_told(tmp_path: Path) -> None:
    attributes = {"exitCode": "137", "verdict": "killed by SIGKILL, sender unknown"}
    kept = log(tmp_path, event("die", attributes=attributes), event("destroy", kind="volume"))
    found = of_the_gone(kept, "web")
    assert found is not None
    assert found["Verdict"]["Sentence"] == "killed by SIGKILL, sender unknown"
    assert (found["Verdict"]["ExitCode"], found["Verdict"]["Cause"]) == (137, "unknown")
    assert found["Verdict"]["Claims"] == [
        {"Claim": "ended with code 137", "Evidence": "event die at 2001-09-09T01:46:40Z"}
    ]
