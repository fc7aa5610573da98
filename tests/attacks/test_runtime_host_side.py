"""Nothing of a container's root filesystem is opened, loaded or executed by the runtime itself (field.md, D8).

moby 2019-14271 and 2026-41567, podman 2022-1227: a library or a program of the image was run as the host's root.
strace(1) shows every file that the runtime's Python opens; from the moment at which a process executes the launcher,
its files are the container's.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import paths, runtimes, weakened_corten
from support.runtimes import Bundle
from support.weakened import Edit

CALL = re.compile(r"^(\d+) +(\w+)\((.*)$")
CHILD = re.compile(r"^(\d+) +(?:<\.\.\. )?(?:clone3?|v?fork)(?:\(.*| resumed>.*) = (\d+)$")
FILES = "open,openat,openat2,execve,execveat,clone,clone3,fork,vfork"
# a runtime that looks a user up in the container's own files, with its own libraries
READS_ACCOUNTS: tuple[Edit, ...] = (
    (
        "runtime/prepare.py",
        '        raise NotFound(f"invalid rootfs: stat {path}: {files.why(error)}") from error\n',
        '        raise NotFound(f"invalid rootfs: stat {path}: {files.why(error)}") from error\n'
        '    files.read(f"{path}/etc/passwd")\n',
    ),
)


@pytest.fixture
def bundle() -> Iterator[Bundle]:
    with runtimes.folder_of_containers("hostside") as folder:
        yield runtimes.bundle("true", folder=folder)


def opened_by_python(lines: list[str]) -> list[str]:
    """What processes opened or executed before they were launchers."""
    calls = [call for line in lines if (call := CALL.match(line))]
    launchers = {call[1] for call in calls if is_launcher(call)}
    assert launchers, "the launcher was not seen"
    inside = {made[2] for line in lines if (made := CHILD.match(line)) and made[1] in launchers}
    inside |= {made[2] for line in lines if (made := CHILD.match(line)) and made[1] in inside}
    found = []
    for call in calls:
        if is_launcher(call):
            inside.add(call[1])
        elif call[1] not in inside:
            found.append(call[3])
    return found


def is_launcher(call: re.Match[str]) -> bool:
    """It executes a sealed memfd."""
    return call[2].startswith("execve") and "/proc/self/fd/" in call[3]


def trace(command: Path, bundle: Bundle, *words: str) -> list[str]:
    """The files of one `run`."""
    out = bundle.path / "strace"
    argv = [
        "strace",
        "-f",
        "-qq",
        "-s",
        "400",
        "-e",
        f"trace={FILES}",
        "-e",
        "signal=none",
        "-o",
        str(out),
        str(command),
    ]
    argv += ["--root", str(bundle.path / "state"), "run", "-b", str(bundle.path), *words, "C"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return opened_by_python(out.read_text().splitlines())


class TestFiles:
    """What the runtime opens."""

    def test_are_never_those_of_the_root_filesystem(self, bundle: Bundle) -> None:
        files = trace(paths.COMMANDS / "corten-runtime", bundle)
        assert any("config.json" in file for file in files)
        assert [file for file in files if "rootfs/" in file] == []

    def test_twin_a_runtime_that_reads_its_accounts_is_seen(self, bundle: Bundle) -> None:
        with weakened_corten.build(*READS_ACCOUNTS) as weak:
            files = trace(weak.commands / "corten-runtime", bundle)
        assert any("rootfs/etc/passwd" in file for file in files)


class TestModules:
    """Python imports late, and would import what lies in the directory that it is started in."""

    @pytest.fixture
    def planted(self, bundle: Bundle) -> Path:
        """A root filesystem with a module for every one of Python's, and of ours; returns the file that they write."""
        marker = bundle.path / "marker"
        rootfs = bundle.path / "rootfs"
        for name in {*sys.stdlib_module_names, "corten", "sitecustomize", "usercustomize"}:
            (rootfs / f"{name}.py").write_text(f"open({str(marker)!r}, 'a').write('{name} ')\nraise ImportError\n")
        return marker

    def run(self, command: Path, bundle: Bundle) -> None:
        argv = [str(command), "--root", str(bundle.path / "state"), "run", "-b", str(bundle.path), "C"]
        cwd = bundle.path / "rootfs"
        subprocess.run(argv, cwd=cwd, capture_output=True, timeout=60, stdin=subprocess.DEVNULL, check=False)

    def test_of_the_current_directory_are_not_imported(self, bundle: Bundle, planted: Path) -> None:
        self.run(paths.COMMANDS / "corten-runtime", bundle)
        assert not planted.exists()

    def test_twin_a_program_that_looks_there_first_is_taken_over(self, bundle: Bundle, planted: Path) -> None:
        with weakened_corten.build() as weak:
            program = weak.commands / "corten-runtime"
            first, rest = program.read_text().split("\n", 1)
            program.write_text(f"{first}\nimport sys\nsys.path.insert(0, '')\n{rest}")
            self.run(program, bundle)
        assert planted.exists()
