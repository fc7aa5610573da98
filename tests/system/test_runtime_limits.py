"""Limits and what can be read: cgroup files, the node's default, plan, trace, ps, features, spec."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from support import peers, process, runtimes
from support.runtimes import Bundle, Runtime

CGROUPS = Path("/sys/fs/cgroup")


# limits ----------------------------------------------------------------------------------------------------


def test_every_limit_that_docker_sets_is_in_the_kernel(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    bundle.config["linux"]["resources"] = {
        "devices": [
            {"allow": False, "access": "rwm"},
            {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        ],
        "memory": {"limit": 67108864, "swap": 134217728, "reservation": 33554432, "swappiness": 10},
        "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0", "mems": "0"},
        "pids": {"limit": 33},
        "blockIO": {"weight": 300},
    }
    bundle.save()
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    for controller, file, value in (
        ("memory", "memory.limit_in_bytes", "67108864"),
        ("memory", "memory.memsw.limit_in_bytes", "134217728"),
        ("memory", "memory.soft_limit_in_bytes", "33554432"),
        ("memory", "memory.swappiness", "10"),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
        ("cpu", "cpu.cfs_period_us", "100000"),
        ("cpuset", "cpuset.cpus", "0"),
        ("cpuset", "cpuset.mems", "0"),
        ("pids", "pids.max", "33"),
        ("blkio", "blkio.bfq.weight", "300"),
    ):
        assert bundle.cgroup(controller, file) == value, file
    allowed = bundle.cgroup("devices", "devices.list").splitlines()
    assert "c 10:229 rw" in allowed
    assert "a *:* rwm" not in allowed
    pid = str(corten.state("c")["pid"])
    for controller in ("memory", "cpu", "cpuset", "pids", "blkio", "devices", "freezer", "systemd", "unified"):
        assert pid in bundle.cgroup(controller, "cgroup.procs").split(), controller


FILES = (
    ("memory", "memory.limit_in_bytes"), ("memory", "memory.memsw.limit_in_bytes"), ("cpu", "cpu.shares"),
    ("cpu", "cpu.cfs_quota_us"), ("cpu", "cpu.cfs_period_us"), ("cpuset", "cpuset.cpus"), ("pids", "pids.max"),
)  # fmt: skip


def test_an_update_that_is_refused_changes_nothing(corten: Runtime, folder: Path) -> None:
    """runc writes back what its own record has, and so nothing of what the bundle left open: shares, here."""
    changes = ("--memory", "80000000", "--memory-swap", "90000000", "--cpu-share", "50", "--cpu-quota", "7000")
    refused = ("--pids-limit", "9", "--blkio-weight", "5000")
    seen = {}
    for name, runtime in (("ours", corten), ("theirs", Runtime(peers.binary("runc"), folder / "runc"))):
        bundle = runtimes.sleeper(folder)
        bundle.config["linux"]["resources"]["memory"] = {"limit": 1 << 27, "swap": 1 << 28}
        bundle.config["linux"]["resources"]["pids"] = {"limit": 70}
        runtime.detached("run", "-d", "-b", str(bundle.save().path), "c")
        try:
            before = [bundle.cgroup(*place) for place in FILES]
            done = runtime("update", *changes, *refused, "c")
            assert done.returncode == 1
            assert 'failed to write \\"5000\\"' in done.stderr
            seen[name] = [bundle.cgroup(*place) == value for place, value in zip(FILES, before, strict=True)]
            runtime("update", *changes, "c", check=True)
            assert bundle.cgroup("cpu", "cpu.shares") == "50"
        finally:
            runtime.close()
    assert seen["ours"] == [True] * len(FILES)
    assert False in seen["theirs"]


@pytest.mark.parametrize(
    ("words", "pids", "value", "origin"),
    [
        ((), None, "500", "built-in default"),
        (("--default-pids-limit", "60"), None, "60", "--default-pids-limit"),
        (("--default-pids-limit", "-1"), None, "max", "--default-pids-limit"),
        ((), {"limit": 40}, "40", "config.json"),
        ((), {"limit": -1}, "max", "config.json"),
        (("--config", "FILE"), None, "70", "FILE"),
    ],
)
def test_a_container_without_a_pids_limit_gets_that_of_the_node(
    corten: Runtime, folder: Path, words: tuple[str, ...], pids: dict[str, int] | None, value: str, origin: str
) -> None:
    bundle = runtimes.sleeper(folder)
    if pids:
        bundle.config["linux"]["resources"]["pids"] = pids
        bundle.save()
    file = folder / "runtime.json"
    file.write_text('{"default-pids-limit": 70}')
    words = tuple(word.replace("FILE", str(file)) for word in words)
    corten.detached(*words, "run", "-d", "-b", str(bundle.path), "c")
    assert bundle.cgroup("pids", "pids.max") == value
    number = -1 if value == "max" else int(value)
    expected = {"pidsLimit": {"value": number, "origin": origin.replace("FILE", str(file))}}
    assert corten.state("c")["corten"] == expected
    plan = corten(*words, "plan", str(bundle.path), check=True).stdout
    assert plan.startswith(f"pids limit {'none' if number < 0 else number} ({expected['pidsLimit']['origin']})\n")


def test_update_changes_limits_of_a_running_container(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    bundle.config["linux"]["resources"]["memory"] = {"limit": 33554432, "swap": 33554432}
    bundle.save()
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    document = {"memory": {"limit": 67108864, "swap": 67108864}, "cpu": {"shares": 300}, "pids": {"limit": 9}}
    corten("update", "--resources", "-", "c", stdin=json.dumps(document).encode(), check=True)
    assert bundle.cgroup("memory", "memory.limit_in_bytes") == "67108864"
    assert bundle.cgroup("memory", "memory.memsw.limit_in_bytes") == "67108864"
    assert bundle.cgroup("cpu", "cpu.shares") == "300"
    assert bundle.cgroup("pids", "pids.max") == "9"
    corten("update", "--memory", "16777216", "--memory-swap", "16777216", "c", check=True)
    assert bundle.cgroup("memory", "memory.memsw.limit_in_bytes") == "16777216"
    assert corten.state("c")["corten"]["pidsLimit"] == {"value": 9, "origin": "update"}


# what can be read --------------------------------------------------------------------------------------------


def test_plan_prints_every_step_and_starts_nothing(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    plan = corten("plan", str(bundle.path), check=True).stdout
    for word in ("cgroup mkdir", "devices.deny a", "clone3", "pivot_root", "sethostname box", "execve 'sleep' '1000'"):
        assert word in plan
    assert corten("plan", cwd=bundle.path, check=True).stdout == plan
    assert not bundle.has_cgroup()
    assert not (folder / "root").exists()


def test_the_trace_has_a_time_for_every_step(corten: Runtime, folder: Path) -> None:
    from corten.runtime import trace

    bundle = runtimes.sleeper(folder)
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    found = trace.explain((folder / "root/c/trace").read_bytes())
    plan = corten("plan", str(bundle.path), check=True).stdout.replace("_ses.bundle", "_ses.c")
    assert len(found["steps"]) > 30
    assert [row["op"] for row in found["steps"] if row["op"] not in plan] == []
    assert {row["name"] for row in found["phases"]} >= {"prepare", "cgroup", "launch"}
    assert all(0 <= row["duration_ns"] < 10**9 for row in found["steps"])


def test_ps_shows_the_processes_of_the_container_alone(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.bundle("sh", "-c", "sleep 1000; true", folder=folder / "bundle")
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    process.wait_for(lambda: len(json.loads(corten("ps", "-f", "json", "c").stdout)) == 2, "two processes")
    lines = corten("ps", "c", check=True).stdout.splitlines()
    assert lines[0].split()[1] == "PID"
    assert [line.split("   ")[-1].rpartition(" ")[2] for line in lines[1:]]
    assert len(lines) == 3
    assert len(corten("ps", "c", "-o", "pid,comm", check=True).stdout.splitlines()) <= 3


def test_features_needs_no_root(corten: Runtime) -> None:
    """The one capability that is left lets it read a checkout in a private folder, such as root's home."""
    left = ("--bounding-set", "-all,+dac_read_search", "--inh-caps", "-all,+dac_read_search")
    ids = ("--reuid", "65534", "--regid", "65534", "--clear-groups")
    argv = ["setpriv", *ids, *left, "--ambient-caps", "-all,+dac_read_search", *corten.argv("features")]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    found = json.loads(done.stdout)
    assert found["linux"]["cgroup"]["v2"] is True
    assert "rbind" in found["mountOptions"]
    assert "CAP_CHOWN" in found["linux"]["capabilities"]


def test_the_spec_that_is_written_runs(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.bundle("true", folder=folder / "bundle")
    (bundle.path / "config.json").unlink()
    corten("spec", "--bundle", str(bundle.path), check=True)
    config = json.loads((bundle.path / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["echo", "hello"]}
    config["linux"]["cgroupsPath"] = bundle.config["linux"]["cgroupsPath"]
    Bundle(bundle.path, config).save()
    assert corten("run", "-b", str(bundle.path), "c", check=True).stdout == "hello\n"
    assert "exists. Remove it first" in corten("spec", "-b", str(bundle.path)).stderr
