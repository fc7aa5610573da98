"""Fixtures that every test may ask for, what a run prints, and the check at its end that nothing is left.

The order of the tests, and how they run in streams: `support.streams`.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import abandoned, images, netns, paths, peers, process, streams, summary, testrun
from support.dockerd import Dockerd
from support.engine import CortenEngine

TESTS = Path(__file__).parent
STARTED = pytest.StashKey[float]()
DYING_SECONDS = 60  # that what was killed may take to be gone
NEED_ROOT = frozenset(streams.ROOMS) - {"unit", "golden", "fuzz"}


# The run as a whole.


def pytest_configure(config: pytest.Config) -> None:
    """The order of the tests, and streams."""
    streams.register(config, TESTS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs root is skipped with its reason for anybody else."""
    for item in items:
        if room(item) in NEED_ROOT and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root: namespaces, mounts, cgroups"))


def room(item: pytest.Item) -> str:
    """The folder below tests/ in which a test stands."""
    return item.path.relative_to(TESTS).parts[0]


def pytest_report_header() -> list[str]:
    """Kernel, cgroup form and the peers that are fetched already."""
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    form = "v2" if unified else "hybrid" if Path("/sys/fs/cgroup/unified").exists() else "v1"
    found = ", ".join(f"{name} {version}" for name, version in peers.versions().items())
    docker = subprocess.run([peers.docker_cli(), "--version"], check=False, stdout=subprocess.PIPE, text=True).stdout
    return [f"kernel {os.uname().release}, cgroup {form}", f"peers: {found or 'not fetched'}; {docker.strip()}"]


def pytest_sessionstart(session: pytest.Session) -> None:
    """Notes when the run began."""
    session.config.stash[STARTED] = time.monotonic()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what tests reported through support.summary, and what this run was."""
    for title, lines in summary.sections().items():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)
    config = terminalreporter.config
    counts = {kind: len(reports) for kind, reports in terminalreporter.stats.items()}
    terminalreporter.section("seconds of each folder in order, of the slowest files and tests")
    reports = [one for some in terminalreporter.stats.values() for one in some if hasattr(one, "duration")]
    reports.sort(key=lambda report: report.start)
    for line in testrun.times((report.nodeid, report.duration) for report in reports):
        terminalreporter.write_line(line)
    terminalreporter.section("this run, for docs/test-runs.md")
    run = testrun.this_run(config.invocation_params.args, counts, time.monotonic() - config.stash[STARTED])
    terminalreporter.write_line(run.line())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """A failed test shows the end of the log of every daemon that it was given."""
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, CortenEngine | Dockerd):
                report.sections.append((f"log of {name}", value.log_tail()))
    return report


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Fails the run when something with this process's mark outlives it."""
    if os.geteuid() == 0:
        with peers.locked(paths.cache()):  # one stream removes, the others find nothing
            abandoned.remove()
    yield
    end = time.monotonic() + DYING_SECONDS
    while (left := leftovers(paths.mark())) and time.monotonic() < end:
        time.sleep(0.1)
    assert not left, "left at the end of the run:\n" + "\n".join(left)


def leftovers(mark: str) -> list[str]:
    """Processes, mounts, cgroups, network namespaces and folders with `mark` in their names."""
    found = [f"process {pid}" for pid in {*process.processes(mark), *process.holders(mark)}]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [f"mount {line.split()[4]}" for line in mounts if mark in line]
    found += [f"cgroup {path}" for path in process.cgroups_named(mark)]
    found += [f"netns {path.name}" for path in netns.RUN.glob(f"{mark}*")]
    found += [f"folder {path}" for path in Path("/tmp").glob(f"{mark}*")]
    return found


# Engines and peers.


@pytest.fixture(scope="session")
def dockerd() -> Iterator[Dockerd]:
    """dockerd 26.1, the reference for answers and texts, with runc and crun, and the busybox image loaded."""
    with Dockerd("26.1", runtimes={"crun": peers.crun_for_hybrid()}) as daemon:
        daemon.docker("load", "-i", str(images.busybox()), check=True)
        yield daemon


@pytest.fixture(scope="session")
def dockerd_20() -> Iterator[Dockerd]:
    """dockerd 20.10, the speed peer, with the busybox image loaded."""
    with Dockerd("20.10", runtimes={"crun": peers.crun_for_hybrid()}) as daemon:
        daemon.docker("load", "-i", str(images.busybox()), check=True)
        yield daemon


@pytest.fixture(scope="session")
def shared_engine() -> Iterator[CortenEngine]:
    """One Corten engine for all tests that leave it as they found it, with runc and crun, and the busybox image."""
    runtimes = {"runc": {"path": str(peers.binary("runc"))}, "crun": {"path": str(peers.crun_for_hybrid())}}
    with CortenEngine(config={"runtimes": runtimes}) as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        yield engine


@pytest.fixture
def engine() -> Iterator[CortenEngine]:
    """A Corten engine for one test, with the busybox image loaded."""
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        yield engine


@pytest.fixture
def make_engine() -> Iterator[Callable[..., CortenEngine]]:
    """Makes empty engines with the arguments of CortenEngine; all are destroyed after the test."""
    made: list[CortenEngine] = []

    def make(**options: Any) -> CortenEngine:
        made.append(CortenEngine(**options))
        return made[-1]

    yield make
    left = [text for engine in made for text in engine.destroy()]
    assert not left, f"cortend --destroy left: {left}"
