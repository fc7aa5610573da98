"""What the verbs print: trace rows, tables, the starter bundle, features, ps rows."""

from __future__ import annotations

import json
import termios
from typing import Any

import pytest

from corten.errors import InvalidArgument
from corten.launch import spawn
from corten.launch.ops import JoinCgroup, Plan, Setsid
from corten.runtime import cold, listing, starter, terminal, usage
from corten.runtime import trace as tracing
from corten.spec.runtime import parse_config


def test_a_trace_becomes_rows_with_durations() -> None:
    recorded = tracing.Trace()
    recorded.plan = Plan((Setsid(), JoinCgroup("/x"), Setsid()), ())
    recorded.phase("launch")
    recorded.add([spawn.Started(7), spawn.Step(0, 100), spawn.Step(1, 250)])
    recorded.add([spawn.Step(2, 300)])
    recorded.phase("")
    recorded.end_ns = 1000
    found = tracing.explain(recorded.to_bytes())
    assert [(row["index"], row["op"], row["start_ns"], row["duration_ns"]) for row in found["steps"]] == [
        (1, "setsid", 100, 150),
        (2, "join cgroup /x", 250, 50),
        (3, "setsid", 300, 700),
    ]
    assert [row["name"] for row in found["phases"]] == ["launch"]


def test_a_trace_takes_no_step_that_its_plan_has_not() -> None:
    recorded = tracing.Trace()
    recorded.plan = Plan((Setsid(),), ())
    recorded.add([spawn.Step(7, 100)] + [spawn.Step(0, 100)] * 1000)
    assert {row["op"] for row in tracing.explain(recorded.to_bytes())["steps"]} == {"setsid"}
    assert len(recorded.steps) == 2


def test_the_end_of_a_trace_is_noted() -> None:
    recorded = tracing.Trace()
    recorded.add([spawn.Done()])
    assert recorded.end_ns > 0
    assert tracing.explain(tracing.Trace().to_bytes()) == {"steps": [], "phases": []}


def test_an_empty_table_is_that_of_runc() -> None:
    assert listing.table([]) == "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n"


def test_columns_grow_with_their_cells() -> None:
    row = {"id": "x", "pid": 8430, "status": "running", "bundle": "/a/long/bundle", "created": "now", "owner": "root"}
    header, line = listing.table([row]).splitlines()
    assert header == "ID          PID         STATUS      BUNDLE           CREATED     OWNER"
    assert line == "x           8430        running     /a/long/bundle   now         root"


LISTING = (
    b"UID        PID  PPID CMD\nroot         1     0 init\nroot        12     1 sh -c 7\nroot         7     1 ps\n"
)


def test_rows_of_ps_are_chosen_by_pid() -> None:
    assert cold.rows_of(LISTING, {12}) == b"UID        PID  PPID CMD\nroot        12     1 sh -c 7\n"
    with pytest.raises(InvalidArgument, match="PID"):
        cold.rows_of(b"CMD\nx\n", {1})


@pytest.mark.parametrize("row", [b"sh -c 7", b"sh"])
def test_a_row_of_ps_whose_columns_cannot_be_told_apart_is_refused(row: bytes) -> None:
    """A process chooses its own words, and they come before its number here."""
    with pytest.raises(InvalidArgument, match=r"unable to parse pid: '(-c)?' in ps output"):
        cold.rows_of(b"COMMAND PID\n" + row + b"\n", {1})


@pytest.mark.parametrize("make", [starter.document, starter.rootless])
def test_the_starter_bundle_can_be_parsed(make: object) -> None:
    assert callable(make)
    config = parse_config(json.loads(json.dumps(make())))
    assert config.process is not None
    assert config.process.args == ("sh",)


def test_the_first_line_of_the_version_is_what_callers_parse() -> None:
    assert usage.version().startswith("corten-runtime version ")


def test_a_raw_terminal_echoes_nothing_and_its_signals_are_bytes() -> None:
    before: list[Any] = [0xFFFFFFFF] * 4 + [0, 0, [b"\0"] * 32]
    changed = terminal.raw(before)
    assert not changed[3] & (termios.ECHO | termios.ICANON | termios.ISIG)
    assert not changed[0] & termios.ICRNL
    assert changed[6][termios.VMIN] == 1
    assert before[0] == 0xFFFFFFFF
    assert before[6][termios.VMIN] == b"\0"
