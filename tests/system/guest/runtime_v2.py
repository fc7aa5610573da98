"""Runs inside the virtual machine of tests/system/test_runtime_v2.py: the runtime on a host with cgroup v2 alone.

Every check prints `ok NAME` or `not ok NAME: WHY`; the last line is `END`.  Standard library only.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SOURCE = "/repository/src"
sys.path.insert(0, SOURCE)
BOOT = f"import sys; sys.path.insert(0, {SOURCE!r}); from corten.runtime.main import main; main(sys.argv)"
RUNTIME = [sys.executable, "-ISE", "-c", BOOT, "--root", "/run/state"]
BUNDLE = Path("/box/bundle")
CGROUP = Path("/sys/fs/cgroup/box/c")
CHECKS: list[Callable[[], None]] = []


def check(function: Callable[[], None]) -> Callable[[], None]:
    CHECKS.append(function)
    return function


def bundle(*args: str, capabilities: tuple[str, ...] = (), **resources: Any) -> None:
    """Writes the bundle: busybox with these arguments and limits."""
    rootfs = BUNDLE / "rootfs"
    if not rootfs.exists():
        (rootfs / "bin").mkdir(parents=True)
        shutil.copy("/bin/busybox", rootfs / "bin/busybox")
        for name in ("sh", "sleep", "cat", "head", "tail", "echo", "true", "mknod"):
            (rootfs / "bin" / name).symlink_to("busybox")
    subprocess.run([*RUNTIME, "spec", "--bundle", str(BUNDLE)], check=False, capture_output=True)
    config = json.loads((BUNDLE / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": list(args)}
    config["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), capabilities)
    config["root"]["readonly"] = False
    config["linux"]["cgroupsPath"] = "/box/c"
    config["linux"]["resources"] = {"devices": [{"allow": False, "access": "rwm"}], **resources}
    (BUNDLE / "config.json").write_text(json.dumps(config))


def run(*words: str, status: int = 0) -> str:
    """A verb whose output is wanted."""
    argv = [*RUNTIME, *words]
    done = subprocess.run(argv, cwd=BUNDLE, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == status, f"{words}: {done.returncode}: {done.stderr}"
    return done.stdout + done.stderr


def detached(*words: str) -> None:
    """A verb whose process goes on."""
    null = subprocess.DEVNULL
    done = subprocess.run([*RUNTIME, *words], cwd=BUNDLE, stdin=null, stdout=null, stderr=null, check=False)
    assert done.returncode == 0, f"{words}: {done.returncode}"


def file(name: str) -> str:
    return (CGROUP / name).read_text().strip()


@check
def a_process_runs_in_its_cgroup_and_leaves_nothing() -> None:
    bundle("sh", "-c", "cat /proc/self/cgroup; exit 7")
    assert run("run", "c", status=7) == "0::/\n"
    assert not CGROUP.exists()


@check
def every_limit_is_in_its_file() -> None:
    bundle(
        "sleep",
        "1000",
        memory={"limit": 67108864, "swap": 100663296, "reservation": 33554432},
        cpu={"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"},
        pids={"limit": 33},
        blockIO={"weight": 300},
        unified={"memory.high": "50003968"},
    )
    detached("run", "-d", "c")
    expected = {
        "memory.max": "67108864",
        "memory.swap.max": "33554432",
        "memory.low": "33554432",
        "memory.high": "50003968",
        "cpu.weight": "20",
        "cpu.max": "50000 100000",
        "cpuset.cpus": "0",
        "pids.max": "33",
        "io.weight": "default 2930",
        "cgroup.procs": str(json.loads(run("state", "c"))["pid"]),
    }
    found = {name: file(name) for name in expected}
    assert found == expected, found
    run("update", "--memory", "104857600", "--memory-swap", "209715200", "--pids-limit", "20", "c")
    assert (file("memory.max"), file("memory.swap.max"), file("pids.max")) == ("104857600", "104857600", "20")
    run("delete", "--force", "c")
    assert not CGROUP.exists()


@check
def a_container_without_a_limit_gets_the_default() -> None:
    bundle("sleep", "1000")
    detached("run", "-d", "c")
    assert file("pids.max") == "500"
    run("delete", "-f", "c")


@check
def pause_resume_and_exec() -> None:
    bundle("sleep", "1000")
    detached("run", "-d", "c")
    run("pause", "c")
    assert "frozen 1" in file("cgroup.events")
    assert "cannot exec in a paused container" in run("exec", "c", "true", status=255)
    run("resume", "c")
    assert run("exec", "c", "sh", "-c", "echo in; exit 5", status=5) == "in\n"
    detached("exec", "--detach", "c", "sleep", "999")
    assert len(file("cgroup.procs").split()) == 2
    run("kill", "--all", "c", "KILL")
    time.sleep(1)
    assert json.loads(run("state", "c"))["status"] == "stopped"
    run("delete", "c")


@check
def a_frozen_container_is_deleted() -> None:
    bundle("sleep", "1000")
    detached("run", "-d", "c")
    run("pause", "c")
    run("delete", "--force", "c")
    assert not CGROUP.exists()


@check
def exec_at_the_pids_limit() -> None:
    bundle("sleep", "1000", pids={"limit": 1})
    detached("run", "-d", "c")
    assert run("exec", "c", "echo", "in") == "in\n"
    run("delete", "-f", "c")


@check
def exec_with_a_terminal_at_the_pids_limit_and_one_below() -> None:
    for limit in (1, 2):  # with 2 the launcher finds room in the cgroup, and its child none
        bundle("sleep", "1000", pids={"limit": limit})
        detached("run", "-d", "c")
        shown = run("exec", "-t", "c", "echo", "in")
        assert shown == "in\n", f"limit {limit}: {shown!r}"
        run("delete", "-f", "c")


@check
def devices_are_controlled_by_a_program() -> None:
    script = (
        "head -c 1 /dev/zero > /dev/null && echo zero; mknod /tmp/mem c 1 1 && echo made; "
        "head -c 1 /tmp/mem 2>&1 | head -c 300; mknod /tmp/serial c 4 64; true < /tmp/serial && echo serial"
    )
    (BUNDLE / "rootfs/tmp").mkdir(exist_ok=True)
    allowed = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 4, "minor": 64, "access": "r"}]
    bundle("sh", "-c", script, capabilities=("CAP_MKNOD",), devices=allowed)
    shown = run("run", "c")
    assert "zero\nmade\n" in shown, shown
    assert "/tmp/mem: Operation not permitted" in shown, shown
    assert shown.endswith("serial\n"), shown


@check
def kills_for_want_of_memory_and_refused_forks_are_counted() -> None:
    from corten.runtime import container
    from corten.runtime.cgroups import Cgroup

    bundle("sh", "-c", "head -c 100m /dev/zero | tail > /dev/null; true", memory={"limit": 8 << 20, "swap": 8 << 20})
    run("run", "--keep", "c")
    kills = Cgroup(container.state("/run/state", "c").cgroup).counters().oom_kills
    assert kills >= 1, f"oom_kills {kills}"
    run("delete", "c")
    bundle("sh", "-c", "for i in 1 2 3; do sleep 1 & done; wait", pids={"limit": 2})
    run("run", "--keep", "c", status=2)
    hits = Cgroup(container.state("/run/state", "c").cgroup).counters().pids_max_hits
    assert hits >= 1, f"pids_max_hits {hits}"
    run("delete", "c")


def main() -> None:
    print(os.uname().release, Path("/sys/fs/cgroup/cgroup.controllers").read_text().strip(), flush=True)
    for function in CHECKS:
        try:
            function()
        except (AssertionError, OSError, ValueError) as error:
            print(f"not ok {function.__name__}: {str(error)[:1000]!r}", flush=True)
            subprocess.run([*RUNTIME, "delete", "--force", "c"], capture_output=True, check=False)
        else:
            print(f"ok {function.__name__}", flush=True)
    print("END", flush=True)


main()
