"""Where and how processes are scheduled: each field of config.json in the kernel, for an init and for an exec."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support import process, runtimes
from support.runtimes import Bundle, Runtime

CGROUPS = Path("/sys/fs/cgroup")
# prints `name value` lines; what the kernel says of the shell itself, so that nothing has to be inherited by a fork
LOOK = """
read -r line </proc/self/stat; set -- ${line#*) }; echo "nice ${17}"; echo "priority ${38}"; echo "policy ${39}"
while read -r name value; do case $name in Cpus_allowed_list:) echo "cpus $value";; esac; done </proc/self/status
read -r value </proc/self/personality; echo "personality $value"
while read -r address value rest; do case $rest in *stack*) echo "memory $value";; esac; done </proc/self/numa_maps
"""
# as well, where a fork is allowed
LOOK_FORKED = LOOK + 'echo "io $(busybox ionice -p $$)"; echo "machine $(busybox uname -m)"\n'


def bundle_of(folder: Path, *args: str, linux: dict[str, Any] | None = None, **fields: Any) -> Bundle:
    """A bundle with these fields of `process` and `linux`."""
    bundle = runtimes.bundle(*args, folder=folder / "bundle")
    bundle.config["process"].update(fields)
    bundle.config["linux"].update(linux or {})
    return bundle.save()


def looked(output: str) -> dict[str, str]:
    """What LOOK has printed."""
    return dict(line.split(" ", 1) for line in output.splitlines())


def run(corten: Runtime, folder: Path, script: str = LOOK_FORKED, **fields: Any) -> dict[str, str]:
    """What an init with these fields sees of itself."""
    bundle = bundle_of(folder, "sh", "-c", script, **fields)
    return looked(corten("run", "-b", str(bundle.path), "c", check=True).stdout)


def exec_in(corten: Runtime, bundle: Bundle, script: str = LOOK_FORKED, **fields: Any) -> dict[str, str]:
    """What an exec with these fields in its process file sees of itself."""
    file = bundle.path / "process.json"
    file.write_text(json.dumps({**bundle.config["process"], "args": ["sh", "-c", script], **fields}))
    return looked(corten("exec", "--process", str(file), "c", check=True).stdout)


def container(corten: Runtime, folder: Path, **fields: Any) -> Bundle:
    """A running container that waits."""
    bundle = bundle_of(folder, "sleep", "1000", **fields)
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    return bundle


@pytest.mark.parametrize(
    ("scheduler", "seen"),
    [
        ({"policy": "SCHED_OTHER", "nice": 7}, {"policy": "0", "nice": "7"}),
        ({"policy": "SCHED_BATCH", "nice": -7}, {"policy": "3", "nice": "-7"}),
        ({"policy": "SCHED_IDLE"}, {"policy": "5"}),
    ],
    ids=lambda value: value.get("policy", ""),
)
def test_scheduler_of_init_and_exec(
    corten: Runtime, folder: Path, scheduler: dict[str, Any], seen: dict[str, str]
) -> None:
    assert seen.items() <= run(corten, folder, scheduler=scheduler).items()
    corten("delete", "--force", "c")
    bundle = container(corten, folder)
    assert exec_in(corten, bundle)["policy"] == str(os.sched_getscheduler(0)), "who asks for none inherits ours"
    assert seen.items() <= exec_in(corten, bundle, scheduler=scheduler).items()
    user = {"uid": 1000, "gid": 1000}
    assert seen.items() <= exec_in(corten, bundle, script=LOOK_SHORT, user=user, scheduler=scheduler).items()


# what another user than root may read
LOOK_SHORT = "\n".join(LOOK.splitlines()[:3])


@pytest.mark.parametrize("policy", ["SCHED_FIFO", "SCHED_RR"])
def test_real_time_policy_with_a_budget_of_the_cgroup(corten: Runtime, folder: Path, policy: str) -> None:
    bundle = bundle_of(folder, "sh", "-c", LOOK, scheduler={"policy": policy, "priority": 3})
    # a cgroup gives of what its parent has
    parent = CGROUPS / "cpu" / bundle.config["linux"]["cgroupsPath"].strip("/").partition("/")[0]
    parent.mkdir(exist_ok=True)
    (parent / "cpu.rt_runtime_us").write_text("20000")
    bundle.config["linux"]["resources"]["cpu"] = {"realtimeRuntime": 10000, "realtimePeriod": 1000000}
    bundle.save()
    seen = looked(corten("run", "-b", str(bundle.path), "c", check=True).stdout)
    assert (seen["policy"], seen["priority"]) == ({"SCHED_FIFO": "1", "SCHED_RR": "2"}[policy], "3")


def test_real_time_policy_without_a_budget_is_refused_in_the_words_of_runc(corten: Runtime, folder: Path) -> None:
    bundle = bundle_of(folder, "true", scheduler={"policy": "SCHED_FIFO", "priority": 3})
    done = corten("run", "-b", str(bundle.path), "c")
    assert done.returncode == 1
    assert "error during container init: error setting scheduler: operation not permitted" in done.stderr
    assert not bundle.has_cgroup()


@pytest.mark.parametrize("uid", [0, 1000])
def test_deadline_that_no_fork_keeps_reaches_init_and_exec(corten: Runtime, folder: Path, uid: int) -> None:
    scheduler = {"policy": "SCHED_DEADLINE", "runtime": 1000000, "deadline": 20000000, "period": 50000000}
    user = {"uid": uid, "gid": uid}
    assert run(corten, folder, script=LOOK_SHORT, scheduler=scheduler, user=user)["policy"] == "6"
    corten("delete", "--force", "c")
    bundle = container(corten, folder)
    sets = LOOK_SHORT + "\nwhile read -r name value; do case $name in Cap*) echo $name $value;; esac; done"
    seen = exec_in(corten, bundle, script=f"{sets} </proc/self/status", scheduler=scheduler, user=user)
    assert seen["policy"] == "6"
    # the right to set it is not left behind
    plain = exec_in(corten, bundle, script=f"{sets} </proc/self/status", user=user)
    assert {name: seen[name] for name in seen if name.startswith("Cap")} == {
        name: plain[name] for name in plain if name.startswith("Cap")
    }


def test_io_priority_of_init_and_exec(corten: Runtime, folder: Path) -> None:
    priority = {"class": "IOPRIO_CLASS_BE", "priority": 6}
    assert run(corten, folder, ioPriority=priority)["io"] == "best-effort: prio 6"
    corten("delete", "--force", "c")
    bundle = container(corten, folder)
    assert exec_in(corten, bundle, ioPriority=priority)["io"] == "best-effort: prio 6"
    assert exec_in(corten, bundle, ioPriority={"class": "IOPRIO_CLASS_IDLE"})["io"] == "idle"
    assert exec_in(corten, bundle, ioPriority={"class": "IOPRIO_CLASS_RT", "priority": 1})["io"] == "realtime: prio 1"


def test_memory_policy_and_personality_of_init_and_exec(corten: Runtime, folder: Path) -> None:
    linux = {
        "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]},
        "personality": {"domain": "LINUX32"},
    }
    bundle = container(corten, folder, linux=linux)
    seen = exec_in(corten, bundle)
    assert (seen["memory"], seen["personality"], seen["machine"]) == ("bind=static:0", "00000008", "i686")
    corten("delete", "--force", "c")
    seen = run(corten, folder, linux=linux)
    assert (seen["memory"], seen["personality"], seen["machine"]) == ("bind=static:0", "00000008", "i686")


@pytest.mark.parametrize("mode", ["MPOL_INTERLEAVE", "MPOL_PREFERRED", "MPOL_PREFERRED_MANY", "MPOL_LOCAL"])
def test_memory_policy_by_mode(corten: Runtime, folder: Path, mode: str) -> None:
    policy = {"mode": mode} if mode == "MPOL_LOCAL" else {"mode": mode, "nodes": "0"}
    word = {"MPOL_INTERLEAVE": "interleave:0", "MPOL_PREFERRED": "prefer:0", "MPOL_LOCAL": "local"}
    seen = run(corten, folder, linux={"memoryPolicy": policy})
    assert seen["memory"] == word.get(mode, "prefer (many):0").split(" ")[0]


def test_node_that_there_is_not_is_refused(corten: Runtime, folder: Path) -> None:
    bundle = bundle_of(folder, "true", linux={"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "900"}})
    done = corten("run", "-b", str(bundle.path), "c")
    assert done.returncode == 1
    assert "failed to set memory policy: invalid argument" in done.stderr


@pytest.mark.parametrize("where", ["process", "mounts", "exec", "exec file"])
def test_selinux_label_is_refused_where_there_is_no_selinux(corten: Runtime, folder: Path, where: str) -> None:
    if Path("/sys/fs/selinux/enforce").exists():
        pytest.skip("SELinux is active here")
    label = "system_u:system_r:container_t:s0"
    text = "selinux label is specified in config, but selinux is disabled or not supported"
    if not where.startswith("exec"):
        fields: dict[str, Any] = {"selinuxLabel": label} if where == "process" else {"linux": {"mountLabel": label}}
        bundle = bundle_of(folder, "true", **fields)
        done = corten("run", "-b", str(bundle.path), "c")
        assert (done.returncode, text in done.stderr) == (1, True)
        assert not bundle.has_cgroup()
        return
    bundle = container(corten, folder)
    file = folder / "process.json"
    file.write_text(json.dumps({**bundle.config["process"], "args": ["true"], "selinuxLabel": label}))
    words = ("--process", str(file), "c") if where == "exec file" else ("--process-label", label, "c", "true")
    done = corten("exec", *words)
    assert (done.returncode, text in done.stderr) == (255, True)


def test_affinity_of_an_exec_before_and_in_the_cgroup(corten: Runtime, folder: Path) -> None:
    bundle = container(corten, folder)
    every = f"0-{(os.cpu_count() or 1) - 1}"
    assert exec_in(corten, bundle, execCPUAffinity={"final": "1"})["cpus"] == "1"
    assert exec_in(corten, bundle, execCPUAffinity={"initial": "0", "final": "1"})["cpus"] == "1"
    assert exec_in(corten, bundle, execCPUAffinity={"initial": "0"})["cpus"] == every


def test_affinity_of_the_bundle_is_for_execs(corten: Runtime, folder: Path) -> None:
    bundle = container(corten, folder, execCPUAffinity={"final": "1"})
    pid = corten.state("c")["pid"]
    assert os.sched_getaffinity(pid) == set(range(os.cpu_count() or 1))
    done = corten("exec", "c", "sh", "-c", LOOK, check=True)
    assert looked(done.stdout)["cpus"] == "1"
    assert exec_in(corten, bundle, execCPUAffinity={"final": "0"})["cpus"] == "0"


def test_a_container_may_use_processors_that_its_runtime_may_not(corten: Runtime, folder: Path) -> None:
    """runc 1.3.1; without it, Linux from 6.2 on keeps the runtime's own mask below the container's cpuset."""
    bundle = bundle_of(folder, "sleep", "1000")
    argv = ["taskset", "-c", "0", *corten.argv("run", "-d", "-b", str(bundle.path), "c")]
    null = subprocess.DEVNULL
    subprocess.run(argv, check=True, stdin=null, stdout=null, stderr=null, timeout=30)
    every = set(range(os.cpu_count() or 1))
    assert os.sched_getaffinity(corten.state("c")["pid"]) == every
    argv = ["taskset", "-c", "0", *corten.argv("exec", "c", "sh", "-c", LOOK)]
    done = subprocess.run(argv, check=True, stdin=null, stdout=subprocess.PIPE, text=True, timeout=30)
    assert looked(done.stdout)["cpus"] == f"0-{len(every) - 1}"


def test_cpuset_of_the_container_counts_against_a_runtime_with_few_processors(corten: Runtime, folder: Path) -> None:
    bundle = bundle_of(folder, "sleep", "1000")
    bundle.config["linux"]["resources"]["cpu"] = {"cpus": "1"}
    bundle.save()
    argv = ["taskset", "-c", "0", *corten.argv("run", "-d", "-b", str(bundle.path), "c")]
    null = subprocess.DEVNULL
    subprocess.run(argv, check=True, stdin=null, stdout=null, stderr=null, timeout=30)
    assert os.sched_getaffinity(corten.state("c")["pid"]) == {1}
    process.wait_for(lambda: corten.state("c")["status"] == "running", "the container to run")


def test_capabilities_of_an_exec_are_neither_inheritable_nor_ambient(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.bundle("sleep", "1000", folder=folder / "bundle")
    bundle.config["process"]["noNewPrivileges"] = False
    bundle.save()
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    look = ("busybox", "grep", "^Cap", "/proc/self/status")

    def sets(*words: str) -> dict[str, int]:
        lines = corten("exec", *words, check=True).stdout.split()
        return {name.rstrip(":"): int(value, 16) for name, value in zip(lines[::2], lines[1::2], strict=True)}

    found = sets("--cap", "CAP_NET_RAW", "--user", "1000:1000", "c", *look)
    assert (found["CapInh"], found["CapAmb"], found["CapPrm"], found["CapEff"]) == (0, 0, 0, 0)
    assert found["CapBnd"] >> 13 & 1
    # the twin: where a process file makes them so, a program of a user has them, and this test would see it
    names = ["CAP_NET_RAW"]
    spec = {**bundle.config["process"], "args": list(look), "user": {"uid": 1000, "gid": 1000}}
    spec["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted", "inheritable", "ambient"), names)
    (folder / "process.json").write_text(json.dumps(spec))
    found = sets("--process", str(folder / "process.json"), "c")
    assert (found["CapInh"], found["CapAmb"], found["CapPrm"], found["CapEff"]) == (1 << 13,) * 4
