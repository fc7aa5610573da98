"""Two starts of one container at the same time; one whose hook fails."""

from __future__ import annotations

import os
import posix
from pathlib import Path

import pytest

from corten.errors import FailedPrecondition, Internal
from corten.runtime import container, ending, state
from corten.runtime.cgroups import CgroupPaths


def test_of_two_starts_at_the_same_time_the_second_is_refused_and_runs_no_hooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = state.State(state.make_directory(str(tmp_path), "c"), "c", "/bundle", "")
    record.cgroup = CgroupPaths("v1", {}, "")
    record.pid, record.start_time = os.getpid(), state.process_start(os.getpid())[0]
    record.poststart = [{"path": "/bin/false", "args": [], "env": [], "timeout": 0}]
    record.save()
    fifo = record.path(state.START_FIFO)
    os.mkfifo(fifo)
    init = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    write = posix.write

    def other_is_first(fd: int, data: bytes) -> int:
        os.unlink(fifo)
        return write(fd, data)

    monkeypatch.setattr(posix, "write", other_is_first)
    try:
        with pytest.raises(FailedPrecondition, match=r"^cannot start an already running container$"):
            container.start(str(tmp_path), "c")
    finally:
        os.close(init)


def test_a_poststart_hook_that_fails_is_told_though_the_container_cannot_be_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stays(record: state.State) -> list[str]:
        raise Internal("container init still running")

    record = state.State(state.make_directory(str(tmp_path), "c"), "c", str(tmp_path), "")
    record.cgroup = CgroupPaths("v1", {}, "")
    record.pid, record.start_time = os.getpid(), state.process_start(os.getpid())[0]
    record.poststart = [{"path": "/bin/false", "args": None, "env": None, "timeout": 0}]
    record.save()
    os.mkfifo(record.path(state.START_FIFO))
    init = os.open(record.path(state.START_FIFO), os.O_RDWR | os.O_NONBLOCK)
    monkeypatch.setattr(ending, "end", stays)
    told: list[str] = []
    try:
        with pytest.raises(FailedPrecondition, match="running hook #0"):
            container.start(str(tmp_path), "c", warn=told.append)
    finally:
        os.close(init)
    assert told == ["container c could not be taken back: container init still running"]
    assert Path(record.directory).is_dir()
