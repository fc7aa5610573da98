"""Who may die, on cgroup v2: the shim, cortend with exits meanwhile, and a cgroup full of processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from support.engine import CortenEngine
from support.guestlook import IMAGE, cgroup, inspect, read, run
from support.process import wait_for

PATIENCE_S = 60.0


def shim_of(pid: int) -> int:
    """The parent of a container's init."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


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
    """One ends by itself, one for want of memory, one goes on; nobody listens meanwhile."""
    wait = "while [ ! -e /gate/open ]; do sleep 0.1; done; "
    gate = engine.folder / "gate"
    gate.mkdir()
    options = ("-d", "--network", "none", "-v", f"{gate}:/gate", "-m", "16m", "--memory-swap", "16m")
    for name, end in (("ends", "echo said; exit 9"), ("eats", "tail /dev/zero"), ("stays", "exec sleep 1000")):
        engine.docker("run", *options, "--name", name, IMAGE, "sh", "-c", wait + end, check=True)
    pids = {name: inspect(engine, name)["State"]["Pid"] for name in ("ends", "eats", "stays")}
    try:
        engine.kill9()
        (gate / "open").touch()
        wait_for(lambda: not any(Path(f"/proc/{pids[n]}").exists() for n in ("ends", "eats")), "exits", PATIENCE_S)
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
def test_a_removed_container_leaves_no_cgroup_link_or_element(engine: CortenEngine) -> None:
    links = set(os.listdir("/sys/class/net"))
    engine.docker("run", "-d", "--name", "brief", "-p", "8097:80", IMAGE, "sleep", "1000", check=True)
    own = cgroup(engine, "brief")
    assert "8097" in run("nft", "list", "ruleset")
    engine.docker("rm", "-f", "brief", check=True)
    assert not own.exists()
    assert "8097" not in run("nft", "list", "ruleset")
    wait_for(lambda: set(os.listdir("/sys/class/net")) == links, "end of the link", PATIENCE_S)
