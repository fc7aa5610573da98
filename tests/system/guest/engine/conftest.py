"""Fixtures of the tests inside the virtual machine: one engine for all, in the machine's own network namespace."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from support import images
from support.engine import CortenEngine
from support.guestlook import state
from support.machine import CRUN
from support.netns import OwnNet

RUNTIMES = {name: {"path": path} for name, path in (("runc", "/usr/local/sbin/runc"), ("crun", CRUN))}

PATIENCE_S = 180.0  # some twenty times slower, and that beside whatever the host does
CortenEngine.patience_s = PATIENCE_S


class Patient(CortenEngine):
    """Waits longer for what is emulated."""

    def docker(
        self, *args: str, stdin: str | bytes | None = None, timeout: float = PATIENCE_S, check: bool = False
    ) -> subprocess.CompletedProcess[str]:
        return super().docker(*args, stdin=stdin, timeout=timeout, check=check)

    def corten(
        self, *args: str, stdin: str | None = None, timeout: float = PATIENCE_S, check: bool = False
    ) -> subprocess.CompletedProcess[str]:
        return super().corten(*args, stdin=stdin, timeout=timeout, check=check)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """A failed test shows the end of the engine's log."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, CortenEngine):
                report.sections.append(("log of cortend", value.log_tail()))
    return report


@pytest.fixture(scope="session")
def before() -> dict[str, set[str]]:
    """The machine as it was before there was an engine."""
    return state()


@pytest.fixture(scope="session")
def engine(before: dict[str, set[str]]) -> Iterator[CortenEngine]:
    """cortend in the machine's network, with the busybox image loaded; the last test destroys it."""
    made = Patient(netns=OwnNet(), config={"runtimes": RUNTIMES, "signal-senders": True})
    try:
        made.docker("load", "-i", str(images.busybox()), check=True)
        yield made
    finally:
        if made.folder.exists():
            made.destroy()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The end of the engine comes last."""
    items.sort(key=lambda item: item.name == "test_zz_destroy_leaves_nothing")
