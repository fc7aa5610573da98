"""What goes on between the launcher and others: waits, hooks, death of the parent, terminals, joined namespaces."""

from __future__ import annotations

import os
import select
import signal
import socket
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from corten.errors import InvalidArgument
from corten.launch.context import LIFE
from corten.launch.ops import Plan, Wait
from corten.launch.spawn import Done, Started, Waiting
from corten.launch.userops import ParentDeathSignal
from corten.shim import calling, protocol, remote
from support.launching import Machine, Running


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.close()


LONG_OUT, LONG_ERR = ("".join(f"{number}\n" for number in range(1, last + 1)) for last in (999, 500))


class TestConversation:
    """Waits, hooks, death of the parent."""

    def start(self, machine: Machine, document: dict[str, Any], **context: Any) -> tuple[Running, int]:
        read_fd, write_fd = os.pipe()
        plan = machine.plan(document, wait_for_start=True, **context)
        running = machine.spawn(plan, {"start": read_fd})
        os.close(read_fd)
        return running, write_fd

    def test_container_waits_for_its_start_with_nothing_of_the_host_open(self, machine: Machine) -> None:
        running, start_fd = self.start(machine, machine.config("echo", "started"))
        index = running.waiting()
        assert isinstance(running.outcome.plan.ops[index], Wait)
        links = [os.readlink(f"/proc/{running.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{running.pid}/fd")]
        assert sorted(link.partition(":")[0] for link in links) == ["/dev/null", "pipe", "pipe", "pipe", "pipe"]
        assert os.readlink(f"/proc/{running.pid}/exe") == "/memfd:corten-launch (deleted)"
        assert os.readlink(f"/proc/{running.pid}/cwd") == "/"
        os.write(start_fd, b"\0")
        os.close(start_fd)
        assert running.finish().out == "started\n"

    def test_program_of_the_launcher_cannot_be_written(self, machine: Machine) -> None:
        """CVE-2019-5736: even root finds a sealed memfd behind /proc/PID/exe."""
        running, start_fd = self.start(machine, machine.config("true"))
        running.waiting()
        with pytest.raises(OSError, match=r"busy|Operation not permitted"):
            os.truncate(f"/proc/{running.pid}/exe", 0)
        os.close(start_fd)
        running.stop()

    def test_start_that_never_comes_ends_the_container(self, machine: Machine) -> None:
        running, start_fd = self.start(machine, machine.config("true"))
        running.waiting()
        os.close(start_fd)
        assert "broken pipe" in running.finish().failure

    def test_steps_after_the_start_do_not_need_a_reader(self, machine: Machine) -> None:
        running, start_fd = self.start(machine, machine.config("echo", "alone"))
        running.waiting()
        running.launch.close()
        os.write(start_fd, b"\0")
        os.close(start_fd)
        running.outcome.events.append(Done())
        assert running.finish().out == "alone\n"

    def test_hooks_run_inside_with_the_state_on_stdin(self, machine: Machine, tmp_path: Path) -> None:
        begin = machine.rootfs / "bin/begin"
        begin.write_text("#!/bin/sh\ncat > /tmp/start-state\nhostname > /tmp/start-name\n")
        begin.chmod(0o755)
        create = tmp_path / "create"
        create.write_text(f"#!/bin/sh\ncat > {tmp_path}/state\nhostname > {tmp_path}/name\nls -A / > {tmp_path}/root\n")
        create.chmod(0o755)
        document = machine.config("sh", "-c", "cat /tmp/start-state /tmp/start-name")
        document["hooks"] = {
            "createContainer": [{"path": str(create), "args": ["create"], "env": ["PATH=/usr/bin:/bin"]}],
            "startContainer": [{"path": "/bin/begin", "env": ["PATH=/bin"]}],
        }
        done = machine.run(document)
        head = '{"ociVersion":"1.2.0","id":"c1","status":"%s","pid":1,"bundle":'
        assert (tmp_path / "state").read_text().startswith(head % "creating")
        assert set(os.listdir("/")) <= set((tmp_path / "root").read_text().split()), "its paths are the host's"
        assert done.out.startswith(head % "created")
        assert done.lines[-1].endswith("box")

    @pytest.mark.parametrize(
        ("script", "timeout", "text"),
        [
            ("exit 3", 0, "error running hook: exit status 3, stdout: , stderr:"),
            ("kill -9 $$", 0, "error running hook: signal: killed, stdout: , stderr:"),
            ("sleep 60", 1, "hook ran past specified timeout of 1.0s"),
            ("seq 999; seq 500 >&2; exit 3", 0, f"{LONG_OUT[-512:]}, stderr: {LONG_ERR[-512:]}".strip()),
        ],
    )
    def test_failed_hook_says_how(self, machine: Machine, tmp_path: Path, script: str, timeout: int, text: str) -> None:
        hook = tmp_path / "hook"
        hook.write_text(f"#!/bin/sh\n{script}\n")
        hook.chmod(0o755)
        entry = {"path": str(hook), "env": ["PATH=/bin:/usr/bin"], **({"timeout": timeout} if timeout else {})}
        document = machine.config("true")
        document["hooks"] = {"createContainer": [entry]}
        assert f"{text} (step" in machine.run(document).failure

    def test_hook_that_cannot_be_executed_is_named(self, machine: Machine) -> None:
        document = machine.config("true")
        document["hooks"] = {"createContainer": [{"path": "/bin/true"}, {"path": "/etc/passwd"}]}
        failure = machine.run(document).failure
        assert "error running hook #1: fork/exec /etc/passwd: permission denied (step" in failure

    def test_host_acts_while_the_container_waits(self, machine: Machine) -> None:
        read_fd, write_fd = os.pipe()
        running = machine.spawn(machine.plan(machine.config("true"), wait_for_hooks=True), {"hooks": read_fd})
        os.close(read_fd)
        running.waiting()
        assert os.readlink(f"/proc/{running.pid}/ns/net") != os.readlink("/proc/self/ns/net")
        os.write(write_fd, b"\0")
        os.close(write_fd)
        assert running.finish().status == 0

    def test_container_of_a_dead_shim_dies(self, machine: Machine) -> None:
        read_fd, write_fd = os.pipe()
        shim = os.fork()
        if shim == 0:
            plan = machine.plan(machine.config("sleep", "1000"), parent="shim")
            running = machine.spawn(plan, {LIFE: os.eventfd(0, os.EFD_CLOEXEC)})
            running.executed()
            os.write(write_fd, str(running.pid).encode())
            signal.pause()
        os.close(write_fd)
        pidfd = os.pidfd_open(int(os.read(read_fd, 20)))
        os.close(read_fd)
        os.kill(shim, signal.SIGKILL)
        os.waitpid(shim, 0)
        assert select.select([pidfd], [], [], 60)[0], "the container outlives its shim"
        os.close(pidfd)

    @pytest.mark.parametrize("dead", ["the reader of the trace", "the parent"])
    def test_shim_that_died_before_the_signal_was_set_is_noticed(self, machine: Machine, dead: str) -> None:
        read_fd, write_fd = os.pipe()
        life = os.eventfd(0, os.EFD_CLOEXEC)
        plan = machine.plan(machine.config("true"), parent="shim")
        running = machine.spawn(plan, {"test": read_fd, LIFE: life}, transform=wait_before_it)
        running.waiting()
        if dead == "the parent":
            os.eventfd_write(life, 1)
        else:
            running.launch.close()
            running.outcome.events.append(Done())
        os.write(write_fd, b"\0")
        for fd in (read_fd, write_fd, life):
            os.close(fd)
        assert running.finish().status == 1

    def test_a_helper_that_reads_the_trace_hides_no_shim_that_died(self, machine: Machine) -> None:
        read_fd, write_fd = os.pipe()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        shim = os.fork()
        if shim == 0:
            ours.close()
            body, fds = protocol.receive(theirs)
            pid = calling.spawn(protocol.decode(body)["offsets"], fds, (0, 1, 2))
            protocol.send(theirs, protocol.encode({"pid": pid}))
            signal.pause()
        theirs.close()
        plan = machine.plan(machine.config("sleep", "1000"), parent="shim")
        with ours:
            helper = remote.RemoteLauncher(machine.launcher, remote.Caller(ours))
            launch = helper.spawn(plan, {"test": read_fd}, transform=wait_before_it)
            events = launch.events()
            while not any(isinstance(event, Waiting) for event in events):
                events += launch.events()
            pidfd = os.pidfd_open(next(event.pid for event in events if isinstance(event, Started)))
            os.kill(shim, signal.SIGKILL)
            os.waitpid(shim, 0)
            os.write(write_fd, b"\0")
            try:
                assert select.select([pidfd], [], [], 60)[0], "the container outlives its shim"
            finally:
                with suppress(ProcessLookupError):  # whoever adopted it may have collected it
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                launch.close()
                for fd in (read_fd, write_fd, pidfd):
                    os.close(fd)


