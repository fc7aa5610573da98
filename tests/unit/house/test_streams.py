"""The gate runs in streams: who may run beside whom, and what comes of it is printed as by one process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import paths, streams
from support.streams import Order

CONFTEST = """
import os, time
from pathlib import Path
import pytest
from support import killpoints, streams, summary

TESTS = Path(__file__).parent
ORDER = streams.Order(rooms=("quick", "many", "lonely"), fast=("quick",), long=("many/test_z.py",), alone=("lonely",))

def pytest_configure(config):
    streams.register(config, TESTS, ORDER)

def pytest_terminal_summary(terminalreporter):
    for title, lines in summary.sections().items():
        for line in lines:
            terminalreporter.write_line(f"{title}: {line}")

def note(text):
    with (TESTS / "log").open("a") as log:
        log.write(f"{text} {time.monotonic()} {os.getpid()}\\n")

@pytest.fixture(scope="module", autouse=True)
def stay(request):
    note(f"begin {request.path.relative_to(TESTS)}")
    yield
    time.sleep(0.2)
    note(f"end {request.path.relative_to(TESTS)}")

@pytest.fixture
def note_seed():
    summary.add("seed", str(killpoints.seed()))
"""
MEET = """
import time
from pathlib import Path

def test_meets_the_other(note_seed):
    Path(__file__ + ".here").touch()
    end = time.monotonic() + 60
    while not Path(__file__).with_name("OTHER.py.here").exists():
        assert time.monotonic() < end, "nothing runs beside this file"
        time.sleep(0.01)
"""
SHORT = """
import time

def test_a(note_seed):
    time.sleep(0.1)

def test_b(note_seed):
    time.sleep(0.1)
"""
FAILS = """
from support import summary

def test_fails():
    summary.add("said", "before it failed")
    print("its output")
    assert 1 == 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tests for streams: two that must run at the same time, three files that must run alone, a failure."""
    made = tmp_path_factory.mktemp("streams")
    files = {
        "conftest.py": CONFTEST,
        "quick/test_q.py": SHORT,
        "many/test_a.py": MEET.replace("OTHER", "test_z"),
        "many/test_b.py": FAILS,
        "many/test_z.py": MEET.replace("OTHER", "test_a"),
        **{f"lonely/test_{name}.py": SHORT for name in "lmn"},
    }
    for name, text in files.items():
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).write_text(text)
    return made


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """pytest over the folder, as by make."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "CORTEN_TEST_SEED"))}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(folder)]
    return subprocess.run(
        [*command, "--import-mode=importlib", *options, str(folder)],
        check=False,
        env=kept | {"PYTHONPATH": f"{paths.REPOSITORY / 'src'}:{paths.REPOSITORY / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=90,
    )


@pytest.fixture(scope="module")
def done(folder: Path) -> Iterator[subprocess.CompletedProcess[str]]:
    """A run in the streams that make asks for."""
    makefile = (paths.REPOSITORY / "Makefile").read_text()
    found = re.search(r"^IN_STREAMS := -n \$\(STREAMS\) (.*)$", makefile, re.M)
    assert found
    assert makefile.count("$(PYTEST) $(IN_STREAMS)") == 2
    before = ended_runs_locks()
    yield run(folder, "-n", "2", *found[1].split(), "-k", "not test_b or test_fails")
    assert ended_runs_locks() <= before, "a lock was left"


def ended_runs_locks() -> set[Path]:
    """Folders of locks whose run is over."""
    found = Path("/tmp").glob(f"{paths.PREFIX}*-streams-*")
    return {path for path in found if not Path("/proc", path.name.removeprefix(paths.PREFIX).split("-")[0]).exists()}


def stays(folder: Path) -> list[tuple[float, float, str]]:
    """Begin, end and name of each file, in the order of their begins."""
    begins: dict[str, float] = {}
    found = []
    for line in (folder / "log").read_text().splitlines():
        what, name, when, _ = line.split()
        if what == "begin":
            begins[name] = float(when)
        else:
            found.append((begins.pop(name), float(when), name))
    return sorted(found)


def test_files_run_beside_each_other_and_those_that_must_not_do_not(
    folder: Path, done: subprocess.CompletedProcess[str]
) -> None:
    assert "nothing runs beside" not in done.stdout, done.stdout
    found = stays(folder)
    assert len(found) == 7, done.stdout
    for begin, end, name in found:
        beside = [other for start, stop, other in found if start < end and begin < stop and other != name]
        assert not (name.startswith("lonely") and beside), f"{name} beside {beside}"


def test_a_long_file_begins_before_its_shorter_neighbours(folder: Path, done: subprocess.CompletedProcess[str]) -> None:
    names = [name for _, _, name in stays(folder)]
    assert set(names[:2]) == {"quick/test_q.py", "many/test_z.py"}, done.stdout


def test_the_run_prints_what_its_streams_report_and_fails_when_a_test_did(
    done: subprocess.CompletedProcess[str],
) -> None:
    assert done.returncode == 1
    assert "said: before it failed" in done.stdout
    assert "its output" in done.stdout
    assert "assert 1 == 2" in done.stdout
    assert len(re.findall(r"^seed: \d+$", done.stdout, re.M)) == 1, "streams with seeds of their own"
    assert re.match(r"=+ 1 failed, 6 passed, 4 deselected in .* =+$", done.stdout.splitlines()[-1])


def test_without_streams_a_run_goes_room_by_room(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for name in ("lonely/test_a.py", "many/test_z.py", "quick/test_q.py", "many/test_b.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(SHORT)
    alone = run(tmp_path)
    assert alone.returncode == 0, alone.stdout
    names = [name for _, _, name in stays(tmp_path)]
    assert names == ["quick/test_q.py", "many/test_b.py", "many/test_z.py", "lonely/test_a.py"]


def test_a_failure_is_named_when_it_happens(done: subprocess.CompletedProcess[str]) -> None:
    lines = done.stdout.splitlines()
    named = next(number for number, line in enumerate(lines) if line == "failed in call: many/test_b.py::test_fails")
    assert named < next(number for number, line in enumerate(lines) if "FAILURES" in line)


@pytest.mark.parametrize("name", [*streams.LONG, *streams.ALONE])
def test_what_the_order_names_exists(name: str) -> None:
    assert (paths.REPOSITORY / "tests" / name).exists()


def test_every_room_of_the_tests_has_its_place() -> None:
    folders = {
        path.parent.relative_to(paths.REPOSITORY / "tests") for path in paths.REPOSITORY.glob("tests/*/**/test_*.py")
    }
    assert {folder.parts[0] for folder in folders} <= set(streams.ROOMS)


def test_fast_before_long_before_others_before_lonely() -> None:
    order = Order(rooms=("u", "s", "f"), fast=("u",), long=("f/b.py", "s/c.py"), alone=("f/deep", "s/a.py"))
    files = [Path(name) for name in ("s/a.py", "s/c.py", "s/x.py", "f/b.py", "f/y.py", "f/deep/z.py", "u/q.py")]
    names = [file.as_posix() for file in sorted(files, key=order.in_streams)]
    assert names == ["u/q.py", "f/b.py", "s/c.py", "s/x.py", "f/y.py", "s/a.py", "f/deep/z.py"]
