"""Spawning and the trace.  Plans here need no privilege: they only execute."""

from __future__ import annotations

import errno
import os
import re
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.errors import Internal
from corten.launch.execops import Exec, Stop
from corten.launch.ops import Op, Plan, Wait
from corten.launch.spawn import (
    TEXT_LAST,
    Done,
    Failed,
    Launch,
    Launcher,
    Started,
    Step,
    TraceReader,
    Waiting,
    sealed_memfd,
    sentence,
)
from corten.launch.userops import FindExecutable, SetCaps, SetHostname

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.launch.spawn import Event

HEADER = Path(__file__).parents[3] / "launcher" / "launch.h"


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    launcher = Launcher()
    yield launcher
    os.close(launcher.fd)


def executing(*argv: str) -> tuple[Op, ...]:
    return (FindExecutable(argv[0], (argv[0],)), Exec(argv, ("A=1",), (8,), ("exec format error",)))


def all_events(launch: Launch) -> list[Event]:
    events: list[Event] = []
    while not (events and isinstance(events[-1], Done)):
        events += launch.events()
    launch.close()
    return events


def output(launcher: Launcher, ops: tuple[Op, ...], preserve_fds: int = 0) -> tuple[bytes, int, list[Event]]:
    read_fd, write_fd = os.pipe()
    launch = launcher.spawn(Plan(ops, (), preserve_fds), {}, stdio=(0, write_fd, write_fd))
    os.close(write_fd)
    events = all_events(launch)
    with open(read_fd, "rb") as file:
        text = file.read()
    return text, launch.reap_launcher(), events


def test_plan_is_executed_and_its_steps_are_timed(launcher: Launcher) -> None:
    text, status, events = output(launcher, executing("/bin/echo", "hello"))
    assert (text, status) == (b"hello\n", 0)
    steps = [event for event in events if isinstance(event, Step)]
    assert [step.index for step in steps] == [0, 1]
    assert 0 < steps[0].ns <= steps[1].ns
    assert isinstance(events[-1], Done)


def test_environment_is_the_plans_alone(launcher: Launcher) -> None:
    text, _, _ = output(launcher, executing("/usr/bin/env"))
    assert text == b"A=1\n"


def test_no_descriptor_of_the_spawner_comes_along(launcher: Launcher) -> None:
    stray = os.open("/", os.O_RDONLY)
    os.set_inheritable(stray, True)
    text, _, _ = output(launcher, executing("/bin/ls", "/proc/self/fd"))
    os.close(stray)
    # the fourth one is ls's own, of the directory
    assert text.split() == [b"0", b"1", b"2", b"3"]


def test_preserved_descriptors_come_along(launcher: Launcher) -> None:
    missing = [fd for fd in range(3, 7) if not os.path.exists(f"/proc/self/fd/{fd}")]
    for fd in missing:
        os.dup2(0, fd)
    text, _, _ = output(launcher, executing("/bin/ls", "/proc/self/fd"), preserve_fds=4)
    for fd in missing:
        os.close(fd)
    assert text.split()[:7] == [b"0", b"1", b"2", b"3", b"4", b"5", b"6"]
    assert len(text.split()) == 8


def test_stdio_in_any_order(launcher: Launcher) -> None:
    read_fd, write_fd = os.pipe()
    launch = launcher.spawn(Plan(executing("/bin/sh", "-c", "echo out; echo err >&2"), ()), {}, stdio=(1, write_fd, 0))
    os.close(write_fd)
    all_events(launch)
    with open(read_fd, "rb") as file:
        assert file.read() == b"out\n"
    launch.reap_launcher()


