"""A run in streams: `pytest -n 2 --dist loadfile --no-loadscope-reorder` (pytest-xdist), as `make test` does it.

Each stream is a process of its own that takes one file after the other, whole, from one list; the run's own process
prints what they report.  What is added here:

- the order of the list: the fast rooms, the long files, all others, then those that need the machine for themselves;
- these run one at a time: a stream holds a lock while it is in a file, shared, or alone for a file of `ALONE`;
- one seed of kill points for all streams; the lines of `support.summary` and the count of deselected tests come from
  them to the run's own process, which prints them.

A run without streams (pytest of some files by hand) keeps the plain order, and locks nothing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support import killpoints, paths, summary

ROOMS = ("unit", "golden", "fuzz", "conformance", "system", "clients", "peers", "attacks", "faults")
FAST = ("unit", "golden")
KEY = "corten"  # of what the run's own process and its streams tell each other
Protocol = Generator[None, object, object]  # around pytest's run of one test

# More than half a minute each, the longest first: what is long and begins late keeps one stream waiting for the other.
LONG = (
    "clients/test_compare.py",
    "clients/test_corten_same.py",
    "conformance/oci/test_validation.py",
    "peers/test_runtime_services.py",
    "faults/test_full_disk.py",
    "faults/test_leaks_of_lives.py",
    "faults/test_kill_cortend.py",
    "faults/test_kill_plans.py",
    "system/test_engine_recovery.py",
    "system/test_engine_stalls.py",
    "system/test_engine_slow_disk.py",
    "system/test_shim_keeper.py",
    "peers/test_runtime_sameness.py",
    "peers/test_runtime_podman.py",
    "peers/test_runtime_dockerd.py",
    "peers/test_runtime_podman_rootless.py",
    "peers/test_runtime_dockerd_settings.py",
    "peers/test_runtime_containerd_tasks.py",
    "system/test_engine_v2.py",
    "system/test_runtime_v2.py",
    "system/test_systemd_v2.py",
    "faults/test_kill_shim.py",
    "fuzz/test_launcher.py",
)

# What measures the machine, or loads it beyond measure: files and folders, with the reason.
_RACES = "it goes on until a window is met; on a busy machine that takes many more rounds"
ALONE: Mapping[str, str] = {
    "system/test_demo.py": "it compares the machine before and after",
    "system/test_network_cost.py": "it has a budget of milliseconds",
    "attacks/test_images.py": _RACES,
    "attacks/test_layers.py": _RACES,
    "attacks/test_own_binary.py": _RACES,
    "attacks/test_runtime_paths.py": _RACES,
    "attacks/test_runtime_remount.py": _RACES,
    "attacks/test_visible_process.py": _RACES,
    "faults/test_adoption.py": "fifty containers at once",
    "faults/test_leak_checker.py": "it says how long a snapshot of the machine takes",
    "faults/test_storm.py": "eight clients who start containers without a pause",
}


@dataclass(frozen=True, slots=True)
class Order:
    """Which file comes when.  Paths are relative to the folder of the tests."""

    rooms: Sequence[str] = ROOMS
    fast: Sequence[str] = FAST
    long: Sequence[str] = LONG
    alone: Sequence[str] = tuple(ALONE)

    def plain(self, file: Path) -> int:
        """The place of a file in a run without streams: its room's."""
        return self.rooms.index(file.parts[0])

    def in_streams(self, file: Path) -> tuple[int, int, int]:
        """The place of a file in a run of several streams."""
        room = self.plain(file)
        if self.is_alone(file):
            return 3, 0, room
        if file.parts[0] in self.fast:
            return 0, 0, room
        name = file.as_posix()
        return (1, self.long.index(name), room) if name in self.long else (2, 0, room)

    def is_alone(self, file: Path) -> bool:
        """Whether nothing else may run beside a file."""
        return any(file == Path(name) or Path(name) in file.parents for name in self.alone)


@dataclass(slots=True, eq=False)  # pytest wants plugins that can be hashed
class Run:
    """pytest's hooks in the run's own process, which runs the tests itself when there are no streams."""

    config: pytest.Config
    tests: Path
    order: Order
    folder: Path | None = None  # of the lock, when there are streams
    deselected: int = 0  # by them

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Puts the tests into the order of a run without streams; those of a file stay together, in theirs."""
        items.sort(key=lambda item: self.order.plain(item.path.relative_to(self.tests)))

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tells a new stream the seed and the file of the lock."""
        if self.folder is None:
            self.folder = paths.scratch("streams")
        node.workerinput[KEY] = {"seed": killpoints.seed(), "lock": str(self.folder / "lock")}

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Takes over what a stream has to say at its end; one that died has said nothing."""
        told = getattr(node, "workeroutput", {}).get(KEY)
        if told is None:
            return
        for title, lines in told["summary"].items():
            for line in lines:
                summary.add(title, line)
        self.deselected = max(self.deselected, told["deselected"])  # each collects all, and leaves out the same

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Names a test that failed at once: a run that is cut short has no summary."""
        if report.failed:
            terminal: pytest.TerminalReporter = self.config.pluginmanager.getplugin("terminalreporter")
            terminal.write_line("")  # behind the dots
            terminal.write_line(f"failed in {report.when}: {report.nodeid}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The count of tests that the streams left out, for pytest's last line."""
        if self.deselected:
            terminalreporter.stats["deselected"] = [None] * self.deselected

    def pytest_unconfigure(self) -> None:
        """Removes the lock's folder."""
        if self.folder is not None:
            shutil.rmtree(self.folder)


@dataclass(slots=True, eq=False)
class Stream:
    """pytest's hooks in a stream: one of several processes that run tests for another."""

    tests: Path
    order: Order
    lock: str
    held: int | None = None  # descriptor of the lock, while the stream is in a file
    deselected: int = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Puts the tests into the order in which streams take their files: the same in each."""
        items.sort(key=lambda item: self.order.in_streams(self._file(item)))

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Counts what -m and -k leave out."""
        self.deselected += len(items)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Protocol:
        """Holds the lock from a file's first test to the end of its last, with all fixtures of the file's own.

        It stands around pytest-timeout's hook: no test's time runs while its stream waits.
        """
        if self.held is None:
            self.held = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self.held, fcntl.LOCK_EX if self.order.is_alone(self._file(item)) else fcntl.LOCK_SH)
        try:
            return (yield)
        finally:
            if nextitem is None or nextitem.path != item.path:
                fcntl.flock(self.held, fcntl.LOCK_UN)  # by name: a child of a test may have the descriptor as well
                os.close(self.held)
                self.held = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Hands over what the tests of this stream reported."""
        output: dict[str, Any] = session.config.workeroutput  # type: ignore[attr-defined]  # xdist's
        output[KEY] = {"summary": summary.sections(), "deselected": self.deselected}

    def _file(self, item: pytest.Item) -> Path:
        return item.path.relative_to(self.tests)


def register(config: pytest.Config, tests: Path, order: Order | None = None) -> None:
    """Makes this process ready for a run, in streams or not; for `pytest_configure` of tests/conftest.py.

    `tests`: the folder that holds the rooms.
    """
    order = order or Order()
    given = getattr(config, "workerinput", {}).get(KEY)
    if given is None:
        config.pluginmanager.register(Run(config, tests, order))
    else:
        os.environ[killpoints.SEED_VARIABLE] = str(given["seed"])
        config.pluginmanager.register(Stream(tests, order, given["lock"]))
