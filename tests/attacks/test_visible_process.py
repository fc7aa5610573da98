"""A container with CAP_SYS_PTRACE takes hold of the processes that are started in it, before they are executed.

What it gets may be no more than it has: its own capabilities, its own filter, no descriptor of the host.  And what it
writes into the trace pipe of such a process may do no harm.  The twins have the order of before, in which the child
that the container sees does the setup, and a reader of the trace that believes it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from corten.errors import CortenError
from corten.launch.context import CALLS, NEW_LISTENER
from corten.launch.execops import Stop
from corten.launch.facts import facts_from_obj, facts_to_obj
from corten.launch.ops import Clone, Close, Op, Plan, Wait
from corten.runtime import launching
from corten.runtime.trace import Trace
from support import races, summary, weakened
from support.launching import CAPS, DEFAULT_CAPS, Machine, Running, docker_filter
from support.races import Race, Wanted

SYS_PTRACE, SYS_ADMIN = 1 << 19, 1 << 21
OWN = DEFAULT_CAPS | SYS_PTRACE
RACES = 60
STARTED = 65536
EPERM = 1
PATIENCE_S = 60.0
pytestmark = races.TIMEOUT

Transform = Callable[[Plan], Plan]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    made = Machine()
    made.add_program(Path(__file__).with_name("visible.c"))
    yield made
    made.close()


def with_ptrace(machine: Machine, *args: str) -> dict[str, Any]:
    document = machine.config(*args)
    names = [*CAPS, "CAP_SYS_PTRACE"]
    document["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), names)
    return document


def process(uid: int, *args: str) -> dict[str, Any]:
    return {"args": list(args) or ["true"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": uid, "gid": uid}}


class TestEveryStep:
    """The process stops before every step that it does while the container can see it."""

    def statuses(self, machine: Machine, asked: dict[str, Any], order: Transform) -> list[dict[str, str]]:
        """/proc/PID/status at each stop."""
        document = with_ptrace(machine, "sleep", "1000")
        found: list[dict[str, str]] = []
        with machine.container(document) as inside:
            while True:
                running = self.stopping_at(machine, inside, document, asked, len(found), order)
                if running is None:
                    return found
                lines = Path(f"/proc/{running.pid}/status").read_text().splitlines()
                found.append({name: value.strip() for name, _, value in (line.partition(":") for line in lines)})
                running.stop()

    def stopping_at(
        self, machine: Machine, inside: Running, document: dict[str, Any], asked: dict[str, Any], step: int, order: Any
    ) -> Running | None:
        ended: list[bool] = []

        def stop(plan: Plan) -> Plan:
            ops: list[Op] = list(order(plan).ops)
            at = next(i for i, op in enumerate(ops) if isinstance(op, Clone)) + 1 + step
            ended.append(at == len(ops))
            return Plan((*ops[:at], Stop(signal.SIGSTOP), *ops[at:]), plan.inputs)

        filter = docker_filter("CAP_SYS_PTRACE")
        running = machine.exec(inside, document, asked, seccomp=filter, transform=stop)
        if ended[0]:
            running.finish()
            return None
        running.waiting()
        os.waitid(os.P_PID, running.pid, os.WSTOPPED)
        return running

    @pytest.mark.parametrize("no_new_privs", [False, True])
    @pytest.mark.parametrize("uid", [0, 1000])
    def test_process_has_never_more_than_the_container(self, machine: Machine, uid: int, no_new_privs: bool) -> None:
        asked = {**process(uid), "noNewPrivileges": no_new_privs}
        if uid:
            asked["capabilities"] = {"bounding": [*CAPS, "CAP_SYS_PTRACE"]}
        found = self.statuses(machine, asked, lambda plan: plan)
        assert len(found) > 3
        for status in found:
            caps = [int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")]
            held = 0 if uid else OWN
            assert caps == [held, held, 0, OWN, 0], status
            assert status["Uid"].split() == [str(uid)] * 4
            assert status["Gid"].split() == [str(uid)] * 4
            assert status["Seccomp"] == "2"
            assert status["NoNewPrivs"] == str(int(no_new_privs))

    @pytest.mark.parametrize("uid", [0, 1000])
    def test_twin_in_the_old_order_it_has_every_right_of_the_launcher(self, machine: Machine, uid: int) -> None:
        found = self.statuses(machine, process(uid), weakened.cloned_first)
        held = [int(status["CapEff"], 16) for status in found]
        assert held[0] & SYS_ADMIN
        assert held[0] & ~OWN & ~SYS_ADMIN, "and more"
        assert held[-1] & SYS_ADMIN, "until execve"
        assert all(status["Seccomp"] == "0" for status in found[:-1])


class TestListener:
    """An exec whose filter has an agent: at no step that can be seen it holds the listener, or the way to the agent.

    Who got them would answer its own system calls, or hand a filter of its own to an agent with the host's rights.
    """

    def descriptors(self, machine: Machine, change: Transform) -> list[list[str]]:
        """What each descriptor is at each stop, and of the status the filter."""
        document = with_ptrace(machine, "sleep", "1000")
        found: list[list[str]] = []
        with machine.container(document) as inside:
            while (stopped := self.stopping_at(machine, inside, document, len(found), change)) is not None:
                status = Path(f"/proc/{stopped.pid}/status").read_text()
                assert "Seccomp:\t2\n" in status
                assert f"CapEff:\t{OWN:016x}\n" in status
                found.append([os.readlink(entry) for entry in Path(f"/proc/{stopped.pid}/fd").iterdir()])
                stopped.stop()
        return found

    def stopping_at(
        self, machine: Machine, inside: Running, document: dict[str, Any], step: int, change: Transform
    ) -> Running | None:
        ended: list[bool] = []

        def stop(plan: Plan) -> Plan:
            ops = list(change(plan).ops)
            at = next(i for i, op in enumerate(ops) if isinstance(op, Clone)) + 1 + step
            ended.append(at == len(ops))
            return Plan((*ops[:at], Stop(signal.SIGSTOP), *ops[at:]), plan.inputs)

        ours, theirs = socket.socketpair()
        with ours, theirs:
            context = {"seccomp": docker_filter("CAP_SYS_PTRACE"), "seccomp_flags": NEW_LISTENER}
            fds = {"listener": theirs.fileno()}
            running = machine.exec(inside, document, process(0), fds, transform=stop, **context)
            if ended[0]:
                running.finish()
                return None
            running.waiting()
            os.waitid(os.P_PID, running.pid, os.WSTOPPED)
            return running

    def test_neither_is_there_when_it_can_be_seen(self, machine: Machine) -> None:
        found = self.descriptors(machine, lambda plan: plan)
        assert len(found) > 3
        kinds = {name.partition(":")[0] for names in found for name in names}
        assert kinds <= {"pipe", "/dev/null"} | {name for name in kinds if name.endswith("tasks")}, kinds

    def test_twin_a_plan_that_leaves_them_open_shows_both(self, machine: Machine) -> None:
        def careless(plan: Plan) -> Plan:
            kept = [op for op in plan.ops if not (isinstance(op, Close) and "listener" in op.slots)]
            assert len(kept) == len(plan.ops) - 1
            return Plan(tuple(kept), plan.inputs, plan.preserve_fds)

        names = {name for names in self.descriptors(machine, careless) for name in names}
        assert any(name.startswith("socket:") for name in names)
        assert any("seccomp notify" in name for name in names)


def race(machine: Machine, order: Transform | None, *attack: str) -> tuple[list[str], Running]:
    """RACES execs beside an attacker that is the container's init: its lines, and the container, ended."""
    document = with_ptrace(machine, "visible", *attack)
    attacker = machine.spawn(machine.plan(document))
    try:
        attacker.executed()
        for i in range(RACES):
            machine.exec(
                attacker,
                document,
                process(1000 * (i % 2)),
                seccomp=docker_filter("CAP_SYS_PTRACE"),
                transform=order,
            ).finish()
        lines = attacker.finish().lines
    finally:
        attacker.stop()
    return lines[1:-1], attacker


