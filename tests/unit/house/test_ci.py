"""`.ci/run`: what it calls, with which environment, and what comes of it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from support import paths

SCRIPT = paths.REPOSITORY / ".ci" / "run"


def test_it_calls_make_test_with_ci_set_and_gives_its_status(tmp_path: Path) -> None:
    make = tmp_path / "make"
    make.write_text('#!/bin/sh\necho "$CI $PWD $*"\nexit 7\n')
    make.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([SCRIPT], check=False, cwd="/", env=environment, capture_output=True, text=True, timeout=20)
    assert done.stdout == f"1 {paths.REPOSITORY} --no-print-directory test\n"
    assert done.returncode == 7


def run(tests: str) -> subprocess.CompletedProcess[str]:
    """The real one, with few tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "MAKE", "MFLAGS"))}
    return subprocess.run(
        [SCRIPT, f"TESTS={tests}"], check=False, env=kept, capture_output=True, text=True, timeout=110
    )


def test_a_green_gate_ends_in_pytests_summary() -> None:
    done = run("tests/unit/house/test_testrun.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^=+ \d+ passed.* in [\d.]+s.* =+$", done.stdout.splitlines()[-1])
    assert "`make test`" in done.stdout


def test_a_gate_that_is_not_green_fails() -> None:
    done = run("tests/unit/house/test_testrun.py -k nothing_of_this_name")
    assert done.returncode != 0
    assert " deselected" in done.stdout.splitlines()[-1]
