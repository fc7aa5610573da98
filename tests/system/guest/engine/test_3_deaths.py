"""Who may die, on cgroup v2: the shim, cortend with exits meanwhile, and a cgroup full of processes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from support.engine import CortenEngine
from support.guestlook import IMAGE, cgroup, inspect, read, run
from support.process import wait_for

PATIENCE_S = 120.0


def shim_of(pid: int) -> int:
    """The parent of a container's init."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def exit_file(engine: CortenEngine, id: str) -> Path:
    """What a shim leaves for the cortend to come."""
    return engine.exec_root / "tasks/moby" / id / "exit"


def exit_record(engine: CortenEngine, id: str) -> dict[str, Any]:
    """The counters of a container that has ended, read before its cgroup went."""
    record: dict[str, Any] = json.loads(exit_file(engine, id).read_text())
    return record


@pytest.mark.slow
def test_a_killed_shim_takes_its_whole_container_along(engine: CortenEngine) -> None:
    """By cgroup.kill: also what had left the init's session and ignores every signal."""
    script = "trap '' TERM HUP INT; for i in 1 2 3 4 5; do setsid sleep 1000 & done; echo ready; exec sleep 1000"
    engine.docker("run", "-d", "--name", "orphaned", "--pid", "host", IMAGE, "sh", "-c", script, check=True)
    try:
        own = cgroup(engine, "orphaned")
        wait_for(lambda: len(read(own, "cgroup.procs").split()) == 6, "six processes", PATIENCE_S)
        members = [int(pid) for pid in read(own, "cgroup.procs").split()]
        os.kill(shim_of(inspect(engine, "orphaned")["State"]["Pid"]), signal.SIGKILL)
        wait_for(lambda: inspect(engine, "orphaned")["State"]["Status"] == "exited", "end", PATIENCE_S)
        state = inspect(engine, "orphaned")["State"]
        assert (state["ExitCode"], state["Error"]) == (137, "shim lost")
        assert not [pid for pid in members if Path(f"/proc/{pid}").exists()]
        assert not own.exists()
        assert engine.docker("logs", "orphaned", check=True).stdout == "ready\n"
    finally:
        engine.docker("rm", "-f", "orphaned")


@pytest.mark.slow
def test_exits_during_an_outage_are_told_afterwards(engine: CortenEngine) -> None:
    """One ends by itself after it met its pids limit, one for want of memory, one goes on; nobody listens meanwhile."""
    wait = "while [ ! -e /gate/open ]; do sleep 0.1; done; "
    gate = engine.folder / "gate"
    gate.mkdir()
    limits = ("-m", "16m", "--memory-swap", "16m", "--pids-limit", "3")
    options = ("-d", "--network", "none", "-v", f"{gate}:/gate", *limits)
    crowd = "(sleep 1 & sleep 1 & sleep 1 & sleep 1) 2> /dev/null; "
    for name, end in (("ends", f"{crowd}echo said; exit 9"), ("eats", "tail /dev/zero"), ("stays", "exec sleep 1000")):
        engine.docker("run", *options, "--name", name, IMAGE, "sh", "-c", wait + end, check=True)
    before = {name: inspect(engine, name) for name in ("ends", "eats", "stays")}
    pids = {name: one["State"]["Pid"] for name, one in before.items()}
    ids = {name: one["Id"] for name, one in before.items()}
    try:
        engine.kill9()
        (gate / "open").touch()
        wait_for(lambda: not any(Path(f"/proc/{pids[n]}").exists() for n in ("ends", "eats")), "exits", PATIENCE_S)
        wait_for(lambda: all(exit_file(engine, ids[n]).exists() for n in ("ends", "eats")), "records", PATIENCE_S)
        found = {name: exit_record(engine, ids[name]) for name in ("ends", "eats")}
        assert (found["ends"]["status"], found["ends"]["oom_kill_count"]) == (9, 0)
        assert found["ends"]["pids_max_hits"] > 0
        assert (found["eats"]["oom_killed"], found["eats"]["pids_max_hits"]) == (True, 0)
        assert found["eats"]["oom_kill_count"] > 0
        engine.start()
        states = {name: inspect(engine, name)["State"] for name in pids}
        assert (states["ends"]["ExitCode"], states["ends"]["OOMKilled"]) == (9, False)
        assert (states["eats"]["ExitCode"], states["eats"]["OOMKilled"]) == (137, True)
        assert (states["stays"]["Pid"], states["stays"]["Running"]) == (pids["stays"], True)
        assert engine.docker("logs", "ends", check=True).stdout == "said\n"
    finally:
        for name in pids:
            engine.docker("rm", "-f", name)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["corten", "runc", "crun"])