def caught(machine: Machine, order: Transform | None, wanted: Wanted = "met") -> tuple[Race, list[str]]:
    """(processes that an attacker that looks has seen, and with SYS_ADMIN, in rounds of RACES execs); its lines."""
    found, lines = Race(), []
    for _ in found.until(1, wanted):
        lines += race(machine, order, "look", str(RACES))[0]
        found.met = len(lines)
        found.escaped = sum(bool(int(line.split()[0], 16) & SYS_ADMIN) for line in lines)
    return found, lines


def test_race_for_the_first_moment_gets_the_containers_own_rights(machine: Machine) -> None:
    found, lines = caught(machine, None)
    summary.add("races", f"ptrace of a process before execve: caught {found.met} of {found.rounds * RACES}")
    assert found.met > 0, races.NEVER
    for line in lines:
        effective, permitted, bounding, filter = line.split()
        assert (int(effective, 16), int(permitted, 16)) in ((OWN, OWN), (0, 0))
        assert (int(bounding, 16), filter) == (OWN, "2")


def test_twin_race_in_the_old_order_gets_sys_admin(machine: Machine) -> None:
    found, _ = caught(machine, weakened.cloned_first, "escaped")
    seen = f"caught {found.met} of {found.rounds * RACES}, with SYS_ADMIN {found.escaped}"
    summary.add("races", f"ptrace of a process before execve, twin: {seen}")
    assert found.escaped > 0, races.NEVER


