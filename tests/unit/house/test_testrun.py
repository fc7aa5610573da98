"""The line that a run prints for docs/test-runs.md."""

from __future__ import annotations

import datetime
import re

import pytest

from support import paths, testrun
from support.testrun import Run

ENDED = datetime.datetime(2026, 11, 22, 10, 9, tzinfo=datetime.UTC)


def test_a_line_has_date_commit_command_seed_counts_duration_and_machine() -> None:
    counts = {"": 9, "skipped": 1, "passed": 3988, "warnings": 4}
    run = Run(ENDED, "343837b", "make test", "1234", counts, 706.4, "Debian 12, kernel 6.18.44, 2 cores")
    assert run.line() == (
        "| 2026-11-22 10:09 | 343837b | `make test` | 1234 | 3988 passed, 1 skipped | 11 min 46 s "
        "| Debian 12, kernel 6.18.44, 2 cores |"
    )


def test_failures_and_errors_stand_in_the_line() -> None:
    run = Run(ENDED, "343837b+", "pytest", "", {"failed": 1, "error": 2}, 5, "here")
    assert "| none | 1 failed, 2 error | 0 min 05 s |" in run.line()


def test_the_command_is_makes_target_or_pytests_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(testrun.COMMAND_VARIABLE, raising=False)
    run = testrun.this_run(["-p", "no:cacheprovider", "-m", "not slow", "tests"], {"passed": 1}, 1)
    assert run.command == "pytest -m 'not slow' tests"
    monkeypatch.setenv(testrun.COMMAND_VARIABLE, "make test-all")
    assert testrun.this_run([], {}, 1).command == "make test-all"
    assert re.fullmatch(r"[0-9a-f]{7,}\+?|no commit", run.commit)


def test_the_table_of_the_page_has_the_columns_of_the_line() -> None:
    page = (paths.REPOSITORY / "docs" / "test-runs.md").read_text()
    header = "| date | commit | command | seed | counts | duration | machine |"
    assert header in page
    rows = page[page.index(header) :].splitlines()[2:]
    assert rows
    columns = Run(ENDED, "c", "x", "", {}, 0, "m").line().count(" | ")
    assert {row.count(" | ") for row in rows if row.startswith("|")} == {columns}


def test_folders_stand_in_the_order_of_the_run_and_the_slowest_files_and_tests_below() -> None:
    files = [(f"tests/system/test_{number}.py::test_it[a::b]", 10.0 + number) for number in range(11)]
    spent = [("tests/unit/core/test_a.py::test_b", 0.5), *files, ("tests/unit/core/test_a.py::test_c", 30.2)]
    lines = testrun.times(spent)
    assert lines[0] == "unit 31, system 165"
    assert lines[1:3] == ["    31  unit/core/test_a.py", "    20  system/test_10.py"]
    assert lines[11] == "    30  unit/core/test_a.py::test_c"
    assert len(lines) == 1 + 10 + 1
    assert not any("test_1.py" in line for line in lines)


def test_a_run_of_nothing_has_no_seconds() -> None:
    assert testrun.times([]) == ["nothing ran"]
