"""Where the milliseconds of a start go: named spans, for `corten trace`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any


class Phases:
    """Rows of (name, start, duration) in CLOCK_MONOTONIC ns, as the shim's are."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add a row for the block, also when it fails."""
        start = time.monotonic_ns()
        try:
            yield
        finally:
            self.rows.append({"name": name, "start_ns": start, "duration_ns": time.monotonic_ns() - start})
