"""Fixtures of the tests inside the virtual machine: an engine on each file system that has project quotas."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from support import engine as support_engine
from support import images
from support.engine import CortenEngine
from support.netns import OwnNet
from support.storagedisks import DEVICES

PATIENCE_S = 400.0
support_engine.START_SECONDS = 400
OPTIONS = {"xfs": "pquota", "ext4": "prjquota"}
EXTRA = Path("/extra")


class Limited(CortenEngine):
    """With its data on a file system of its own; waits longer for what is emulated."""

    patience_s = PATIENCE_S

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.mount = Path(f"/{kind}")
        super().__init__(netns=OwnNet())

    def start(self, prefix: Sequence[str] = ()) -> None:
        self.data_root = self.mount / "data"
        if not os.path.ismount(self.mount):
            self.mount.mkdir()
            argv = ["mount", "-t", self.kind, "-o", OPTIONS[self.kind], DEVICES[self.kind], str(self.mount)]
            subprocess.run(argv, check=True)
        super().start(prefix)

    def docker(
        self, *args: str, stdin: str | bytes | None = None, timeout: float = PATIENCE_S, check: bool = False
    ) -> subprocess.CompletedProcess[str]:
        return super().docker(*args, stdin=stdin, timeout=timeout, check=check)

    def corten(
        self, *args: str, stdin: str | None = None, timeout: float = PATIENCE_S, check: bool = False
    ) -> subprocess.CompletedProcess[str]:
        return super().corten(*args, stdin=stdin, timeout=timeout, check=check)

    def configure(self, **keys: Any) -> None:
        """daemon.json of the next start."""
        self.config_file.write_text(json.dumps(keys))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """A failed test shows the end of the engine's log."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, CortenEngine):
                report.sections.append(("log of cortend", value.log_tail()))
    return report


def _load_modules() -> None:
    """What needs another comes after it in some round."""
    subprocess.run("for m in libcrc32c sunrpc auth_rpcgss dns_resolver; do modprobe $m; done", shell=True, check=False)
    files = sorted((EXTRA / "modules").iterdir())
    for _ in files:
        files = [file for file in files if subprocess.run(["insmod", str(file)], check=False).returncode]
    print(f"not loaded: {files}", flush=True)


@pytest.fixture(scope="session", autouse=True)
def extra() -> Path:
    """The third disk, its modules loaded."""
    EXTRA.mkdir()
    subprocess.run(["mount", "-t", "ext4", "-o", "ro", DEVICES["extra"], str(EXTRA)], check=True)
    _load_modules()
    return EXTRA


@pytest.fixture(scope="session", params=list(OPTIONS))
def engine(request: pytest.FixtureRequest) -> Iterator[Limited]:
    """One that can give sizes, with the busybox image; it leaves no limit behind."""
    made = Limited(request.param)
    try:
        made.docker("load", "-i", str(images.busybox()), check=True)
        yield made
    finally:
        if made.folder.exists():
            made.destroy()
