"""Fixtures of the attacks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import paths


@pytest.fixture
def outside() -> Iterator[Path]:
    """A folder of the host with a secret in it."""
    folder = paths.scratch("outside")
    (folder / "secret").write_text("of the host\n")
    yield folder
    shutil.rmtree(folder)