# how an init that joins the pid namespace of another container can be launched
KINDS: dict[str, dict[str, Any]] = {
    "whole": {},
    "whole, a profile without clone": {"seccomp_calls": (1 << len(CALLS)) - 1 & ~(1 << CALLS.index("clone"))},
    "late (Linux before 6.17)": {"procfs_pidns": False},
}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the attacker knows the registers of x86-64 alone")
class TestWaitingInit:
    """An init that waits for its start, for as long as it pleases an engine, in another container's pid namespace."""

    def plan(self, machine: Machine, other: int, **kind: Any) -> Plan:
        pidns = kind.pop("procfs_pidns", machine.facts.procfs_pidns)
        facts = facts_from_obj({**facts_to_obj(machine.facts), "procfs_pidns": pidns})
        document = machine.config("sleep", "1000")
        for entry in document["linux"]["namespaces"]:
            if entry["type"] == "pid":
                entry["path"] = f"/proc/{other}/ns/pid"
        return machine.plan(document, facts=facts, wait_for_start=True, seccomp=docker_filter(), **kind)

    def taken(self, machine: Machine, kind: str, order: Transform | None = None) -> tuple[list[str], int]:
        """The status that the attacker saw of the init, and the errno of what it made it call."""
        attacker = machine.spawn(machine.plan(with_ptrace(machine, "visible", "take")))
        read_fd, write_fd = os.pipe()
        try:
            attacker.executed()
            plan = self.plan(machine, attacker.pid, **KINDS[kind])
            init = machine.spawn(plan, {"start": read_fd}, transform=order)
            try:
                assert getattr(init.outcome.plan.ops[init.waiting()], "slot", "") == "start"
                deadline = time.monotonic() + PATIENCE_S
                while attacker.output().count("\n") < 2:
                    assert time.monotonic() < deadline, attacker.output()
                    time.sleep(0.01)
                status, errno = attacker.output().splitlines()
            finally:
                init.stop()
        finally:
            os.close(read_fd)
            os.close(write_fd)
            attacker.stop()
        return status.split(), int(errno)

    @pytest.mark.parametrize("kind", KINDS)
    def test_who_takes_it_gets_what_the_program_will_have(self, machine: Machine, kind: str) -> None:
        (effective, permitted, bounding, filter), errno = self.taken(machine, kind)
        assert [int(value, 16) for value in (effective, permitted, bounding)] == [DEFAULT_CAPS] * 3
        assert filter == "2"
        assert errno == EPERM

    @pytest.mark.parametrize("kind", KINDS)
    def test_twin_filtered_last_it_makes_namespaces_for_whoever_takes_it(self, machine: Machine, kind: str) -> None:
        (effective, _, _, filter), errno = self.taken(machine, kind, weakened.filtered_last)
        assert int(effective, 16) & SYS_ADMIN
        assert filter == "0"
        assert errno == 0

    @pytest.mark.parametrize("kind", KINDS)
    def test_nobody_there_sees_who_waits_for_the_hooks_of_the_host(self, machine: Machine, kind: str) -> None:
        with machine.container() as other:
            plan = self.plan(machine, other.pid, wait_for_hooks=True, **KINDS[kind])
            pipes = [os.pipe(), os.pipe()]
            running = machine.spawn(plan, {"hooks": pipes[0][0], "start": pipes[1][0]})
            try:
                step = running.waiting()
                assert isinstance(plan.ops[step], Wait)
                seen = [name for name in os.listdir(f"/proc/{other.pid}/root/proc") if name.isdigit()]
                assert seen == ["1"]
                os.write(pipes[0][1], b"\0")
                running.waiting()
                seen = [name for name in os.listdir(f"/proc/{other.pid}/root/proc") if name.isdigit()]
                assert len(seen) == 2
            finally:
                running.stop()
                for fd in (*pipes[0], *pipes[1]):
                    os.close(fd)