def test_signals_have_their_defaults(launcher: Launcher) -> None:
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN, "Python itself ignores it"
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        text, _, _ = output(launcher, executing("/bin/grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    assert text.split() == [b"SigBlk:", b"0" * 16, b"SigIgn:", b"0" * 16]


def test_failure_names_step_and_errno(launcher: Launcher) -> None:
    ops = (FindExecutable("/nothing", ("/nothing",)), *executing("/bin/true"))
    _, status, events = output(launcher, ops)
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert (failed.index, failed.errno) == (0, 2)
    assert status == 1 << 8
    text = sentence(Plan(ops, ()), failed.index, failed.errno, failed.detail, failed.text)
    assert text == 'exec: "/nothing": stat /nothing: no such file or directory'


def test_failed_execve_is_on_stderr_for_those_who_do_not_read_the_trace(launcher: Launcher) -> None:
    fd = sealed_memfd("noise", b"\1\2\3", executable=True)
    path = f"/proc/{os.getpid()}/fd/{fd}"
    text, status, _ = output(launcher, executing(path))
    os.close(fd)
    assert text == f"exec {path}: exec format error\n".encode()
    assert status == 1 << 8


def test_byte_lets_a_waiting_plan_go_on(launcher: Launcher) -> None:
    read_fd, write_fd = os.pipe()
    plan = Plan((Wait("start", "start"), *executing("/bin/true")), ("start",))
    launch = launcher.spawn(plan, {"start": read_fd})
    launch.reader.feed(struct.pack("=IIQ", 0, 65536, 1))  # what Clone would have said
    events: list[Event] = []
    while not any(isinstance(event, Waiting) for event in events):
        events += launch.events()
    os.write(write_fd, b"\0")
    events += all_events(launch)
    assert not any(isinstance(event, Failed) for event in events)
    assert launch.reap_launcher() == 0
    os.close(read_fd)
    os.close(write_fd)


def test_waiting_plan_ends_when_nobody_is_left_to_start_it(launcher: Launcher) -> None:
    read_fd, write_fd = os.pipe()
    plan = Plan((Wait("start", "start"), *executing("/bin/true")), ("start",))
    launch = launcher.spawn(plan, {"start": read_fd})
    os.close(write_fd)
    os.close(read_fd)
    assert [event.errno for event in all_events(launch) if isinstance(event, Failed)] == [32]
    launch.reap_launcher()


def test_stop_that_a_test_puts_into_a_plan_acts_there(launcher: Launcher) -> None:
    def stop_first(plan: Plan) -> Plan:
        return Plan((plan.ops[0], Stop(signal.SIGKILL), *plan.ops[1:]), plan.inputs)

    launch = launcher.spawn(Plan(executing("/bin/true"), ()), {}, transform=stop_first)
    events = all_events(launch)
    assert [event.index for event in events if isinstance(event, Step)] == [0, 1]
    assert os.WTERMSIG(launch.reap_launcher()) == signal.SIGKILL


def test_failure_of_a_privileged_step_is_told(launcher: Launcher) -> None:
    _, _, events = output(launcher, (SetCaps(0, 0, 0), SetHostname(os.uname().nodename)))
    assert [(event.index, event.errno) for event in events if isinstance(event, Failed)] == [(1, errno.EPERM)]


def test_missing_descriptor_leaves_nothing_open(launcher: Launcher) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Internal, match="no descriptor for start"):
        launcher.spawn(Plan((Wait("start", "start"),), ("start",)), {})
    assert len(os.listdir("/proc/self/fd")) <= before  # less: what an earlier test left to the collector


def test_sealed_memfd_cannot_be_written() -> None:
    fd = sealed_memfd("data", b"abc")
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    assert os.pread(fd, 9, 0) == b"abc"
    os.close(fd)


class TestTraceReader:
    """Records as the launcher writes them."""

    STARTED = struct.pack("=IIQ", 3, 65536, 99)
    WAITING = struct.pack("=IIQ", 9, 65537, 0)

    def test_incomplete_record_waits_for_its_rest(self) -> None:
        reader = TraceReader()
        assert reader.feed(self.STARTED[:5]) == []
        assert reader.feed(self.STARTED[5:]) == [Started(99)]

    def test_waiting_that_came_first_is_told_after_started(self) -> None:
        assert TraceReader().feed(self.WAITING + self.STARTED) == [Started(99), Waiting(9)]

    def test_launcher_that_waits_before_its_clone_is_heard_at_once(self) -> None:
        reader = TraceReader(10)
        assert reader.feed(self.WAITING) == [Waiting(9)]
        assert reader.feed(struct.pack("=IIQ", 11, 65537, 0)) == []
        assert reader.feed(self.STARTED) == [Started(99), Waiting(11)]

    def test_text_belongs_to_the_failure_that_follows(self) -> None:
        words = [
            struct.pack("=IIQ", 4, 65538, int.from_bytes(part, "little")) for part in (b"tmpfs: B", b"ad\0\0\0\0\0\0")
        ]
        failed = struct.pack("=IIQ", 4, 22, 0)
        assert TraceReader().feed(b"".join(words) + failed) == [Failed(4, 22, 0, "tmpfs: Bad")]

    def test_a_flood_of_text_is_cut(self) -> None:
        flood = struct.pack("=IIQ", 4, 65538, int.from_bytes(b"x" * 8, "little")) * 1000
        assert TraceReader().feed(flood + struct.pack("=IIQ", 4, 22, 0)) == [Failed(4, 22, 0, "x" * TEXT_LAST)]

    def test_as_much_of_a_text_is_kept_as_the_launcher_can_send(self) -> None:
        (size,) = re.findall(r"^ +char text\[(\d+)\];", HEADER.read_text(), re.M)
        assert int(size) == TEXT_LAST

    def test_a_flood_of_waits_before_started_is_cut_and_told_once(self) -> None:
        events = TraceReader().feed(self.WAITING * 1000 + self.STARTED * 2)
        assert events == [Started(99), *[Waiting(9)] * 64, Started(99)]

    def test_end_of_file_is_done(self) -> None:
        assert TraceReader().feed(b"") == [Done()]

    def test_unknown_record_is_passed_over(self) -> None:
        data = struct.pack("=IIQ", 0, 70000, 0) + struct.pack("=IIQ", 1, 0, 5)
        assert TraceReader().feed(data) == [Step(1, 5)]

    def test_first_record_of_a_second_launcher_counts(self) -> None:
        reader = TraceReader()
        assert reader.feed(struct.pack("=IIQ", 12, 65539, 7) + struct.pack("=IIQ", 12, 65539, 8)) == []
        assert reader.second_pid == 7
        launch = Launch(Plan((Stop(9),), ()), 1, -1)
        launch.reader = reader
        assert launch.second_pid == 0, "a plan without CloneLauncher has none"
