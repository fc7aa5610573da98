"""The verdict on a run, on real deaths: what is said, by what it is known, and what stays unknown."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from clients.api import Api
from support import images
from support.engine import CortenEngine
from support.loopdisk import LoopDisk
from support.process import wait_for

IMAGE = "corten-test/busybox:1"
# `eat` takes more than the limit; the shell that waits for it does not
EAT = "tail -c 200m /dev/zero >/dev/null"
RUNTIMES = ["corten", "runc", pytest.param("crun", marks=pytest.mark.slow)]


@contextmanager
def container(engine: CortenEngine, *arguments: str, name: str = "dying") -> Iterator[str]:
    """One that is started in the background, and removed at the end."""
    engine.docker("run", "-d", "--name", name, *arguments)
    try:
        yield name
    finally:
        engine.docker("rm", "-f", name)


def inspected(engine: CortenEngine, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(engine.docker("inspect", name, check=True).stdout)[0]
    return found


def verdict(engine: CortenEngine, name: str) -> dict[str, Any]:
    """Of a container that has ended, or ends now."""
    engine.docker("wait", name)
    found: dict[str, Any] = inspected(engine, name)["Corten"]["Verdict"]
    return found


def events(engine: CortenEngine, name: str, action: str) -> list[dict[str, str]]:
    """The attributes of those of this container that are kept."""
    ident = inspected(engine, name)["Id"]
    query = ("--since", "1", "--until", f"{time.time():.9f}", "--filter", f"container={ident}")
    lines = engine.docker("events", *query, "--filter", f"event={action}", "--format", "{{json .}}").stdout
    return [json.loads(line)["Actor"]["Attributes"] for line in lines.splitlines()]


def claims(found: dict[str, Any]) -> str:
    return "\n".join(f"{one['Claim']} | {one['Evidence']}" for one in found["Claims"])


def test_an_exit_code_is_what_the_process_gave_and_nothing_is_read_into_137(shared_engine: CortenEngine) -> None:
    with container(shared_engine, IMAGE, "sh", "-c", "echo bye; exit 137") as name:
        found = verdict(shared_engine, name)
        assert (found["Cause"], found["ExitCode"], found["Signal"]) == ("exited", 137, 0)
        assert found["Sentence"] == "exited with code 137"
        assert "Memory" not in found
        shown = shared_engine.corten("why", name, check=True).stdout
        assert "exited with code 137" in shown
        assert "CLD_EXITED" in shown
        assert "bye" in shown


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_kill_is_told_with_client_and_operation(shared_engine: CortenEngine, runtime: str) -> None:
    with container(shared_engine, "--runtime", runtime, IMAGE, "sleep", "1000") as name:
        shared_engine.docker("kill", name, check=True)
        found = verdict(shared_engine, name)
        assert (found["Cause"], found["ExitCode"], found["Signal"]) == ("signal", 137, 9)
        sender = found["Sender"]
        assert (sender["By"], sender["Uid"], sender["Command"]) == ("client", os.getuid(), "docker")
        assert sender["Pid"] > 0
        assert sender["Operation"].startswith("POST /v")
        assert sender["Operation"].endswith(f"/containers/{name}/kill")
        assert found["Sentence"].startswith("killed by SIGKILL for docker (pid ")


def test_a_stop_that_has_to_kill_tells_both_signals(shared_engine: CortenEngine) -> None:
    with container(shared_engine, IMAGE, "sleep", "1000") as name:  # as pid 1 it does not hear SIGTERM
        shared_engine.docker("stop", "-t", "0", name, check=True)
        found = verdict(shared_engine, name)
        assert [kill["Signal"] for kill in found["Kills"]] == [15, 9]
        assert "/stop?" in found["Sender"]["Operation"]
    script = "trap 'exit 3' TERM; echo r; while :; do sleep 0.05; done"
    with container(shared_engine, IMAGE, "sh", "-c", script) as name:
        wait_for(lambda: shared_engine.docker("logs", name).stdout == "r\n", "trap")
        shared_engine.docker("stop", name, check=True)
        found = verdict(shared_engine, name)
        assert (found["Cause"], found["ExitCode"], found["Signal"]) == ("exited", 3, 0)
        assert found["Sentence"].startswith("exited with code 3 after SIGTERM for docker (pid ")
        assert "Sender" not in found


def test_the_sender_of_a_signal_from_elsewhere_is_unknown(shared_engine: CortenEngine) -> None:
    with container(shared_engine, IMAGE, "sleep", "1000") as name:
        shared_engine.docker("kill", "-s", "USR2", name, check=True)  # pid 1 has no default actions: it lives on
        os.kill(inspected(shared_engine, name)["State"]["Pid"], signal.SIGKILL)
        found = verdict(shared_engine, name)
        assert (found["Cause"], found["Signal"], found["Sender"]) == ("signal", 9, "unknown")
        assert "sender unknown" in found["Sentence"]
        assert "no SIGKILL was sent by Corten" in claims(found)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_init_that_is_killed_for_want_of_memory(shared_engine: CortenEngine, runtime: str) -> None:
    with container(shared_engine, "--runtime", runtime, "-m", "16m", IMAGE, "sh", "-c", f"exec {EAT}") as name:
        found = verdict(shared_engine, name)
        assert (found["Cause"], found["ExitCode"], found["Signal"]) == ("oom", 137, 9)
        memory = found["Memory"]
        assert (memory["OomKills"], memory["Limit"]) == (1, 16 << 20)
        assert 0 < memory["Peak"] <= 16 << 20
        (victim,) = memory["Victims"]
        assert victim["Name"] == "tail"
        assert victim["LimitCgroup"].endswith(inspected(shared_engine, name)["Id"])
        assert found["Sentence"] == f"killed by the kernel for want of memory at the limit of {16 << 20} bytes"
        assert "kernel log, record" in claims(found)


def test_a_name_that_looks_like_the_kernels_fields_misleads_nobody(shared_engine: CortenEngine) -> None:
    """A process names itself as it likes, also while the kernel writes of it, and what is shown moves no cursor."""
    script = r"printf ',pid=1,uid=7\033[2J' > /proc/self/comm; a=xxxxxxxx; while :; do a=$a$a; done"
    with container(shared_engine, "-m", "16m", IMAGE, "sh", "-c", script) as name:
        pid = inspected(shared_engine, name)["State"]["Pid"]
        found = verdict(shared_engine, name)
        assert found["Cause"] == "oom"
        (victim,) = found["Memory"]["Victims"]
        assert (victim["Name"][:12], victim["Uid"]) == (",pid=1,uid=7", 0)
        assert victim["Pid"] == pid or not pid  # 0 when it was quicker
        assert "\033" not in shared_engine.corten("why", name, check=True).stdout
        (event,) = events(shared_engine, name, "die")
        assert "\033" not in event["verdict"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_child_that_is_killed_for_want_of_memory_is_an_event_and_not_the_end(
    shared_engine: CortenEngine, runtime: str
) -> None:
    script = f"({EAT}); echo $?; sleep 1000"
    with container(shared_engine, "--runtime", runtime, "-m", "16m", IMAGE, "sh", "-c", script) as name:
        wait_for(lambda: shared_engine.docker("logs", name).stdout == "137\n", "death of the child")
        wait_for(lambda: bool(events(shared_engine, name, "oom")), "event of the child")
        assert [event["oomKills"] for event in events(shared_engine, name, "oom")] == ["1"]
        shown = shared_engine.corten("why", name, check=True).stdout
        assert "running since" in shown
        assert "killed for want of memory: 1" in shown
        assert "tail (pid " in shown
        shared_engine.docker("kill", "-s", "9", name, check=True)
        found = verdict(shared_engine, name)
        assert (found["Cause"], found["Sender"]["Command"]) == ("signal", "docker")
        assert found["Memory"]["OomKills"] == 1
        assert [one["Name"] for one in found["Memory"]["Victims"]] == ["tail"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_processes_that_were_refused_are_counted_with_the_limit(shared_engine: CortenEngine, runtime: str) -> None:
    bomb = "for i in $(seq 40); do sleep 1000 & done; exit 7"
    with container(shared_engine, "--runtime", runtime, "--pids-limit", "10", IMAGE, "sh", "-c", bomb) as name:
        found = verdict(shared_engine, name)
        assert found["Processes"]["Limit"] == 10
        assert found["Processes"]["Refused"] > 0
        assert f"processes refused at the limit of 10: {found['Processes']['Refused']}" in found["Sentence"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_missing_program_is_named(shared_engine: CortenEngine, runtime: str) -> None:
    with container(shared_engine, "--runtime", runtime, IMAGE, "/no/such/program") as name:
        found = inspected(shared_engine, name)["Corten"]["Verdict"]
        assert (found["Cause"], found["ExitCode"]) == ("not-started", 127)
        assert "/no/such/program" in found["Sentence"]
        if runtime == "corten":
            failure = found["Failure"]
            assert (failure["Path"], failure["Errno"]) == ("/no/such/program", "ENOENT")
        assert "/no/such/program" in shared_engine.corten("why", name, check=True).stdout


def test_a_mount_that_fails_is_named_with_its_path(shared_engine: CortenEngine, tmp_path: Path) -> None:
    with container(shared_engine, "-v", f"{tmp_path}:/etc/passwd", IMAGE, "true") as name:
        found = inspected(shared_engine, name)["Corten"]["Verdict"]
        assert found["Cause"] == "not-started"
        assert found["Failure"]["Path"] == "/etc/passwd"
        assert found["Failure"]["Errno"] == "ENOTDIR"
    missing = ("--mount", f"type=bind,source={tmp_path}/was-here,target=/x")
    (tmp_path / "was-here").mkdir()
    shared_engine.docker("create", "--name", "gone", *missing, IMAGE, "true", check=True)
    try:
        (tmp_path / "was-here").rmdir()
        assert shared_engine.docker("start", "gone").returncode
        found = inspected(shared_engine, "gone")["Corten"]["Verdict"]
        assert f"{tmp_path}/was-here" in found["Sentence"]
    finally:
        shared_engine.docker("rm", "-f", "gone")


def test_a_failing_health_check_that_ends_it_is_the_sender(shared_engine: CortenEngine) -> None:
    check = ("--health-cmd", "false", "--health-interval", "50ms", "--health-retries", "1")
    made = ("create", "--name", "ill", *check, "--health-on-failure", "kill", IMAGE, "sleep", "1000")
    shared_engine.corten(*made, check=True)
    try:
        shared_engine.docker("start", "ill", check=True)
        found = verdict(shared_engine, "ill")
        assert found["Sender"] == {"By": "health check", "Operation": "on failure kill"}
        assert found["Sentence"] == "killed by SIGKILL for health check: on failure kill"
        assert "the health check failed: exit code 1 | its last probe" in claims(found)
    finally:
        shared_engine.docker("rm", "-f", "ill")


def test_a_call_that_seccomp_kills_for_is_told_where_the_kernel_logs_it(
    shared_engine: CortenEngine, tmp_path: Path
) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}],
    }
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    given = ("--security-opt", f"seccomp={tmp_path}/profile.json")
    with container(shared_engine, *given, IMAGE, "mkdir", "/x") as name:
        found = verdict(shared_engine, name)
        assert (found["Signal"], found["ExitCode"]) == (signal.SIGSYS, 159)
        if found["Cause"] == "seccomp":
            assert found["Denied"]["Name"] == "mkdir"
            assert found["Denied"]["Number"] in (83, 258, 34)  # mkdir and mkdirat of x86-64, mkdirat of arm64
            assert "audit type 1326" in claims(found)
        else:  # no auditing, or an auditd has the records
            assert found["Sender"] == "unknown"
            assert "system call: unknown" in claims(found)


def test_a_fault_is_told_with_the_kernels_words(shared_engine: CortenEngine, tmp_path: Path) -> None:
    (tmp_path / "crash.c").write_text("int main(void) { *(volatile int *)16 = 1; return 0; }\n")
    argv = ["gcc", "-static", "-O0", "-o", f"{tmp_path}/crash", f"{tmp_path}/crash.c"]
    subprocess.run(argv, check=True, stderr=subprocess.PIPE)
    with container(shared_engine, "-v", f"{tmp_path}:/x", IMAGE, "/x/crash") as name:
        found = verdict(shared_engine, name)
        assert (found["Signal"], found["ExitCode"]) == (signal.SIGSEGV, 139)
        if Path("/proc/sys/debug/exception-trace").read_text().strip() == "1":  # else the kernel writes nothing of it
            assert found["Cause"] == "fault"
            assert found["Sentence"].startswith("killed by SIGSEGV for what it did: segfault at 10 ip ")
        else:
            assert found["Sender"] == "unknown"


def test_a_full_disk_is_told_as_what_it_was_at_the_end() -> None:
    with LoopDisk(96) as disk, CortenEngine(args=("--data-root", str(disk.path / "data"))) as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        disk.fill(leave=16 << 20)
        with container(engine, IMAGE, "sh", "-c", "cat /dev/zero >/x; exit 3") as name:
            exits = engine.exec_root / "tasks" / "moby"
            wait_for(lambda: bool(list(exits.glob("*/exit"))) or not inspected(engine, name)["State"]["Running"], "end")
            disk.empty()  # there is no room for the record of the exit either: it is made now
            found = verdict(engine, name)
            assert (found["Cause"], found["ExitCode"]) == ("exited", 3)
            assert found["Disk"]["FreeBytes"] < 1 << 20
            assert "its disk was full at the end" in found["Sentence"]
            shown = engine.corten("why", name, check=True).stdout
            assert "statvfs at the end" in shown
        with container(engine, IMAGE, "false") as name:
            assert "Disk" not in verdict(engine, name)


def test_the_event_of_the_end_has_the_sentence(shared_engine: CortenEngine) -> None:
    with container(shared_engine, IMAGE, "sleep", "1000") as name:
        shared_engine.docker("kill", name, check=True)
        shared_engine.docker("wait", name)
        wait_for(lambda: bool(events(shared_engine, name, "die")), "event")
        (event,) = events(shared_engine, name, "die")
        assert event["verdict"] == verdict(shared_engine, name)["Sentence"]
        assert event["exitCode"] == "137"


def test_the_verdict_outlives_the_next_start(shared_engine: CortenEngine) -> None:
    with container(shared_engine, IMAGE, "sh", "-c", "test -e /was && exec sleep 1000; touch /was; exit 5") as name:
        assert verdict(shared_engine, name)["ExitCode"] == 5
        shared_engine.docker("start", name, check=True)
        shown = shared_engine.corten("why", name, check=True).stdout
        assert "running since" in shown
        assert "its last run: exited with code 5" in shown


def test_one_that_never_ran_has_no_verdict(shared_engine: CortenEngine) -> None:
    shared_engine.docker("create", "--name", "fresh", IMAGE, check=True)
    try:
        assert "Verdict" not in inspected(shared_engine, "fresh").get("Corten", {})
        assert "it has never run" in shared_engine.corten("why", "fresh", check=True).stdout
        assert Api(shared_engine.socket).ok("GET", "/containers/fresh/corten/why")["Verdict"] is None
        assert shared_engine.corten("why", "nosuch").returncode == 1
    finally:
        shared_engine.docker("rm", "-f", "fresh")


def test_an_end_while_cortend_is_dead_is_judged_by_the_next(engine: CortenEngine) -> None:
    """The kill before it is known with its client, from the shim's record; the signal from elsewhere is not."""
    trapped = ("sh", "-c", "trap '' TERM; echo r; while :; do sleep 0.05; done")
    eats = ("sh", "-c", f"echo r; while ! test -e /go; do sleep 0.05; done; exec {EAT}")
    child = ("sh", "-c", f"echo r; while ! test -e /go; do sleep 0.05; done; ({EAT}); echo eaten; exec sleep 1000")
    with (
        container(engine, IMAGE, *trapped, name="asked"),
        container(engine, IMAGE, *trapped, name="stranger"),
        container(engine, "-m", "16m", IMAGE, *eats, name="eats"),
        container(engine, "-m", "16m", IMAGE, *child, name="child"),
    ):
        for name in ("asked", "stranger", "eats", "child"):
            wait_for(lambda name=name: engine.docker("logs", name).stdout == "r\n", name)  # type: ignore[misc]
        engine.docker("kill", "-s", "TERM", "asked", check=True)
        pids = {name: inspected(engine, name)["State"]["Pid"] for name in ("asked", "stranger", "eats", "child")}
        log = Path(inspected(engine, "child")["LogPath"])
        engine.kill9()
        for name in ("asked", "stranger"):
            os.kill(pids[name], signal.SIGKILL)
        for name in ("eats", "child"):
            Path(f"/proc/{pids[name]}/root/go").touch()
        tasks = engine.exec_root / "tasks" / "moby"
        wait_for(lambda: len(list(tasks.glob("*/exit"))) == 3, "exit records")
        wait_for(lambda: "eaten" in log.read_text(), "death of the child")
        engine.start()
        asked, stranger, eaten = (verdict(engine, name) for name in ("asked", "stranger", "eats"))
        assert (asked["Signal"], asked["Sender"]) == (9, "unknown")
        assert [(kill["Signal"], kill["By"]["Command"]) for kill in asked["Kills"]] == [(15, "docker")]
        assert (stranger["Signal"], stranger["Sender"], stranger.get("Kills")) == (9, "unknown", None)
        assert (eaten["Cause"], eaten["Memory"]["Limit"]) == ("oom", 16 << 20)
        assert 0 < eaten["Memory"]["Peak"] <= 16 << 20
        assert eaten["Memory"]["Victims"][0]["Pid"] == pids["eats"]
        assert [event["oomKills"] for event in events(engine, "child", "oom")] == ["1"]
        engine.restart()
        assert [event["oomKills"] for event in events(engine, "child", "oom")] == ["1"], "it is told once"
        shown = engine.corten("why", "child", check=True).stdout
        assert "killed for want of memory: 1 (peak " in shown
        assert "tail (pid " in shown


def test_a_lost_shim_leaves_no_invented_reason(engine: CortenEngine) -> None:
    with container(engine, IMAGE, "sleep", "1000") as name:
        pid = inspected(engine, name)["State"]["Pid"]
        shim = int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
        os.kill(shim, signal.SIGKILL)
        found = verdict(engine, name)
        assert (found["Cause"], found["Sentence"]) == (
            "shim-lost",
            "its shim was lost: exit code and reason are unknown",
        )
        assert "exit code unknown" in claims(found)
