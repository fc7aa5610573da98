"""Copies of the mounts of a container: as many as it has."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from corten.engine import liveroot
from corten.errors import Unavailable
from corten.launch.ops import Plan, SendFd
from corten.launch.spawn import Done, Failed, Launcher


class Launch:
    def __init__(self, events: Sequence[object]) -> None:
        self._events = events

    def events(self) -> Iterator[object]:
        yield from self._events

    def close(self) -> None: ...

    def reap_launcher(self) -> None: ...


class Sender:
    """A launcher that hands out what it was given, at once: the socket has room for it, or it never ends."""

    def __init__(self, fails_at: int = -1) -> None:
        self.fails_at, self.sent = fails_at, 0

    def spawn(self, steps: Plan, fds: dict[str, int], *, stdio: object) -> Launch:
        with socket.socket(fileno=os.dup(fds["socket"])) as end:
            end.setblocking(False)
            for index, op in enumerate(steps.ops):
                if isinstance(op, SendFd):
                    if self.sent == self.fails_at:
                        return Launch([Failed(index, 22), Done()])
                    socket.send_fds(end, [op.data], [fds[op.slot.partition(".")[0]]])
                    self.sent += 1
        return Launch([Done()])


@pytest.fixture
def files(tmp_path: Path) -> Iterator[list[int]]:
    found = []
    for number in range(400):
        found.append(os.open(tmp_path / str(number), os.O_CREAT | os.O_RDONLY))
    yield found
    for fd in found:
        os.close(fd)


def test_hundreds_of_mounts_are_copied_in_order(files: list[int]) -> None:
    found = liveroot.copies(cast(Launcher, Sender()), files[0], files)
    assert [os.fstat(fd).st_ino for fd in found] == [os.fstat(fd).st_ino for fd in files]
    for fd in found:
        os.close(fd)


def test_nothing_is_kept_of_copies_of_which_one_fails(files: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(liveroot, "sentence", lambda *args: "no mount")
    sender: Any = Sender(fails_at=200)
    with pytest.raises(Unavailable, match="no mount"):
        liveroot.copies(sender, files[0], files)
    assert len(os.listdir("/proc/self/fd")) <= before  # less: what an earlier test left to the collector
