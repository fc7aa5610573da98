"""The log file that callers read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from corten.runtime.log import Log, render
from support import paths


def test_the_last_line_of_a_json_log_is_the_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.json"
    log = Log(str(path), "json", debug_wanted=True)
    log.debug("first")
    log.warning("second")
    log.error('exec: "x": executable file not found in $PATH')
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["level"] for row in rows] == ["debug", "warning", "error"]
    assert rows[-1]["msg"] == 'exec: "x": executable file not found in $PATH'
    assert set(rows[-1]) == {"level", "msg", "time"}
    assert capfd.readouterr().err == 'exec: "x": executable file not found in $PATH\n'


def test_without_a_file_the_line_stands_on_stderr_alone(capfd: pytest.CaptureFixture[str]) -> None:
    Log("", "text", debug_wanted=False).error('a "b"')
    shown = capfd.readouterr().err
    assert shown.endswith('level=error msg="a \\"b\\""\n')
    assert shown.startswith('time="20')


def test_debug_lines_are_written_only_when_wanted(capfd: pytest.CaptureFixture[str]) -> None:
    Log("", "text", debug_wanted=False).debug("x")
    assert not capfd.readouterr().err


def test_a_message_of_several_lines_stays_one_line() -> None:
    assert render("error", "a\nb", "json").count("\n") == 1
    assert render("error", "a\nb", "text").count("\n") == 1


def broken_pipe() -> int:
    """The end for writing of a pipe that nobody reads."""
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    return write_fd


def test_a_log_that_takes_nothing_more_changes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = Log(str(tmp_path / "log"), "text", debug_wanted=True)
    os.close(log.fd)
    log.fd = broken_pipe()
    log.warning("first")
    log.error("last")
    os.close(log.fd)
    assert capfd.readouterr().err == "last\n"


def test_an_exec_that_cannot_start_ends_with_255_though_nobody_reads_stderr(tmp_path: Path) -> None:
    program = "from corten.runtime.main import main; import sys; main(sys.argv)"
    stderr = broken_pipe()
    argv = [sys.executable, "-c", program, "--root", str(tmp_path), "exec", "missing", "true"]
    ended = subprocess.run(
        argv, env={"PYTHONPATH": str(paths.REPOSITORY / "src")}, stderr=stderr, timeout=60, check=False
    )
    os.close(stderr)
    assert ended.returncode == 255
