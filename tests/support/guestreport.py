"""A plugin of the pytest inside the virtual machine: a JSON line per test, written as soon as the test has ended.

What reads them is `support.machine`.
"""

from __future__ import annotations

import json
import os

import pytest

PORT = "/dev/ttyS1"

_texts: dict[str, list[str]] = {}
_seconds: dict[str, float] = {}
_failed: dict[str, str] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collects set-up, call and teardown of a test; the teardown ends it."""
    name = report.nodeid.rpartition("::")[2]
    _seconds[name] = _seconds.get(name, 0.0) + report.duration
    if report.outcome != "passed":
        _failed.setdefault(name, f"{report.outcome} in {report.when}")
        _texts.setdefault(name, []).append(report.longreprtext)
        _texts[name] += [f"---- {title}\n{text}" for title, text in report.sections]
    if report.when == "teardown":
        outcome = _failed.get(name, "passed")
        _write({"name": name, "outcome": outcome, "seconds": _seconds[name], "text": "\n".join(_texts.get(name, []))})


def _write(line: dict[str, object]) -> None:
    data = json.dumps(line).encode() + b"\n"
    port = os.open(PORT, os.O_WRONLY | os.O_NOCTTY)
    try:
        while data:
            data = data[os.write(port, data) :]
    finally:
        os.close(port)
