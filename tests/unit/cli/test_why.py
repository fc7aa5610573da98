"""What `corten why` prints."""

from __future__ import annotations

import pytest

from corten.cli.why import print_answer

ANSWER = {
    "Name": "/box", "Status": "exited", "StartedAt": "t0", "Now": None, "LastLines": None, "LogError": "",
    "Verdict": {
        "Sentence": "killed by SIGKILL, sender unknown", "At": "t1",
        "Claims": [{"Claim": "sender: unknown", "Evidence": "no \x1b[2Jsignal"}],
    },
}  # fmt: skip


def test_the_sentence_comes_first_then_the_evidence(capsys: pytest.CaptureFixture[str]) -> None:
    print_answer(ANSWER)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "box: killed by SIGKILL, sender unknown (t1)"
    assert lines[2].split() == ["CLAIM", "EVIDENCE"]
    assert lines[3].endswith("no \\x1b[2Jsignal")


def test_a_run_that_goes_on_is_counted_and_the_one_before_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    victim = {"Name": "tail", "Pid": 4, "Uid": 0, "Sequence": 9}
    now = {
        "Memory": {"OomKills": 1, "Limit": 64, "Peak": 60, "Victims": [victim]},
        "Processes": {"Refused": 0, "Limit": -1, "Peak": -1},
    }
    print_answer({**ANSWER, "Status": "running", "Now": now, "LastLines": ["a\tb", "\x07"]})
    shown = capsys.readouterr().out
    assert "box: running since t0\n  killed for want of memory: 1 (peak 60, limit 64 bytes)\n" in shown
    assert "tail (pid 4, uid 0): kernel log, record 9" in shown
    assert "processes refused: 0 (no limit)" in shown
    assert "box: its last run: killed by" in shown
    assert shown.endswith("LAST LINES\n  a\\tb\n  \\x07\n")


def test_what_has_no_limit_is_counted_in_bytes_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    now = {
        "Memory": {"OomKills": 0, "Limit": -1, "Peak": 60, "Victims": []},
        "Processes": {"Refused": 0, "Limit": 500, "Peak": 3},
    }
    print_answer({**ANSWER, "Status": "running", "Now": now})
    shown = capsys.readouterr().out
    assert "  killed for want of memory: 0 (peak 60 bytes, no limit)\n" in shown
    assert "  processes refused: 0 (peak 3, limit 500)\n" in shown


def test_what_never_ran_and_what_has_no_log_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_answer({**ANSWER, "Status": "created", "Verdict": None, "LogError": "no such driver"})
    assert capsys.readouterr().out == "box: created; it has never run\n\nLAST LINES: no such driver\n"


def test_of_a_container_that_is_gone_its_removal_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    gone = {**ANSWER, "Status": "removed", "RemovedAt": "t2", "LogError": "the log was removed with the container"}
    print_answer(gone)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["box: removed at t2", "box: killed by SIGKILL, sender unknown (t1)"]
    print_answer({**gone, "Verdict": None})
    assert capsys.readouterr().out.startswith("box: removed at t2; it has never run\n")
