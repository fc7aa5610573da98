"""Two starts of one container at the same time."""

from __future__ import annotations

import os
import posix
from pathlib import Path

import pytest

from corten.errors import FailedPrecondition
from corten.runtime import container, state
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
