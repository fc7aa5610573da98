"""cortend as a unit of systemd: our files installed, its socket, its life and death, its log driver journald.

The tests run in the order of the file: all have one machine, one service and one container, `box`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import images, paths, peers
from support.process import wait_for
from support.units import show

UNITS = Path("/etc/systemd/system")
SERVICE, SOCKET = "cortend.service", "cortend.socket"
CONFIG = Path("/etc/corten/daemon.json")
CORTEN = str(paths.COMMANDS / "corten")
IMAGE = images.BUSYBOX_REF
PATIENCE_S = 240.0
# counts on, a line a tenth of a second
COUNT = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"


def run(*argv: str, check: bool = True) -> str:
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=PATIENCE_S)
    assert not check or done.returncode == 0, f"{argv}: {done.returncode}: {done.stdout}{done.stderr}{state()}"
    return done.stdout.strip()


def corten(*words: str, check: bool = True) -> str:
    return run(CORTEN, *words, check=check)


def state() -> str:
    """What the machine says of the service, for a failure."""
    argv = ["journalctl", "--no-pager", "-n", "40", "-o", "cat", "-u", SERVICE]
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=PATIENCE_S).stdout


def main_pid() -> int:
    return int(show(SERVICE, ("MainPID",))["MainPID"])


def running_pid() -> int:
    """Of a cortend that serves, whatever an earlier test left."""
    run("systemctl", "start", SERVICE)
    wait_active()
    found = main_pid()
    assert found > 1
    return found


def wait_active() -> None:
    try:
        wait_for(lambda: show(SERVICE, ("SubState",)) == {"SubState": "running"}, f"start of {SERVICE}", PATIENCE_S)
    except AssertionError as error:
        facts = show(SERVICE, ("SubState", "MainPID", "NRestarts", "Result"))
        raise AssertionError(f"{error}: {facts}\n{state()}") from error


def pid_of(name: str) -> int:
    return int(corten("inspect", "-f", "{{.State.Pid}}", name))


def last_line(name: str) -> int:
    return int(corten("logs", "--tail", "1", name))


def drop_in(text: str) -> None:
    folder = UNITS / f"{SERVICE}.d"
    folder.mkdir(exist_ok=True)
    (folder / "test.conf").write_text(f"[Service]\nExecStart=\nExecStart={paths.COMMANDS}/cortend --host fd://\n{text}")
    run("systemctl", "daemon-reload")


@pytest.fixture(scope="module", autouse=True)
def installed() -> Iterator[None]:
    """Our units at the place where a package would put them; at the end everything of the engine is gone."""
    for name in (SERVICE, SOCKET):
        (UNITS / name).write_text((paths.REPOSITORY / "units" / name).read_text())
    with Path("/etc/group").open("a") as groups:
        groups.write("docker:x:999:\n")
    CONFIG.parent.mkdir()
    CONFIG.write_text("{}")
    drop_in("")
    run("systemctl", "start", SOCKET)
    yield
    run("systemctl", "stop", SOCKET, SERVICE)
    run(str(paths.COMMANDS / "cortend"), "--destroy")
    assert not list(Path("/sys/fs/cgroup").glob("corten-*"))


@pytest.fixture(scope="module")
def box() -> int:
    """A container that counts; its pid."""
    corten("load", "-i", str(images.busybox()))
    corten(
        "run", "-d", "--name", "box", "--memory", "64m", "--pids-limit", "55", "--cpus", "0.5", IMAGE, "sh", "-c", COUNT
    )
    return pid_of("box")


@pytest.mark.slow
def test_the_first_client_starts_the_service_by_its_socket() -> None:
    assert show(SERVICE, ("ActiveState",)) == {"ActiveState": "inactive"}
    facts = Path("/run/corten/corten.sock").stat()
    assert (facts.st_mode & 0o777, facts.st_uid, facts.st_gid) == (0o660, 0, 999)
    assert corten("info", "-f", "{{.CgroupVersion}}") == "2"
    wait_active()
    wanted = {"Delegate": "yes", "KillMode": "process", "OOMPolicy": "continue", "NRestarts": "0", "Type": "notify"}
    assert show(SERVICE, tuple(wanted)) == wanted


@pytest.mark.slow
def test_a_restart_and_a_stop_of_the_unit_leave_a_container_alone(box: int) -> None:
    for verb in ("restart", "stop"):
        before = running_pid()
        run("systemctl", verb, SERVICE)
        assert Path(f"/proc/{box}").exists()
        wait_for(lambda: pid_of("box") == box, "container of before", PATIENCE_S)  # starts it after a stop
        wait_active()
        assert main_pid() != before
    count = last_line("box")
    wait_for(lambda: last_line("box") > count, "further lines", PATIENCE_S)
    assert corten("exec", "box", "echo", "there") == "there"


@pytest.mark.slow
def test_without_its_socket_it_cannot_be_reached_and_what_runs_runs_on(box: int) -> None:
    run("systemctl", "stop", SOCKET, SERVICE)
    argv = [str(peers.docker_cli()), "-H", "unix:///run/corten/corten.sock", "ps"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, "Cannot connect to the Docker daemon" in done.stderr) == (1, True), done.stderr
    done = subprocess.run([CORTEN, "ps"], check=False, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, "`systemctl start cortend.socket` makes it so" in done.stderr) == (1, True), done.stderr
    assert Path(f"/proc/{box}").exists()
    run("systemctl", "start", SERVICE)  # which requires the socket
    assert pid_of("box") == box


@pytest.mark.slow
def test_a_death_of_cortend_is_followed_by_a_start(box: int) -> None:
    before = running_pid()
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: main_pid() not in (0, before), "new cortend", PATIENCE_S)
    wait_active()
    assert pid_of("box") == box
    lines = corten("logs", "box").split()
    assert lines == [str(number + 1) for number in range(len(lines))]


def members(cgroup: str) -> set[int]:
    """The processes of a cgroup and of those below, as a kill of all of a unit finds them."""
    folder = Path("/sys/fs/cgroup") / cgroup.strip("/")
    return {int(word) for file in folder.rglob("cgroup.procs") for word in file.read_text().split()}


def shims_of(box: int) -> str:
    """The cgroup of the shim of a container by its init."""
    shim = Path(f"/proc/{box}/stat").read_text().rpartition(")")[2].split()[1]
    return Path(f"/proc/{shim}/cgroup").read_text().strip().partition("::")[2]


def recovered() -> None:
    """A cortend that serves, after one that may have ended too often."""
    run("systemctl", "reset-failed", SERVICE, check=False)
    running_pid()


@pytest.mark.slow
def test_the_cgroup_of_the_unit_has_cortend_alone_and_a_kill_of_it_all_hits_nobody_else(box: int) -> None:
    before = running_pid()
    (data,) = Path("/sys/fs/cgroup").glob("corten-*-shims")
    assert shims_of(box) == f"/{data.name}"
    group = show(SERVICE, ("ControlGroup",))["ControlGroup"]
    assert members(group) == {before}
    assert (data / "cgroup.subtree_control").read_text().strip() == ""
    run("systemctl", "kill", "-s", "KILL", "--kill-whom=all", SERVICE)
    wait_for(lambda: main_pid() not in (0, before), "new cortend", PATIENCE_S)
    recovered()
    assert pid_of("box") == box


@pytest.mark.slow
def test_a_stop_that_kills_all_of_the_unit_leaves_a_container_alone(box: int) -> None:
    drop_in("KillMode=control-group\n")
    recovered()
    run("systemctl", "restart", SERVICE)
    assert Path(f"/proc/{box}").exists()
    recovered()
    assert pid_of("box") == box
    drop_in("")


@pytest.mark.slow
def test_a_limit_of_memory_that_kills_cortend_takes_no_container_along(box: int) -> None:
    before, count = running_pid(), last_line("box")
    run("systemctl", "set-property", "--runtime", SERVICE, "MemoryMax=1M")
    wait_for(lambda: main_pid() != before, "its end", PATIENCE_S)
    run("systemctl", "set-property", "--runtime", SERVICE, "MemoryMax=infinity")
    assert f"Killed process {before} (" in run("dmesg")  # and nothing but the kernel did it
    recovered()
    assert pid_of("box") == box
    wait_for(lambda: last_line("box") > count, "further lines", PATIENCE_S)
    assert "left-over process" not in run("journalctl", "--no-pager", "-o", "cat", "-u", SERVICE)


@pytest.mark.slow
def test_limits_outlive_a_reload_of_systemd_itself(box: int) -> None:
    cgroup = Path("/sys/fs/cgroup") / Path(f"/proc/{box}/cgroup").read_text().strip().partition("::/")[2]
    files = ("memory.max", "pids.max", "cpu.max")
    assert [(cgroup / name).read_text().strip() for name in files] == [str(64 << 20), "55", "50000 100000"]
    assert "cortend.service" not in str(cgroup)
    run("systemctl", "daemon-reload")
    run("systemctl", "daemon-reexec")
    assert [(cgroup / name).read_text().strip() for name in files] == [str(64 << 20), "55", "50000 100000"]
    # another unit's limits make systemd look at the controllers of the root anew
    run("systemd-run", "--scope", "--quiet", "-p", "IOWeight=50", "-p", "AllowedCPUs=0", "true")
    assert [(cgroup / name).read_text().strip() for name in files] == [str(64 << 20), "55", "50000 100000"]
    assert corten("run", "--rm", "--memory", "32m", "--cpuset-cpus", "0", IMAGE, "echo", "x") == "x"


@pytest.mark.slow
def test_systemctl_reload_takes_daemon_json_over(box: int) -> None:
    before = running_pid()
    CONFIG.write_text(json.dumps({"labels": ["quarry=one"]}))
    run("systemctl", "reload", SERVICE)
    wait_for(lambda: corten("info", "-f", "{{.Labels}}") == "[quarry=one]", "label", PATIENCE_S)
    assert (main_pid(), show(SERVICE, ("SubState",))) == (before, {"SubState": "running"})


# the log driver journald


def entries(name: str, count: int) -> list[dict[str, Any]]:
    """What the journal has of a container, once it has `count` entries."""
    argv = ("journalctl", "--no-pager", "-o", "json", "--all", f"CONTAINER_NAME={name}")

    def found() -> list[dict[str, Any]]:
        return [json.loads(line) for line in run(*argv).splitlines()]

    wait_for(lambda: len(found()) >= count, f"{count} entries", PATIENCE_S)
    return found()


SCRIPT = "echo one; echo two >&2; head -c 20000 /dev/zero | tr '\\0' x; echo; printf 'a\\033[1mb\\n'; printf last"
OPTIONS = (
    *(
        "--log-driver",
        "journald",
        "--log-opt",
        "labels=quarry",
        "--log-opt",
        "env=STONE",
        "--log-opt",
        "tag={{.Name}}/t",
    ),
    *("--label", "quarry=one", "-e", "STONE=granite", "--network", "none"),
)
# that of every entry
SAID = {
    **{"CONTAINER_NAME": "ours", "CONTAINER_TAG": "ours/t", "SYSLOG_IDENTIFIER": "ours/t", "IMAGE_NAME": IMAGE},
    **{"QUARRY": "one", "STONE": "granite", "_TRANSPORT": "journal"},
}


@pytest.mark.slow
def test_the_journal_has_dockers_fields(box: int) -> None:
    corten("run", "--name", "ours", *OPTIONS, IMAGE, "sh", "-c", SCRIPT)
    id = corten("inspect", "-f", "{{.Id}}", "ours")
    found = sorted(entries("ours", 6), key=lambda one: int(one["CONTAINER_LOG_ORDINAL"]))
    for entry in found:
        assert {name: entry.get(name) for name in SAID} == SAID
        assert (entry["CONTAINER_ID"], entry["CONTAINER_ID_FULL"]) == (id[:12], id)
    assert [entry["CONTAINER_LOG_ORDINAL"] for entry in found] == list("123456")
    by_stream = {
        priority: [entry["MESSAGE"] for entry in found if entry["PRIORITY"] == priority] for priority in ("3", "6")
    }
    assert by_stream == {"3": ["two"], "6": ["one", "x" * 16384, "x" * 3616, list(b"a\033[1mb"), "last"]}
    parts = [entry for entry in found if "CONTAINER_PARTIAL_ID" in entry]
    assert [part["CONTAINER_PARTIAL_LAST"] for part in parts] == ["false", "true", "false"]  # no newline at the end
    assert [part.get("CONTAINER_PARTIAL_MESSAGE") for part in parts] == ["true", None, "true"]
    assert len({part["CONTAINER_PARTIAL_ID"] for part in parts}) == 2


@pytest.mark.slow
def test_logs_reads_back_what_went_to_the_journal(box: int) -> None:
    done = subprocess.run([CORTEN, "logs", "ours"], check=True, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout == f"one\n{'x' * 20000}\na\033[1mb\nlast"
    assert done.stderr == "two\n"
    assert corten("logs", "--details", "--tail", "1", "ours").endswith("last")


@pytest.mark.slow
def test_priorities_are_those_of_the_streams(box: int) -> None:
    argv = ("journalctl", "--no-pager", "-o", "cat", "-p", "err", "CONTAINER_NAME=ours")
    assert run(*argv) == "two"


@pytest.mark.slow
def test_a_restart_of_journald_loses_no_line(box: int) -> None:
    script = "for i in $(seq 1 60); do echo line-$i; sleep 0.1; done"
    corten("run", "-d", "--name", "lines", "--log-driver", "journald", "--network", "none", IMAGE, "sh", "-c", script)
    for _ in range(2):
        time.sleep(2)
        run("systemctl", "restart", "systemd-journald")
    corten("wait", "lines")
    wanted = [f"line-{number}" for number in range(1, 61)]
    assert corten("logs", "lines").split() == wanted
    wait_for(lambda: [one["MESSAGE"] for one in entries("lines", 1)][-1:] == wanted[-1:], "last line", PATIENCE_S)
    assert [one["MESSAGE"] for one in entries("lines", 60)] == wanted


# the watchdog


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_watchdog_ends_a_cortend_that_hangs_and_no_other(box: int) -> None:
    drop_in("WatchdogSec=40\nTimeoutAbortSec=5\n")
    run("systemctl", "restart", SERVICE)
    before = running_pid()
    time.sleep(60)  # more than one of them
    assert main_pid() == before
    os.kill(before, signal.SIGSTOP)
    wait_for(lambda: main_pid() not in (0, before), "new cortend", PATIENCE_S)
    wait_active()
    assert pid_of("box") == box
    assert "Watchdog timeout" in state()
    drop_in("")
    run("systemctl", "restart", SERVICE)


@pytest.mark.slow
def test_at_the_end_the_service_has_not_failed_and_left_nothing_behind(box: int) -> None:
    for name in ("box", "ours", "lines"):
        corten("rm", "-f", name)
    assert run("systemctl", "--failed", "--no-legend", "--plain") == ""
    corten("doctor")
