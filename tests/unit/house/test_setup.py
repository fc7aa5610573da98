"""`make setup` when nothing changed: it looks, and starts nothing that makes anything."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from support import paths

# What set-up needs to see that nothing changed.  apt, dpkg, pip, python and cc are not among them.
LOOKING = frozenset(
    ("make", "sh", "dash", "setup.sh", "mkdir", "flock", "cat", "ls", "sha256sum", "cut", "find", "dirname")
)
WATCHED = (".venv", "build", "src")
LOCK = "build/.setup.lock"  # opened for writing by every run


def times() -> dict[str, int]:
    """Path: time of last change in ns, of everything that set-up makes or compiles."""
    found = [path for top in WATCHED for path in (paths.REPOSITORY / top).rglob("*")]
    names = {str(path.relative_to(paths.REPOSITORY)): path for path in found if not path.is_symlink()}
    return {name: path.stat().st_mtime_ns for name, path in names.items() if name != LOCK}


def programs(target: str, folder: Path) -> list[str]:
    """The names of all programs that `make TARGET` started, itself included."""
    trace = folder / "execve"
    strace = ["strace", "-f", "-qq", "-e", "trace=execve", "-e", "signal=none", "-o", str(trace)]
    done = subprocess.run(
        [*strace, "make", "--no-print-directory", target],
        check=False,
        cwd=paths.REPOSITORY,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stdout, "set-up said something"
    return re.findall(r'execve\("(?:[^"]*/)?([^"/]+)"(?!.* = -1)', trace.read_text())  # a call may be "unfinished"


@pytest.mark.parametrize("target", ["setup", "setup-dev"])
def test_set_up_is_quick_when_nothing_changed(target: str, tmp_path: Path) -> None:
    subprocess.run(["make", target], check=True, cwd=paths.REPOSITORY, capture_output=True, timeout=100)
    before = times()
    started = programs(target, tmp_path)
    assert {"make", "setup.sh", "sha256sum", "find"} <= set(started), "what it looks with was not seen"
    assert not set(started) - LOOKING
    assert len(started) < 25
    after = times()
    assert {name for name in before | after if before.get(name) != after.get(name)} == set()
