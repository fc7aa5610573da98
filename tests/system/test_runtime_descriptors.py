"""What the runtime's caller hands in and gets back beside stdio: sockets of a service manager, its notify socket,
pidfds, orphans; beside runc where Debian's has it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import paths, peers, process, programs, runtimes
from support.runtimes import Bundle, Runtime

SIDES = ["ours", "theirs"]


@pytest.fixture
def side(request: pytest.FixtureRequest, folder: Path) -> Iterator[Runtime]:
    """Corten's runtime or runc."""
    program = paths.COMMANDS / "corten-runtime" if request.param == "ours" else peers.binary("runc")
    made = Runtime(program, folder / request.param)
    yield made
    made.close()


# pidfds (runc 1.2) -----------------------------------------------------------------------------------------


@pytest.fixture
def listener(folder: Path) -> Iterator[socket.socket]:
    """Somebody who waits for a pidfd."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        made.bind(str(folder / "pidfd.sock"))
        made.listen(1)
        made.settimeout(60)
        yield made


def received(listener: socket.socket) -> tuple[bytes, int]:
    """The message of the one connection, and the pid behind its descriptor."""
    stream, _ = listener.accept()
    with stream:
        message, fds, _, _ = socket.recv_fds(stream, 64, 1)
        fields = Path(f"/proc/self/fdinfo/{fds[0]}").read_text()
        os.close(fds[0])
        assert stream.recv(1) == b""
    return message, int(next(line for line in fields.splitlines() if line.startswith("Pid:")).split()[1])


@pytest.mark.parametrize("verb", ["create", "run"])
def test_a_pidfd_of_the_init_arrives(corten: Runtime, folder: Path, listener: socket.socket, verb: str) -> None:
    bundle = runtimes.sleeper(folder)
    flags = ["--detach"] if verb == "run" else []
    corten.detached(verb, *flags, "--pidfd-socket", str(folder / "pidfd.sock"), "-b", str(bundle.path), "c")
    assert received(listener) == (b"standard", corten.state("c")["pid"])


def test_a_pidfd_of_an_exec_arrives(corten: Runtime, folder: Path, listener: socket.socket) -> None:
    corten.detached("run", "-d", "-b", str(runtimes.sleeper(folder).path), "c")
    words = ["--pidfd-socket", str(folder / "pidfd.sock"), "--pid-file", str(folder / "pid"), "c", "sleep", "100"]
    corten.detached("exec", "--detach", *words)
    assert received(listener) == (b"setns", int((folder / "pid").read_text()))


def test_without_a_listener_nothing_is_made(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    done = corten("create", "--pidfd-socket", str(folder / "nobody"), "-b", str(bundle.path), "c")
    assert done.returncode == 1
    assert f"pidfd socket {folder}/nobody: no such file or directory" in done.stderr
    assert not bundle.has_cgroup()


def test_a_listener_that_goes_takes_the_container_along(corten: Runtime, folder: Path, listener: socket.socket) -> None:
    def leave() -> None:
        listener.accept()[0].close()

    thread = threading.Thread(target=leave)
    thread.start()
    bundle = runtimes.sleeper(folder)
    done = corten("create", "--pidfd-socket", str(folder / "pidfd.sock"), "-b", str(bundle.path), "c")
    thread.join()
    assert (done.returncode, "broken pipe" in done.stderr.lower()) == (1, True)
    assert not bundle.has_cgroup()
    assert corten("list", "-q").stdout == ""


# socket activation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES, indirect=True)
def test_sockets_of_a_service_manager_come_before_the_preserved_ones(side: Runtime, folder: Path) -> None:
    look = "echo $LISTEN_FDS $LISTEN_PID; cat <&3; cat <&4; cat <&5; ls /proc/self/fd"
    bundle = runtimes.bundle("sh", "-c", look, folder=folder / "bundle")
    for number in (3, 4, 5):
        (folder / str(number)).write_text(f"this is {number}\n")
    script = f'export LISTEN_PID=$$ LISTEN_FDS=2; cd {folder}; exec "$@" 3<3 4<4 5<5'
    argv = side.argv("run", "--preserve-fds", "1", "-b", str(bundle.path), "c")
    done = subprocess.run(["sh", "-c", script, "sh", *argv], capture_output=True, text=True, check=False, timeout=30)
    lines = done.stdout.splitlines()
    assert lines[:4] == ["2 1", "this is 3", "this is 4", "this is 5"], done.stderr
    assert lines[4:] == ["0", "1", "2", "3", "4", "5", "6"]  # the last is the listing's own


@pytest.mark.parametrize("side", SIDES, indirect=True)
def test_sockets_that_are_for_somebody_else_are_not_handed_on(side: Runtime, folder: Path) -> None:
    bundle = runtimes.bundle("sh", "-c", "echo fds=$LISTEN_FDS; ls /proc/self/fd", folder=folder / "bundle")
    argv = ["env", "LISTEN_PID=1", "LISTEN_FDS=1", *side.argv("run", "-b", str(bundle.path), "c")]
    script = 'exec "$@" 3</dev/null'
    done = subprocess.run(["sh", "-c", script, "sh", *argv], capture_output=True, text=True, check=False, timeout=30)
    assert done.stdout.split() == ["fds=", "0", "1", "2", "3"], done.stderr


def test_a_preserved_descriptor_that_is_not_open_is_refused(corten: Runtime, folder: Path) -> None:
    """In runc's words, who says so of descriptors that Go itself has not open."""
    bundle = runtimes.bundle("true", folder=folder / "bundle")
    done = corten("run", "--preserve-fds", "2", "-b", str(bundle.path), "c")
    assert done.returncode == 1
    text = "unable to stat preserved-fd 0 (of 2): stat /proc/self/fd/3: no such file or directory"
    assert text in done.stderr


