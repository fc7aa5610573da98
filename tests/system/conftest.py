"""Fixtures of the tests that run `corten-runtime` as a program."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import paths, runtimes
from support.runtimes import Runtime

collect_ignore = ["guest"]  # runs inside the virtual machine


@pytest.fixture
def folder() -> Iterator[Path]:
    """A new folder for bundles and state roots, removed with the cgroups of its containers."""
    with runtimes.folder_of_containers("runtime") as made:
        yield made


@pytest.fixture
def corten(folder: Path) -> Iterator[Runtime]:
    """`corten-runtime` with a state root of its own; its containers are deleted after the test."""
    with Runtime(paths.COMMANDS / "corten-runtime", folder / "root") as made:
        yield made
