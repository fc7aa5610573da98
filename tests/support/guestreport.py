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
    id = report.nodeid
    _seconds[id] = _seconds.get(id, 0.0) + report.duration
    if report.outcome != "passed":
        _failed.setdefault(id, f"{report.outcome} in {report.when}")
        _texts.setdefault(id, []).append(report.longreprtext)
        _texts[id] += [f"---- {title}\n{text}" for title, text in report.sections]
    if report.when == "teardown":
        file, _, name = id.partition("::")
        line = {"file": os.path.basename(file), "name": name.rpartition("::")[2], "seconds": _seconds[id]}
        _write({**line, "outcome": _failed.get(id, "passed"), "text": "\n".join(_texts.get(id, []))})


def _write(line: dict[str, object]) -> None:
    data = json.dumps(line).encode() + b"\n"
    port = os.open(PORT, os.O_WRONLY | os.O_NOCTTY)
    try:
        while data:
            data = data[os.write(port, data) :]
    finally:
        os.close(port)