@pytest.mark.parametrize("side", SIDES, indirect=True)
def test_less_than_no_preserved_descriptors_are_none(side: Runtime, folder: Path) -> None:
    bundle = runtimes.bundle("sh", "-c", "ls /proc/self/fd", folder=folder / "bundle")
    done = side("run", "--preserve-fds", "-1", "-b", str(bundle.path), "c")
    assert (done.returncode, done.stdout.split()) == (0, ["0", "1", "2", "3"]), done.stderr


# sd_notify -------------------------------------------------------------------------------------------------


class Manager:
    """A service manager's end: takes messages, answers barriers by closing what comes with them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "manager.sock"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.settimeout(60)

    def messages(self, side: Runtime) -> list[bytes]:
        """What comes up to the pid, and to the barrier behind it, which Debian's runc has not yet."""
        found: list[bytes] = []
        last = b"MAINPID=" if "runc" in side.program else b"BARRIER=1"
        while not found or not found[-1].startswith(last):
            message, fds, _, _ = socket.recv_fds(self.socket, 4096, 1)
            found.append(message)
            for fd in fds:
                os.close(fd)
        return [message for message in found if message != b"BARRIER=1"]


@pytest.fixture
def manager(folder: Path) -> Iterator[Manager]:
    """A service manager."""
    made = Manager(folder)
    yield made
    made.socket.close()


def notifier(folder: Path, build_program: Path) -> Bundle:
    """A bundle whose process says of itself what services say."""
    bundle = runtimes.bundle("/bin/notify", folder=folder / "bundle")
    target = bundle.path / "rootfs/bin/notify"
    target.write_bytes(build_program.read_bytes())
    target.chmod(0o755)
    return bundle


NOTIFY_C = r"""
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
int main(void) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    strncpy(to.sun_path, getenv("NOTIFY_SOCKET"), sizeof to.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    const char *said[] = {"STATUS=starting", "READY=1\nSTATUS=up"};
    for (int i = 0; i < 2; i++) {
        if (sendto(fd, said[i], strlen(said[i]), 0, (struct sockaddr *)&to, sizeof to) < 0) return 9;
        usleep(300000);
    }
    pause();
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service, without libraries."""
    folder = tmp_path_factory.mktemp("notify")
    (folder / "notify.c").write_text(NOTIFY_C)
    return programs.build(folder / "notify.c", folder / "notify")


