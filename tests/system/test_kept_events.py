"""Events and verdicts of before: what is known after a SIGKILL of cortend, and of containers that are gone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from support import images
from support.engine import CortenEngine
from support.process import wait_for

IMAGE = images.BUSYBOX_REF


@pytest.fixture(scope="module")
def engine() -> Iterator[CortenEngine]:
    with CortenEngine() as made:
        made.docker("load", "-i", str(images.busybox()), check=True)
        yield made


def told(engine: CortenEngine, since: str, *filters: str) -> list[tuple[str, int]]:
    """Action and time of each container event since then."""
    query = ("--since", since, "--until", f"{time.time():.9f}", "--filter", "type=container", *filters)
    lines = engine.docker("events", *query, "--format", "{{json .}}", check=True).stdout.splitlines()
    return [(found["Action"], found["timeNano"]) for found in map(json.loads, lines)]


def test_events_outlive_a_killed_cortend_in_their_order_and_once(engine: CortenEngine) -> None:
    began = f"{time.time():.9f}"
    engine.docker("run", "--rm", "--name", "early", IMAGE, "sh", "-c", "exit 3")
    wait_for(lambda: len(told(engine, began)) == 5, "its events")
    before = told(engine, began)
    assert [action for action, _ in before] == ["create", "attach", "start", "die", "destroy"]
    engine.kill9()
    engine.start()
    assert told(engine, began) == before
    assert told(engine, began, "--filter", "event=die") == before[3:4]
    assert told(engine, f"{time.time():.9f}") == []


def test_an_end_that_a_killed_cortend_did_not_tell_is_told_by_the_next(engine: CortenEngine) -> None:
    began = f"{time.time():.9f}"
    engine.docker("run", "--name", "untold", IMAGE, "sh", "-c", "exit 3")
    wait_for(lambda: len(told(engine, began)) == 4, "its events")
    engine.kill9()
    kept = engine.data_root / "events"
    lines = kept.read_text().splitlines(keepends=True)
    left = [line for line in lines if not ('"die"' in line and '"untold"' in line)]
    assert len(left) == len(lines) - 1
    kept.write_text("".join(left))
    engine.start()
    actions = [action for action, _ in told(engine, began)]
    assert actions == ["create", "attach", "start", "die"]
    finished = engine.docker("inspect", "-f", "{{.State.FinishedAt}}", "untold", check=True).stdout.strip()
    (shown,) = [
        json.loads(line)["Actor"]["Attributes"]
        for line in engine.docker(
            *("events", "--since", began, "--until", f"{time.time():.9f}", "--filter", "event=die"),
            *("--format", "{{json .}}"), check=True,
        ).stdout.splitlines()
    ]  # fmt: skip
    assert (shown["exitCode"], shown["verdict"]) == ("3", "exited with code 3")
    assert engine.corten("why", "untold", check=True).stdout.startswith(f"untold: exited with code 3 ({finished}")
    engine.docker("rm", "untold", check=True)
    engine.restart()
    assert [action for action, _ in told(engine, began)].count("die") == 1


def test_the_verdict_on_a_container_that_removed_itself_outlives_it_and_cortend(engine: CortenEngine) -> None:
    ident = engine.docker("run", "-d", "--rm", "--name", "gone", IMAGE, "sleep", "600", check=True).stdout.strip()
    engine.docker("kill", "gone", check=True)
    wait_for(lambda: not engine.docker("ps", "-aq", "--no-trunc").stdout, "removal")
    for _ in range(2):
        wait_for(lambda: engine.corten("why", "gone").returncode == 0, "kept event")
        for ref in ("gone", ident, ident[:12]):
            shown = engine.corten("why", ref, check=True).stdout
            assert shown.startswith("gone: removed at 20")
            assert "killed by SIGKILL for " in shown
            assert "waitid of the shim" in shown
            assert "LAST LINES: the log was removed with the container" in shown
        engine.kill9()
        engine.start()
    missing = engine.corten("why", "never-was")
    assert missing.returncode != 0
    assert "No such container: never-was" in missing.stderr


def test_a_container_that_lives_is_not_taken_for_gone_by_a_name_that_it_had(engine: CortenEngine) -> None:
    engine.docker("run", "--name", "first", IMAGE, "true", check=True)
    engine.docker("rename", "first", "second", check=True)
    try:
        assert "No such container: first" in engine.corten("why", "first").stderr
        assert engine.corten("why", "second", check=True).stdout.startswith("second: exited with code 0")
    finally:
        engine.docker("rm", "second", check=True)
