"""`make release-check`: only code that a whole, green, recorded run was of may be released."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support import paths

TOOL = paths.REPOSITORY / "tools" / "release_check.py"
HEAD = "| date | commit | command | seed | counts | duration | machine |\n|--|--|--|--|--|--|--|\n"
GREEN = "5208 passed, 10 skipped"


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.invalid")
    argv = ["git", "-C", str(folder), "-c", "safe.directory=*", *identity, *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def row(
    commit: str,
    command: str = "`make test-all`",
    counts: str = GREEN,
    seed: str = "592030",
    duration: str = "43 min 10 s, beside another",
) -> str:
    return f"| 2026-11-22 10:00 | {commit} | {command} | {seed} | {counts} | {duration} | here |\n"


def record(folder: Path, *rows: str) -> None:
    (folder / "docs/test-runs.md").write_text(HEAD + "".join(rows))


def check(folder: Path) -> tuple[int, str]:
    argv = [sys.executable, "-I", str(TOOL), str(folder)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in ("launcher/main.c", "src/corten/runtime/main.py", "src/corten/engine/engine.py", "docs/test-runs.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "one")
    record(tmp_path, row(git(tmp_path, "rev-parse", "--short", "HEAD")))
    git(tmp_path, "commit", "-q", "-a", "-m", "record the run")
    return tmp_path


def test_what_was_tested_may_be_released(repository: Path) -> None:
    watched = "launcher, src/corten/launch, src/corten/runtime, src/corten/spec, src/corten/sys, src/corten/errors.py"
    assert check(repository) == (0, f"release-check: {watched} are what `make test-all` last ran of\n")


def test_a_change_elsewhere_is_none(repository: Path) -> None:
    (repository / "src/corten/engine/engine.py").write_text("2\n")
    git(repository, "commit", "-q", "-a", "-m", "two")
    assert check(repository)[0] == 0


@pytest.mark.parametrize(
    "name",
    [
        *("launcher/main.c", "launcher/ops_new.c", "src/corten/launch/compile.py", "src/corten/runtime/main.py"),
        *("src/corten/spec/new.py", "src/corten/sys/mount.py", "src/corten/errors.py"),
    ],
)
@pytest.mark.parametrize("committed", [True, False])
def test_a_change_since_is_named(repository: Path, name: str, committed: bool) -> None:
    (repository / name).parent.mkdir(exist_ok=True)
    (repository / name).write_text("2\n")
    if committed:
        git(repository, "add", "-A")
        git(repository, "commit", "-q", "-m", "two")
    status, text = check(repository)
    assert status == 1
    assert text.splitlines()[1:] == [name]


def test_the_last_green_whole_run_counts(repository: Path) -> None:
    tested = git(repository, "rev-parse", "--short", "HEAD")
    (repository / "launcher/main.c").write_text("2\n")
    git(repository, "commit", "-q", "-a", "-m", "two")
    now = git(repository, "rev-parse", "--short", "HEAD")
    others = (row(now, counts="5207 passed, 1 failed; mended since: a text"), row(now, counts="9 passed, 1 error"))
    parts = (row(now, command="the slow half of `make test-all` (`-m slow`)"), row(now, command="`make test`"))
    record(repository, row(tested), *others, *parts)
    assert check(repository)[0] == 1
    record(repository, row(tested), *others, *parts, row(now))
    assert check(repository)[0] == 0


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ((), "no run of `make test-all` without a failure (runs with failures: 0)"),
        ((row("1234567", counts="1 failed"),), "no run of `make test-all` without a failure (runs with failures: 1)"),
        ((row("1234567"),), "was of 1234567, which this repository does not have"),
        ((row("1234567+"),), "does not tell its commit: '1234567+'"),
        ((row("1234567", seed="not noted"),), "does not tell its seed: 'not noted'"),
        ((row("1234567", duration=""),), "does not tell its duration: ''"),
        ((row("1234567", counts="all passed"),), "does not tell its counts: 'all passed'"),
    ],
)
def test_a_record_of_something_else_is_none(repository: Path, rows: tuple[str, ...], reason: str) -> None:
    record(repository, *rows)
    status, text = check(repository)
    assert status == 1
    assert reason in text


def test_a_later_run_of_the_same_code_that_failed_counts_more(repository: Path) -> None:
    tested = git(repository, "rev-parse", "--short", "HEAD")
    record(repository, row(tested), row(tested, counts="5207 passed, 1 failed"))
    status, text = check(repository)
    assert status == 1
    assert "was of the same code, and failed: 5207 passed, 1 failed" in text


def test_the_pages_own_table_is_read() -> None:
    done = subprocess.run([sys.executable, "-I", str(TOOL)], check=False, capture_output=True, text=True)
    said = {0: done.stdout, 1: done.stderr}[done.returncode]
    assert said.startswith("release-check: ")


def test_make_has_a_target_for_it() -> None:
    assert "release-check:" in (paths.REPOSITORY / "Makefile").read_text()
