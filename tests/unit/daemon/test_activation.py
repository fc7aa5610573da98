"""What systemd hands over, and the unit files that ask it to."""

from __future__ import annotations

import asyncio
import configparser
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corten.daemon import activation, arguments, config
from corten.daemon.activation import Handed
from corten.errors import InvalidArgument
from support import paths


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """A unix socket that listens."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "s"))
        made.listen(1)
        yield made


def test_sockets_are_chosen_by_number_by_name_or_all(listener: socket.socket) -> None:
    handed = (Handed(listener.fileno(), "one"), Handed(listener.fileno(), "two"))
    for which, count in (("", 2), ("*", 2), ("two", 1), (str(listener.fileno()), 2)):
        found = activation.listeners(which, handed)
        assert [one.getsockname() for one in found] == [listener.getsockname()] * count
        for one in found:
            assert not one.getblocking()
            one.close()


def test_what_is_not_there_is_refused(listener: socket.socket) -> None:
    with pytest.raises(InvalidArgument, match="no sockets found via socket activation"):
        activation.listeners("", ())
    with pytest.raises(InvalidArgument, match="no such activated file descriptor: other"):
        activation.listeners("other", (Handed(listener.fileno(), "one"),))


def test_a_descriptor_that_does_not_listen_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as idle, (tmp_path / "x").open("w") as file:
        for fd, text in ((idle.fileno(), "no listening stream socket"), (file.fileno(), "no socket")):
            with pytest.raises(InvalidArgument, match=text):
                activation.listeners("", (Handed(fd, "x"),))


TAKE = "from corten.daemon import activation; import os; print(activation.take(), 'LISTEN_FDS' in os.environ)"


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ("LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=cortend.socket", "(Handed(fd=3, name='cortend.socket'),) False"),
        ("LISTEN_PID=$$ LISTEN_FDS=1", "(Handed(fd=3, name='unknown'),) False"),
        ("LISTEN_PID=1 LISTEN_FDS=1", "() False"),
        ("LISTEN_PID=$$ LISTEN_FDS=x", "() False"),
        ("A=b", "() False"),
    ],
)
def test_variables_count_for_this_process_alone_and_go(listener: socket.socket, variables: str, found: str) -> None:
    script = f"import os, sys; os.dup2({listener.fileno()}, 3); os.execvp('sh', ['sh', '-c', *sys.argv[1:]])"
    argv = [sys.executable, "-c", script, f'export {variables}; exec "$@"', "sh", sys.executable, "-c", TAKE]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        argv, pass_fds=[listener.fileno()], capture_output=True, text=True, check=False, timeout=30, env=environment
    )
    assert done.stdout.strip() == found, done.stderr


def test_the_manager_is_told_once_it_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notifier = activation.Notifier()
        assert "NOTIFY_SOCKET" not in os.environ
        notifier.tell("READY=1", "STATUS=serving")
        assert manager.recv(100) == b"READY=1\nSTATUS=serving"
    notifier.tell("STOPPING=1")  # nobody listens: no matter
    activation.Notifier().tell("READY=1")  # nobody asked


class Loop(asyncio.BaseEventLoop):
    """Keeps what is to be called later."""

    def __init__(self) -> None:
        super().__init__()
        self.later: list[tuple[float, Any]] = []

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        self.later.append((delay, lambda: callback(*args)))


@pytest.mark.parametrize(("process", "is_ours"), [("own", True), ("1", False), ("", True)])
def test_a_watchdog_is_fed_twice_in_its_time_and_only_by_whom_it_was_set_for(
    process: str, is_ours: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "30000000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if process == "own" else process)
        notifier = activation.Notifier()
        assert not {"WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)
        loop = Loop()
        notifier.watch(loop)
        for delay, again in list(loop.later):
            assert delay == 15.0
            again()
        notifier.tell("END=1")
        assert len(loop.later) == (2 if is_ours else 0)
        assert list(iter(lambda: manager.recv(100), b"END=1")) == [b"WATCHDOG=1"] * len(loop.later)
        loop.close()


def test_a_manager_that_reads_nothing_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation, "PATIENCE_S", 0.01)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notifier = activation.Notifier()
        manager.setblocking(False)
        full = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text()) + 10
        for _ in range(full):
            notifier.tell("WATCHDOG=1")
        assert 0 < sum(1 for _ in iter(lambda: received(manager), b"")) < full


def received(manager: socket.socket) -> bytes:
    try:
        return manager.recv(100)
    except BlockingIOError:
        return b""


def test_a_reload_is_told_with_its_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notifier = activation.Notifier()
        notifier.reloading()
        notifier.ready()
        head, _, moment = manager.recv(100).partition(b"\nMONOTONIC_USEC=")
        assert (head, moment.isdigit(), manager.recv(100)) == (b"RELOADING=1", True, b"READY=1")


# the unit files


def unit(name: str) -> configparser.RawConfigParser:
    found = configparser.RawConfigParser(strict=True)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read_string((paths.REPOSITORY / "units" / name).read_text())
    return found


def test_a_stop_of_the_service_leaves_containers_alone() -> None:
    service = unit("cortend.service")["Service"]
    assert (service["KillMode"], service["Delegate"], service["Type"]) == ("process", "yes", "notify")


def test_the_service_starts_cortend_with_flags_that_it_takes() -> None:
    program, *flags = shlex.split(unit("cortend.service")["Service"]["ExecStart"])
    assert program == "/usr/bin/cortend"
    assert arguments.parse(flags).host == ["fd://"]


def test_the_socket_is_where_the_client_looks() -> None:
    wanted = f"{config.DEFAULT_EXEC_ROOT}/{config.SOCKET_NAME}"
    assert unit("cortend.socket")["Socket"]["ListenStream"] == wanted