def spawn(side: Runtime, manager: Manager, *words: str) -> subprocess.Popen[bytes]:
    """A verb under a service manager."""
    environment = {**os.environ, "NOTIFY_SOCKET": str(manager.path)}
    return subprocess.Popen(
        side.argv(*words), env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def finished(command: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    """Exit status and stderr of what does not stay."""
    with command:
        status = command.wait(60)
        assert command.stderr is not None
        return status, command.stderr.read() if status else b""


@pytest.mark.parametrize("side", SIDES, indirect=True)
def test_start_waits_until_the_process_is_ready_and_the_manager_knows(
    side: Runtime, folder: Path, manager: Manager, program: Path
) -> None:
    bundle = notifier(folder, program)
    assert finished(spawn(side, manager, "create", "-b", str(bundle.path), "c")) == (0, b"")
    before = time.monotonic()
    started = spawn(side, manager, "start", "c")
    said = manager.messages(side)
    assert finished(started) == (0, b"")
    assert time.monotonic() - before > 0.2  # it was not ready at once
    assert said == [b"READY=1\n", f"MAINPID={side.state('c')['pid']}\n".encode()]


@pytest.mark.parametrize("side", SIDES, indirect=True)
def test_a_detached_run_waits_as_well(side: Runtime, folder: Path, manager: Manager, program: Path) -> None:
    bundle = notifier(folder, program)
    command = spawn(side, manager, "run", "-d", "-b", str(bundle.path), "c")
    said = manager.messages(side)
    assert finished(command) == (0, b"")
    assert said == [b"READY=1\n", f"MAINPID={side.state('c')['pid']}\n".encode()]


@pytest.mark.parametrize("side", SIDES, indirect=True)
def test_a_run_in_the_foreground_is_itself_the_main_process(
    side: Runtime, folder: Path, manager: Manager, program: Path
) -> None:
    bundle = notifier(folder, program)
    command = spawn(side, manager, "run", "-b", str(bundle.path), "c")
    said = manager.messages(side)
    assert said == [b"READY=1\n", f"MAINPID={command.pid}\n".encode()]
    side("kill", "c", "KILL", check=True)
    assert finished(command)[0] == 137


def test_a_process_that_ends_without_a_word_keeps_nobody_waiting(
    corten: Runtime, folder: Path, manager: Manager
) -> None:
    bundle = runtimes.bundle("true", folder=folder / "bundle")
    assert finished(spawn(corten, manager, "create", "-b", str(bundle.path), "c")) == (0, b"")
    assert finished(spawn(corten, manager, "start", "c")) == (0, b"")
    assert finished(spawn(corten, manager, "start", "c"))[0] == 1
    corten("delete", "c", check=True)
    assert list((folder / "root").iterdir()) == []


# orphans ---------------------------------------------------------------------------------------------------

ORPHAN = "(sleep 1003 & echo $! > /tmp/orphan); sleep 1004"


@pytest.mark.parametrize("side", SIDES, indirect=True)
@pytest.mark.parametrize("flags", [(), ("--no-subreaper",)], ids=["subreaper", "none"])
def test_orphans_without_a_pid_namespace_become_children_of_the_run(
    side: Runtime, folder: Path, flags: tuple[str, ...]
) -> None:
    bundle = runtimes.bundle("sh", "-c", ORPHAN, folder=folder / "bundle")
    bundle.config["root"]["readonly"] = False
    namespaces = bundle.config["linux"]["namespaces"]
    bundle.config["linux"]["namespaces"] = [row for row in namespaces if row["type"] != "pid"]
    bundle.save()
    note = bundle.path / "rootfs/tmp/orphan"
    with subprocess.Popen(side.argv("run", *flags, "-b", str(bundle.path), "c"), stdin=subprocess.DEVNULL) as command:
        process.wait_for(lambda: note.exists() and note.read_text().endswith("\n"), "the orphan")
        orphan = int(note.read_text())
        process.wait_for(lambda: parent(orphan) != side.state("c")["pid"], "its parent's end")
        assert (parent(orphan) == command.pid) == (not flags)
        os.kill(orphan, signal.SIGKILL)
        process.wait_for(lambda: not Path(f"/proc/{orphan}").exists(), "the orphan to be collected")
        side("kill", "c", "KILL", check=True)
        assert command.wait(60) == 137


def parent(pid: int) -> int:
    """The parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


# exec --cgroup ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES, indirect=True)
def test_an_exec_goes_into_the_cgroups_that_it_is_told(side: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    namespaces = bundle.config["linux"]["namespaces"]
    bundle.config["linux"]["namespaces"] = [row for row in namespaces if row["type"] != "cgroup"]
    bundle.save()
    side.detached("run", "-d", "-b", str(bundle.path), "c")
    path = bundle.config["linux"]["cgroupsPath"]
    for controller in ("memory", "pids"):
        (process.CGROUPS / controller / path.lstrip("/") / "sub").mkdir()
    done = side("exec", "--cgroup", "memory,pids:sub", "c", "cat", "/proc/self/cgroup", check=True)
    rows = dict(line.split(":", 2)[1:] for line in done.stdout.splitlines())
    assert (rows["memory"], rows["pids"], rows["freezer"]) == (f"{path}/sub", f"{path}/sub", path)
    refused = {
        "cpu:../..": "../.. is not a sub cgroup path",
        "nope:sub": "unknown controller nope in SubCgroupPaths",
        "memory:a:b": "invalid --cgroup argument: memory:a:b",
    }
    for given, text in refused.items():
        done = side("exec", "--cgroup", given, "c", "true")
        assert (done.returncode, text in done.stderr) == (255, True), done.stderr
    done = side("exec", "--cgroup", "memory:sub", "--cgroup", "sub", "c", "true")
    assert "invalid --cgroup argument: sub (missing <controller>: prefix)" in done.stderr
