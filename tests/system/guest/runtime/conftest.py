"""Fixtures of the runtime's tests inside the virtual machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images
from support.guestbundle import CORTEN, RUNC, Lab
from support.guestdocker import TIMEOUT_S, Docker


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A bundle, and corten-runtime."""
    with Lab(tmp_path) as made:
        yield made


@pytest.fixture(params=[CORTEN, RUNC], ids=["corten", "runc"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    """A bundle with corten-runtime, then one with runc: both must do the same."""
    with Lab(tmp_path, request.param) as made:
        yield made


@pytest.fixture(scope="session")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """dockerd, with the busybox image loaded; it loads docker-default into the kernel."""
    made = Docker(tmp_path_factory.mktemp("dockerd"), "--experimental")  # which checkpoints are
    try:
        made.docker("load", "-i", str(images.busybox()), check=True, timeout=TIMEOUT_S)
        yield made
    finally:
        made.daemon.stop()