class Believing(launching.Running):
    """A reader without the check: whatever the trace calls started is the process."""

    __slots__ = ("forgotten",)

    def _adopt(self, pid: int) -> None:
        if self.pidfd >= 0:
            self.forgotten = self.pid
            os.close(self.pidfd)
        self.pid, self.pidfd = pid, os.pidfd_open(pid)


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the host that has nothing to do with the container, and is even a child of the reader."""
    made = subprocess.Popen(["sleep", "1000"])
    time.sleep(0.03)  # three clock ticks: older than every launcher that follows
    yield made
    made.kill()
    made.wait()


@dataclass(slots=True)
class Forged:
    """What came of forging."""

    attacker: Running
    errors: list[str] = field(default_factory=list)
    taken: set[int] = field(default_factory=set)
    """The pids that the reader took."""

    @property
    def written(self) -> int:
        """How many records the attacker wrote."""
        lines = (self.attacker.outcome.out or self.attacker.output()).splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("forged"))


def forge(
    machine: Machine, kind: int, value: int, reader: type[launching.Running], wanted: Callable[[Forged], object]
) -> Forged:
    """Execs until what came of it is what is `wanted`."""
    document = with_ptrace(machine, "visible", "forge", "1000000", str(kind), str(value))
    attacker = machine.spawn(machine.plan(document))
    found, forging = Forged(attacker), Race()
    try:
        attacker.executed()
        for _ in forging.until(1):
            running = _spawn(machine, attacker, document, reader)
            try:
                running.follow_to_exec()
            except CortenError as error:
                found.errors.append(str(error))
            found.taken.add(running.pid)
            running.abandon()
            forgotten = getattr(running, "forgotten", value)
            if forgotten != value:
                os.kill(forgotten, signal.SIGKILL)
                os.waitpid(forgotten, 0)
            forging.met = bool(wanted(found))
    finally:
        _end(attacker, found.taken)
    return found


def _end(attacker: Running, pids: set[int]) -> None:
    """It may keep dead processes by tracing them, and cannot end before their parent has collected them after it."""
    if attacker.pid:
        os.kill(attacker.pid, signal.SIGKILL)
    while attacker.pid and os.waitid(os.P_PID, attacker.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        for pid in pids - {0, attacker.pid}:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.005)
    attacker.stop()


def _spawn(
    machine: Machine, inside: Running, document: dict[str, Any], reader: type[launching.Running]
) -> launching.Running:
    plan = machine.exec_plan(document, process(0, "sleep", "1000"), seccomp=docker_filter("CAP_SYS_PTRACE"))
    container, null = os.pidfd_open(inside.pid), os.open("/dev/null", os.O_RDWR)
    trace = Trace()
    trace.plan = plan
    try:
        return reader(machine.launcher.spawn(plan, {"container": container}, stdio=(null, null, null)), trace)
    finally:
        os.close(container)
        os.close(null)


class TestForgedTrace:
    """The container opens the trace pipe of the process that it holds, and writes records of its own."""

    def test_foreign_pid_is_not_taken(self, machine: Machine, victim: subprocess.Popen[bytes]) -> None:
        found = forge(machine, STARTED, victim.pid, launching.Running, lambda found: found.written >= 3)
        summary.add("races", f"forged Started in the trace of an exec: {found.written} records")
        assert found.written >= 3, races.NEVER
        assert victim.pid not in found.taken
        assert victim.poll() is None, "and is not killed when the exec is given up"

    def test_twin_a_reader_that_believes_kills_a_process_of_the_host(
        self, machine: Machine, victim: subprocess.Popen[bytes]
    ) -> None:
        found = forge(machine, STARTED, victim.pid, Believing, lambda found: victim.pid in found.taken)
        assert victim.pid in found.taken, races.NEVER
        assert not Path(f"/proc/{victim.pid}").exists(), "killed and reaped in place of the process"

    def test_forged_failure_fails_that_exec_alone(self, machine: Machine) -> None:
        def failed(found: Forged) -> bool:
            return found.written >= 3 and any("operation not permitted" in error for error in found.errors)

        found = forge(machine, EPERM, 0, launching.Running, failed)
        assert failed(found), races.NEVER
        for pid in found.taken - {0}:
            assert not Path(f"/proc/{pid}").exists()

    @pytest.mark.parametrize("kind", [0, 99999, 65539], ids=["steps", "unknown", "launcher"])
    def test_flood_and_nonsense_are_passed_over(
        self, machine: Machine, victim: subprocess.Popen[bytes], kind: int
    ) -> None:
        enough = 3000 if kind == 0 else 3
        found = forge(machine, kind, victim.pid, launching.Running, lambda found: found.written >= enough)
        assert found.written >= enough, races.NEVER
        assert victim.pid not in found.taken
        assert victim.poll() is None
        assert not found.errors
