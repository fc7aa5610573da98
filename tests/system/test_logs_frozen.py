"""A disk that does not answer: with mode=non-blocking a container goes on, others wait, and no log is torn."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import images
from support.engine import CortenEngine
from support.loopdisk import LoopDisk
from support.process import wait_for

IMAGE = images.BUSYBOX_REF
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878  # linux/fs.h
LINES = 60_000
TOTAL = sum(len(f"{number}\n") for number in range(1, LINES + 1)) + len("last\n")
DROPPED = re.compile(r"^corten: (\d+) bytes of output were dropped here \(mode=non-blocking\)$", re.MULTILINE)


@pytest.fixture
def disk() -> Iterator[LoopDisk]:
    with LoopDisk(64, number=3) as made:
        yield made


@pytest.fixture
def engine(disk: LoopDisk) -> Iterator[CortenEngine]:
    """One whose logs, and nothing else, are on `disk`."""
    with CortenEngine() as made:
        made.docker("load", "-i", str(images.busybox()), check=True)
        logs = str(made.data_root / "containers")
        subprocess.run(["mount", "--bind", str(disk.path), logs], check=True)
        try:
            yield made
        finally:
            made.docker("rm", "-f", "waits", "goes-on")
            subprocess.run(["umount", logs], check=True)


@contextmanager
def frozen(disk: LoopDisk) -> Iterator[None]:
    fd = os.open(disk.path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, FIFREEZE, 0)
        try:
            yield
        finally:
            fcntl.ioctl(fd, FITHAW, 0)
    finally:
        os.close(fd)


def until_file(word: str) -> str:
    return f"until [ -f /tmp/{word} ]; do sleep 0.02; done"


def run(engine: CortenEngine, name: str, *options: str) -> Path:
    """Its shim's folder in /proc."""
    script = f"{until_file('go')}; seq 1 {LINES}; touch /tmp/done; {until_file('end')}; echo last"
    engine.docker("run", "-d", "--name", name, *options, IMAGE, "sh", "-c", script, check=True)
    pid = engine.docker("inspect", "-f", "{{.State.Pid}}", name, check=True).stdout.strip()
    return Path(f"/proc/{Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[1]}")


def touch(engine: CortenEngine, name: str, word: str) -> None:
    engine.docker("exec", name, "touch", f"/tmp/{word}", check=True)


def state(process: Path) -> str:
    return (process / "stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.slow
def test_a_disk_that_does_not_answer_holds_up_who_is_to_wait_and_nobody_else(
    engine: CortenEngine, disk: LoopDisk
) -> None:
    waits = run(engine, "waits")
    goes_on = run(engine, "goes-on", "--log-opt", "mode=non-blocking", "--log-opt", "max-buffer-size=64k")
    with frozen(disk):
        for name in ("waits", "goes-on"):
            touch(engine, name, "go")
        wait_for(lambda: not engine.docker("exec", "goes-on", "test", "-f", "/tmp/done").returncode, "its writing")
        wait_for(lambda: state(waits) == "D", "a shim that waits for the disk")
        assert state(goes_on) != "D"
        assert engine.docker("inspect", "-f", "{{.State.Status}}", "goes-on").stdout == "running\n"
    for name in ("waits", "goes-on"):
        touch(engine, name, "end")
        assert engine.docker("wait", name, check=True).stdout == "0\n"
    whole = engine.docker("logs", "waits", check=True)
    assert whole.stdout.splitlines() == [*(str(number) for number in range(1, LINES + 1)), "last"]
    parts = engine.docker("logs", "goes-on", check=True)
    dropped = sum(map(int, DROPPED.findall(parts.stderr)))
    assert dropped > 0
    assert len(parts.stdout) + dropped == TOTAL
    assert parts.stdout.endswith("last\n")
