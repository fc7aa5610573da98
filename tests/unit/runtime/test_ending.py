"""The end of a container that the machine does not let go easily: everything that went wrong is told."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.errors import CortenError, Internal, Unavailable
from corten.runtime import container, ending, fast, managers, netdevices, state
from corten.runtime.cgroups import Cgroup, CgroupPaths
from corten.runtime.ending import Complaints, Unfinished
from corten.runtime.state import START_FIFO, State, is_alive, make_directory, process_start
from corten.sys import files

ELSEWHERE = "network devices of the container came from another network namespace than this one"
BUSY = OSError(16, "Device or resource busy", "/run/c")


def record(tmp_path: Path) -> State:
    """The record of a container of which nothing but that is there."""
    made = State(make_directory(str(tmp_path), "c"), "c", "/bundle", "")
    made.cgroup = CgroupPaths("v1", {}, "")
    return made


def with_devices(made: State, devices_from: str) -> int:
    """It waits for its start, with a device that was moved to it; the FIFO's other end, the caller's to close."""
    made.devices = [{"name": "eth7", "inside": "eth0", "up": True, "addresses": []}]
    made.devices_from = devices_from
    os.mkfifo(made.path(START_FIFO))
    return os.open(made.path(START_FIFO), os.O_RDWR)


def test_a_delete_that_fails_tells_what_the_end_complained_of_before(tmp_path: Path) -> None:
    made = record(tmp_path)
    made.rdt = [str(tmp_path)]  # a folder that is not empty stands for a class that the kernel keeps
    waits = with_devices(made, "net:[1]")
    made.save()
    with pytest.raises(Unfinished) as caught:
        container.delete(str(tmp_path), "c", force=True)
    os.close(waits)
    assert caught.value.text == f"{tmp_path}: directory not empty; before that: {ELSEWHERE}"
    assert caught.value.complaints == [ELSEWHERE]
    assert isinstance(caught.value.__cause__, OSError)
    assert Path(made.directory).is_dir(), "for another delete"


def test_a_removal_that_fails_tells_what_the_poststop_hooks_complained_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stays(path: str) -> None:
        raise BUSY

    made = record(tmp_path)
    made.poststop = [{"path": "/nowhere/hook", "args": None, "env": None, "timeout": None}]
    monkeypatch.setattr(files, "remove_tree", stays)
    with pytest.raises(Unfinished, match=r"^/run/c: device or resource busy; before that: poststop hook /nowhere/hook"):
        ending.destroy(made)


def test_complaints_of_every_step_are_in_one_error_in_their_order() -> None:
    with pytest.raises(Unfinished) as caught, Complaints(["first"]), Complaints(["second", "third"]):
        raise BUSY
    assert caught.value.text == "/run/c: device or resource busy; before that: first; second; third"


@pytest.mark.parametrize("error", [BUSY, CortenError("it failed"), KeyboardInterrupt()])
def test_a_failure_without_complaints_and_one_that_nobody_foresaw_stay_as_they_are(error: BaseException) -> None:
    said = ["told"] if isinstance(error, KeyboardInterrupt) else []
    with pytest.raises(type(error)) as caught, Complaints(said):
        raise error
    assert caught.value is error


class Moved:
    """A device that has lost its place meanwhile."""

    def undo(self) -> list[str]:
        return ["take back network device eth7: file exists"]


@pytest.fixture
def survivor() -> Iterator[tuple[int, int]]:
    """(pid, start time) of a process."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            yield process.pid, process_start(process.pid)[0]
        finally:
            process.kill()


def test_devices_that_do_not_come_back_from_an_init_that_does_not_die_are_told(
    tmp_path: Path, survivor: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = record(tmp_path)
    made.pid, made.start_time = survivor
    waits = with_devices(made, "net:[1]")
    monkeypatch.setattr(fast, "pidfd_send_signal", lambda *_: None)  # nobody dies of nothing
    monkeypatch.setattr(ending, "DEATH_TIMEOUT_MS", 1)
    alive = "container init still running; before that: "
    with pytest.raises(Unfinished) as caught:
        ending.end(made)
    assert caught.value.text == f"{alive}{ELSEWHERE}"
    monkeypatch.setattr(netdevices, "recorded", lambda _: Moved())
    with pytest.raises(Unfinished) as caught:
        ending.end(made)
    assert caught.value.text == f"{alive}take back network device eth7: file exists"
    os.close(waits)


def test_an_init_is_killed_where_the_kernel_does_not_show_its_devices(
    tmp_path: Path, survivor: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hidden(_: State) -> Moved:
        raise OSError(24, "Too many open files", "/proc/7/ns/net")

    made = record(tmp_path)
    made.pid, made.start_time = survivor
    waits = with_devices(made, "net:[1]")
    monkeypatch.setattr(netdevices, "recorded", hidden)
    assert ending.end(made) == ["/proc/7/ns/net: too many open files"]
    assert not is_alive(*survivor)
    os.close(waits)


@pytest.mark.parametrize(
    ("module", "name", "error"),
    [
        (managers, "of", Unavailable("D-Bus: no answer in time")),  # of one whose group systemd has to tell
        (Cgroup, "kill_all", Internal("write '1' to cgroup.kill: device or resource busy")),
        (Cgroup, "kill_strays", OSError(24, "Too many open files")),
        (state, "process_start", OSError(24, "Too many open files")),
    ],
)
def test_an_end_that_fails_keeps_no_descriptor_open(
    tmp_path: Path,
    survivor: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
    module: object,
    name: str,
    error: Exception,
) -> None:
    def fails(*_: object) -> None:
        raise error

    made = record(tmp_path)
    made.pid, made.start_time = survivor
    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(module, name, fails)
    with pytest.raises(type(error)):
        ending.end(made)
    assert set(os.listdir("/proc/self/fd")) <= before
