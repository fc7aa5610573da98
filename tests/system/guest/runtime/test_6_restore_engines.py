"""Checkpoints and restores that engines ask for, beside runc."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import guestctr, images
from support.guestbundle import CORTEN, RUNC
from support.guestcounter import wait_until
from support.guestctr import Containerd
from support.guestdocker import TIMEOUT_S, Docker

TICK = "i=0; while true; do i=$((i+1)); echo $i; sleep 0.1; done"
IMAGE = f"docker.io/{images.BUSYBOX_REF}"
either_runtime = pytest.mark.parametrize("runtime", [CORTEN, RUNC], ids=["corten", "runc"])


# dockerd


def goes_on(lines: list[str], after: int) -> bool:
    """Whether a counter has come past a number; AssertionError when it began anew."""
    numbers = [int(line) for line in lines]
    assert numbers == list(range(1, len(numbers) + 1)), f"not one life: {numbers}"
    return len(numbers) > after


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["corten", "peer"])
def test_docker_starts_a_container_from_a_checkpoint(docker: Docker, runtime: str) -> None:
    def check(*words: str) -> str:
        return docker.docker(*words, check=True, timeout=TIMEOUT_S).stdout

    check("run", "-d", "--name", "box", "--runtime", runtime, "--network", "none", images.BUSYBOX_REF, "sh", "-c", TICK)
    try:
        wait_until(lambda: goes_on(check("logs", "box").split(), 3), "no output")
        check("checkpoint", "create", "box", "one")
        assert check("inspect", "-f", "{{.State.Running}}", "box") == "false\n"
        seen = len(check("logs", "box").split())
        check("start", "--checkpoint", "one", "box")
        wait_until(lambda: goes_on(check("logs", "box").split(), seen + 3), "it stands still")
        assert check("exec", "box", "cat", "/proc/1/comm") == "sh\n"
        check("stop", "-t", "0", "box")
    finally:
        docker.docker("rm", "-f", "box", timeout=TIMEOUT_S)


# containerd


@pytest.fixture
def containerd(tmp_path: Path) -> Iterator[Containerd]:
    with guestctr.with_busybox(tmp_path) as made:
        yield made


def start(containerd: Containerd, runtime: Path) -> None:
    words = ("--detach", "--runc-binary", str(runtime), "--snapshotter", "native")
    containerd.check("run", *words, IMAGE, "box", "sleep", "1000")


@pytest.mark.slow
@either_runtime
def test_ctr_makes_a_checkpoint(containerd: Containerd, tmp_path: Path, runtime: Path) -> None:
    start(containerd, runtime)
    try:
        containerd.check("tasks", "checkpoint", "--image-path", f"{tmp_path}/images", "box")
        assert (tmp_path / "images/inventory.img").exists()
        assert "RUNNING" in containerd.check("tasks", "ls")
    finally:
        containerd.remove("box")


@pytest.mark.slow
@either_runtime
def test_ctr_restores_a_live_container(containerd: Containerd, runtime: Path) -> None:
    start(containerd, runtime)
    try:
        containerd.check("containers", "checkpoint", "--task", "--rw", "--image", "box", "saved")
    finally:
        containerd.remove("box")
    containerd.check("containers", "restore", "--live", "--rw", "again", "saved")
    try:
        assert "RUNNING" in containerd.check("tasks", "ls")
        assert "sleep" in containerd.check("tasks", "exec", "--exec-id", "e", "again", "ps")
    finally:
        containerd.remove("again")