def test_verdicts_are_of_v2_counters_and_of_the_kernels_log(engine: CortenEngine, runtime: str) -> None:
    """Want of memory with the limit and the peak, refused processes, and a call that seccomp kills for."""
    profile = engine.folder / "kill.json"
    call = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [call]}))
    cases = {
        "eats": (("-m", "16m", "--memory-swap", "16m"), "exec tail -c 200m /dev/zero"),
        "crowd": (("--pids-limit", "3"), "(sleep 1 & sleep 1 & sleep 1 & sleep 1) 2> /dev/null; exit 9"),
        "denied": (("--security-opt", f"seccomp={profile}"), "exec mkdir /x"),
        "child": (("-m", "16m", "--memory-swap", "16m"), "tail -c 200m /dev/zero; exit 4"),
        "killed": ((), "exec sleep 1000"),
    }
    try:
        for name, (options, script) in cases.items():
            given = ("--runtime", runtime, "--network", "none", "--name", name, *options)
            engine.docker("run", "-d", *given, IMAGE, "sh", "-c", script, check=True)
            if name == "killed":
                engine.docker("kill", name, check=True)
            engine.docker("wait", name, timeout=PATIENCE_S)
        absent = ("--runtime", runtime, "--network", "none", "--name", "absent", IMAGE, "/no/such/program")
        assert engine.docker("run", "-d", *absent).returncode != 0  # 127, where the CLI knows the runtime's words
        found = {name: inspect(engine, name)["Corten"]["Verdict"] for name in (*cases, "absent")}
        eaten = found["eats"]
        assert (eaten["Cause"], eaten["Memory"]["Limit"]) == ("oom", 16 << 20)
        assert 0 < eaten["Memory"]["Peak"] <= 16 << 20
        assert [one["Name"] for one in eaten["Memory"]["Victims"]] == ["tail"]
        assert (found["crowd"]["Processes"]["Limit"], found["crowd"]["ExitCode"]) == (3, 9)
        assert found["crowd"]["Processes"]["Refused"] > 0
        assert found["denied"]["Signal"] == signal.SIGSYS
        assert (found["denied"]["Cause"], found["denied"]["Denied"]["Name"]) == ("seccomp", "mkdir")
        child = found["child"]
        assert (child["Cause"], child["ExitCode"], child["Memory"]["OomKills"]) == ("exited", 4, 1)
        assert [one["Name"] for one in child["Memory"]["Victims"]] == ["tail"]
        assert (found["killed"]["Sender"]["By"], found["killed"]["Sender"]["Command"]) == ("client", "docker")
        assert (found["absent"]["Cause"], found["absent"]["ExitCode"]) == ("not-started", 127)
        assert "/no/such/program" in found["absent"]["Sentence"]
    finally:
        for name in (*cases, "absent"):
            engine.docker("rm", "-f", name)


@pytest.mark.slow
def test_who_kills_from_elsewhere_is_told_also_by_the_cortend_to_come(engine: CortenEngine) -> None:
    """By process, user and name; and a child that seccomp kills with its call, which the kernel's log has."""
    profile = engine.folder / "kill.json"
    call = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [call]}))
    filtered = ("--security-opt", f"seccomp={profile}", IMAGE, "sh", "-c", "mkdir /x; exit 3")
    cases = {
        "now": (IMAGE, "sleep", "1000"),
        "runc": ("--runtime", "runc", IMAGE, "sleep", "1000"),
        "crun": ("--runtime", "crun", IMAGE, "sleep", "1000"),
        "then": (IMAGE, "sleep", "1000"),
        "child": filtered,
    }
    try:
        for name, options in cases.items():
            engine.docker("run", "-d", "--network", "none", "--name", name, *options, check=True)
        pids = {name: inspect(engine, name)["State"]["Pid"] for name in ("now", "runc", "crun", "then")}
        record = exit_file(engine, inspect(engine, "then")["Id"])
        for name in ("now", "runc", "crun"):
            os.kill(pids[name], signal.SIGKILL)
            engine.docker("wait", name, timeout=PATIENCE_S)
        engine.docker("wait", "child", timeout=PATIENCE_S)
        engine.kill9()
        os.kill(pids["then"], signal.SIGKILL)
        wait_for(record.exists, "exit record", PATIENCE_S)
        engine.start()
        engine.docker("wait", "then", timeout=PATIENCE_S)
        found = {name: inspect(engine, name)["Corten"]["Verdict"] for name in cases}
        for name in pids:
            sender = found[name]["Sender"]
            assert (sender["By"], sender["Pid"], sender["Uid"]) == ("process", os.getpid(), 0), found[name]
        denied = "a process in it was killed by seccomp for system call 83 (arch 0xc000003e) by mkdir (pid "
        assert denied in found["child"]["Sentence"]
    finally:
        for name in cases:
            engine.docker("rm", "-f", name)


@pytest.mark.slow
def test_a_removed_container_leaves_no_cgroup_link_or_element(engine: CortenEngine) -> None:
    links = set(os.listdir("/sys/class/net"))
    engine.docker("run", "-d", "--name", "brief", "-p", "8097:80", IMAGE, "sleep", "1000", check=True)
    own = cgroup(engine, "brief")
    assert "8097" in run("nft", "list", "ruleset")
    engine.docker("rm", "-f", "brief", check=True)
    assert not own.exists()
    assert "8097" not in run("nft", "list", "ruleset")
    wait_for(lambda: set(os.listdir("/sys/class/net")) == links, "end of the link", PATIENCE_S)
