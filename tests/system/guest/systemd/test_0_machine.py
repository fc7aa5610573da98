"""The machine itself: systemd is its init, and what the other tests here drive is there and runs."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

VERSIONS = {
    "systemctl": "systemd 252",
    "dockerd": "Docker version 26.1",
    "containerd": "containerd github.com/containerd/containerd 1.7",
    "ctr": "ctr github.com/containerd/containerd 1.7",
    "runc": "runc version 1.1",
    "criu": "Version: 3.17",
    "apparmor_parser": "AppArmor parser version 3.0",
}


def output(*argv: str) -> str:
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{argv}: {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


def test_systemd_runs_the_tests_as_a_service() -> None:
    assert Path("/proc/1/comm").read_text() == "systemd\n"
    assert Path("/proc/self/cgroup").read_text() == "0::/system.slice/corten.service\n"
    assert output("systemctl", "show", "--property", "Delegate,ActiveState", "corten.service").split() == [
        "Delegate=yes",
        "ActiveState=activating",
    ]


def test_systemd_starts_scopes_with_a_limit_and_removes_them() -> None:
    scope = Path("/sys/fs/cgroup/system.slice/some.scope")
    read = f"cat {scope}/pids.max"
    argv = ("systemd-run", "--scope", "--quiet", "--unit", "some", "-p", "TasksMax=33", "sh", "-c", read)
    assert output(*argv) == "33\n"
    deadline = time.monotonic() + 30
    while scope.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not scope.exists()


@pytest.mark.slow
def test_both_buses_are_there() -> None:
    for socket in ("/run/systemd/private", "/run/dbus/system_bus_socket"):
        assert Path(socket).is_socket(), socket
    argv = ("--system", "--print-reply", "--dest=org.freedesktop.systemd1", "/org/freedesktop/systemd1")
    assert "method return" in output("dbus-send", *argv, "org.freedesktop.DBus.Peer.Ping")


def test_no_unit_failed() -> None:
    assert output("systemctl", "--failed", "--no-legend", "--plain") == ""


@pytest.mark.slow
@pytest.mark.parametrize("program", VERSIONS)
def test_a_program_runs_here(program: str) -> None:
    assert output(program, "--version").startswith(VERSIONS[program])
