"""`make setup` when nothing changed: it looks, and starts nothing that makes anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
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


# An interpreter that says it is another one, in place of every one that set-up looks for.
ANOTHER = """\
#!{python}
import sys
sys.version_info, sys.abiflags = {version}, {flags!r}
exec(sys.argv[-1])
"""


@pytest.mark.parametrize(
    ("version", "flags", "is_fit"),
    [
        ((3, 10, 12), "", False),
        ((3, 11, 2), "", True),
        ((3, 13, 5), "", True),
        ((3, 13, 5), "t", False),
        ((3, 14, 0), "", False),
    ],
    ids=str,
)
def test_set_up_takes_the_versions_that_corten_was_tested_with_and_refuses_others_in_one_line(
    version: tuple[int, ...], flags: str, is_fit: bool, tmp_path: Path
) -> None:
    script = (paths.REPOSITORY / "tools" / "setup.sh").read_text()
    function = script[script.index("fail() {") : script.index("stale_bytecode()")]
    fake = tmp_path / "python"
    fake.write_text(ANOTHER.format(python=os.path.realpath(sys.executable), version=version, flags=flags))
    fake.chmod(0o755)
    only = re.sub(r"(?<=for candidate in ).*(?=; do)", str(fake), function)
    assert only != function
    done = subprocess.run(["sh", "-c", f"{only}\ninterpreter"], check=False, capture_output=True, text=True, timeout=30)
    if is_fit:
        assert (done.returncode, done.stdout) == (0, os.path.realpath(sys.executable))
    else:
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "setup: no python3 of version 3.11, 3.12 or 3.13\n"