def wait_before_it(plan: Plan) -> Plan:
    """The child waits for the test before it asks for the signal."""
    at = next(i for i, op in enumerate(plan.ops) if isinstance(op, ParentDeathSignal))
    return Plan((*plan.ops[:at], Wait("test", "the test"), *plan.ops[at:]), (*plan.inputs, "test"))


class TestTerminal:
    """A pty of the container's own devpts."""

    @pytest.fixture
    def pty(self, machine: Machine) -> Iterator[tuple[Running, int]]:
        ours, theirs = socket.socketpair()
        size = {"height": 43, "width": 132}
        script = "trap 'exit 99' INT; tty; stty size; while read line; do echo $line; done"
        document = machine.config("sh", "-c", script, terminal=True, consoleSize=size)
        running = machine.spawn(machine.plan(document, console=True), {"console": theirs.fileno()})
        theirs.close()
        name, fds, _, _ = socket.recv_fds(ours, 64, 4)
        ours.close()
        assert name == b"/dev/ptmx"
        (master,) = fds
        yield running, master
        os.close(master)
        running.stop()

    def read_until(self, fd: int, text: bytes) -> bytes:
        data = b""
        while text not in data:
            data += os.read(fd, 4096)
        return data

    def test_terminal_is_the_containers(self, pty: tuple[Running, int]) -> None:
        _, master = pty
        lines = self.read_until(master, b"43 132\r\n").split()
        assert lines[0] in (b"/dev/console", b"/dev/pts/0")
        os.write(master, b"typed\n")
        assert b"typed\r\ntyped\r\n" in self.read_until(master, b"typed\r\ntyped\r\n")

    def test_interrupt_reaches_the_foreground(self, pty: tuple[Running, int]) -> None:
        running, master = pty
        self.read_until(master, b"43 132\r\n")
        running.executed()
        os.write(master, b"hello\n")
        self.read_until(master, b"hello\r\nhello")
        os.write(master, b"\x03")
        status = os.waitstatus_to_exitcode(os.waitpid(running.pid, 0)[1])
        running.outcome.status = status
        assert status == 99

    def test_size_can_be_changed_by_the_master(self, pty: tuple[Running, int]) -> None:
        _, master = pty
        termios.tcsetwinsize(master, (10, 20))
        assert termios.tcgetwinsize(master) == (10, 20)

    def test_terminal_needs_a_socket(self, machine: Machine) -> None:
        with pytest.raises(InvalidArgument, match="cannot allocate tty"):
            machine.plan(machine.config("true", terminal=True))

    def test_console_is_a_bind_of_the_terminal(self, machine: Machine) -> None:
        ours, theirs = socket.socketpair()
        script = "stat -c %t:%T /dev/console; stat -L -c %t:%T /proc/self/fd/0"
        document = machine.config("sh", "-c", script, terminal=True)
        running = machine.spawn(machine.plan(document, console=True), {"console": theirs.fileno()})
        theirs.close()
        _, (master,), _, _ = socket.recv_fds(ours, 64, 4)
        ours.close()
        data = self.read_until(master, b"\r\n88:0\r\n")
        assert data == b"88:0\r\n88:0\r\n"
        os.close(master)
        running.stop()


def test_joined_namespaces_are_the_others(machine: Machine) -> None:
    with machine.container() as first:
        script = "for name in net ipc uts; do readlink /proc/self/ns/$name; done; echo $$; ls /proc"
        document = machine.config("sh", "-c", script)
        document["hostname"] = ""
        names = {"network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid"}
        document["linux"]["namespaces"] = [
            {"type": "mount"},
            *({"type": type, "path": f"/proc/{first.pid}/ns/{name}"} for type, name in names.items()),
        ]
        done = machine.run(document)
        assert done.failure == ""
        assert done.lines[:3] == [os.readlink(f"/proc/{first.pid}/ns/{name}") for name in ("net", "ipc", "uts")]
        assert int(done.lines[3]) > 1
        assert "1" in done.lines[4:], "its /proc shows the first container's processes"
