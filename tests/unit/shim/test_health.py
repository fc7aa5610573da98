"""The check of one container, on a real loop, with processes of this machine as probes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from corten.errors import Internal, InvalidArgument
from corten.shim.backend import Launched, Steps
from corten.shim.health import Capture, Health, Settings
from corten.shim.loop import READ, Loop
from corten.shim.process import Process
from corten.shim.request import Request
from corten.shim.stdio import Stdio

MS = 1_000_000


class Patient:
    """Runs probes as children of the test, and notes who signals it."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.health: Health
        self.signals: list[int] = []
        self.probes = 0
        self.fails = False

    def probe(self, exec_id: str, process: dict[str, Any], capture: Capture) -> Steps[Process]:
        self.probes += 1
        if self.fails:
            raise Internal("no such program")
        stdio = Stdio(self.loop, tty=False, log=capture, on_detach=lambda: None, connections=set())
        child = Process(exec_id, stdio)
        pipes = stdio.open_pipes(stdin=False)
        popen = subprocess.Popen(
            process["args"], stdin=pipes[0], stdout=pipes[1], stderr=pipes[2], start_new_session=True
        )
        popen.returncode = 0  # reaped below
        child.launched(Launched(popen.pid, os.pidfd_open(popen.pid)))
        stdio.begin()
        self.loop.add(child.pidfd, READ, lambda events: self._died(child))
        yield from ()
        return child

    def _died(self, child: Process) -> None:
        self.loop.remove(child.pidfd)
        child.reap()
        child.stdio.drain()
        child.stdio.finish()
        self.health.probed(child)

    def kill(self, signum: int, exec_id: str = "", by: dict[str, Any] | None = None) -> None:
        self.signals.append(signum)


class Lab:
    """A check with everything around it; times in ms."""

    def __init__(self, *argv: str, **settings: Any) -> None:
        self.loop = Loop()
        self.events: list[dict[str, Any]] = []
        self.patient = Patient(self.loop)
        fields = {"interval": 10, "timeout": 20_000, "start_period": 0, "start_interval": 10} | {
            key: value for key, value in settings.items() if key in ("interval", "timeout", "start_period")
        }
        others = {key: value for key, value in settings.items() if key not in fields}
        request = Request(
            {
                "op": "health",
                "process": {"args": list(argv)},
                **{key: value * MS for key, value in fields.items()},
                "retries": 2,
                **others,
            },
            [],
        )
        self.health = self.patient.health = Health(
            Settings(request),
            self.loop,
            self.patient,
            emit=self.events.append,
            in_turn=lambda work: self.loop.start(work()),
        )

    def turn_until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self.events
            self.loop.turn(0.1)

    def results(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == "health"]


def test_a_probe_that_exits_with_0_makes_the_container_healthy_once() -> None:
    lab = Lab("sh", "-c", "echo fine; echo words >&2")
    lab.health.begin()
    lab.turn_until(lambda: len(lab.results()) == 2)
    lab.health.end()
    first, second = lab.results()
    assert (first["status"], first["change"], first["failing_streak"]) == ("healthy", 1, 0)
    assert (second["status"], "change" in second) == ("healthy", False)
    entry = first["entry"]
    assert sorted(entry["output"].splitlines()) == ["fine", "words"]
    assert (entry["status"], entry["start"] <= entry["end"]) == (0, True)
    assert [event["event"] for event in lab.events[:2]] == ["health-probe", "health"]
    assert lab.events[0]["exec_id"] == entry["exec_id"]


def test_failures_in_a_row_make_it_unhealthy_and_the_log_has_five() -> None:
    lab = Lab("sh", "-c", "exit 3")
    lab.health.begin()
    lab.turn_until(lambda: len(lab.results()) == 7)
    lab.health.end()
    assert [event["status"] for event in lab.results()[:3]] == ["starting", "unhealthy", "unhealthy"]
    told = lab.health.to_obj()
    assert (told["status"], told["failing_streak"], len(told["log"])) == ("unhealthy", 7, 5)
    assert [change["status"] for change in told["changes"]] == ["unhealthy"]
    assert lab.patient.signals == []


def test_failures_in_the_start_period_do_not_count() -> None:
    lab = Lab("sh", "-c", "exit 3", start_period=3_600_000, interval=3_600_000)
    lab.health.begin()
    lab.turn_until(lambda: len(lab.results()) == 4)
    lab.health.end()
    assert lab.results()[-1]["failing_streak"] == 0
    assert lab.health.status == "starting"


def test_a_probe_that_takes_too_long_is_killed_with_its_children() -> None:
    lab = Lab("sh", "-c", "echo begun; sleep 1000 & echo $!; wait")
    lab.health.begin()
    lab.turn_until(lambda: lab.health._capture.data.count(b"\n") == 2)
    lab.health._timed_out()  # what the timer calls, once the output is there
    lab.turn_until(lab.results)
    lab.health.end()
    entry = lab.results()[0]["entry"]
    assert (entry["status"], entry["timed_out"]) == (-1, True)
    words, pid = entry["output"].split()
    assert words == "begun"
    lab.turn_until(lambda: _is_dead(int(pid)))


def _is_dead(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2].startswith(b"Z")
    except FileNotFoundError:
        return True


def test_output_is_cut_at_4096_bytes() -> None:
    lab = Lab("sh", "-c", "head -c 5000 /dev/zero | tr '\\0' x")
    lab.health.begin()
    lab.turn_until(lab.results)
    lab.health.end()
    assert lab.results()[0]["entry"]["output"] == "x" * 4096 + "..."


def test_a_probe_that_cannot_be_launched_is_a_failure_with_its_words() -> None:
    lab = Lab("true")
    lab.patient.fails = True
    lab.health.begin()
    lab.turn_until(lambda: len(lab.results()) == 2)
    lab.health.end()
    entry = lab.results()[0]["entry"]
    assert (entry["status"], entry["failed"], entry["output"]) == (-1, True, "no such program")
    assert lab.health.status == "unhealthy"


def test_nothing_is_probed_and_no_result_counts_while_it_rests() -> None:
    lab = Lab("sh", "-c", "sleep 1000")
    lab.health.begin()
    lab.turn_until(lambda: lab.patient.probes)
    lab.health.rest()
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        lab.loop.turn(0.05)
    assert (lab.patient.probes, lab.results()) == (1, [])
    lab.health.begin()
    lab.turn_until(lambda: lab.patient.probes == 2)
    lab.health.end()


@pytest.mark.parametrize(("action", "signals"), [("none", []), ("kill", [9]), ("stop", [10, 9]), ("restart", [10, 9])])
def test_the_action_is_taken_once_when_it_becomes_unhealthy(action: str, signals: list[int]) -> None:
    lab = Lab("false", action=action, stop_signal=10, stop_timeout=0)
    lab.health.begin()
    lab.turn_until(lambda: len(lab.results()) == 4)
    lab.health.end()
    assert lab.patient.signals == signals
    assert (lab.health.reason, lab.health.action) == (("unhealthy", action) if signals else ("", ""))
    assert [event["signal"] for event in lab.events if event["event"] == "health-action"] == signals


def test_an_unknown_action_and_a_negative_time_are_refused() -> None:
    for wrong in ({"action": "reboot"}, {"interval": -1}):
        with pytest.raises(InvalidArgument):
            Settings(Request({"op": "health", **wrong}, []))
