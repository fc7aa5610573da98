"""The short form: what every user does first, and that the machine is the one that it is meant to be."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from support.engine import CortenEngine
from support.guestlook import CGROUPS, IMAGE, cgroup, get, inspect, read, run, state, status

NAME = "limited"
LIMITS = (
    *("--memory", "64m", "--memory-swap", "96m", "--cpus", "0.5", "--cpu-shares", "512", "--cpuset-cpus", "1"),
    *("--pids-limit", "50", "--ulimit", "nofile=2000:4000"),
)


@pytest.fixture(scope="module")
def limited(engine: CortenEngine) -> str:
    """A web server on the bridge, with limits; the name of its container."""
    serve = "echo from inside > /tmp/index.html; exec httpd -f -p 80 -h /tmp"
    engine.docker("run", "-d", "--name", NAME, "-p", "8091:80", *LIMITS, IMAGE, "sh", "-c", serve, check=True)
    return NAME


def test_the_machine_is_what_most_users_have() -> None:
    assert platform.release().startswith("6.1.")
    mounts = [line.split(" - ") for line in Path("/proc/1/mountinfo").read_text().splitlines()]
    assert [kind.split()[0] for _, kind in mounts if kind.startswith("cgroup")] == ["cgroup2"]
    root = next(place for place, _ in mounts if place.split()[4] == "/")
    assert "shared:" in root
    assert {"cpu", "cpuset", "io", "memory", "pids"} <= set(read(CGROUPS, "cgroup.subtree_control").split())
    assert Path("/proc/self/cgroup").read_text() == "0::/system.slice/corten.service\n"
    assert Path("/sys/module/apparmor/parameters/enabled").read_text() == "Y\n"
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    assert int(status(Path("/proc/self/status").read_text())["CapEff"], 16) == (1 << last + 1) - 1
    assert not Path("/proc/sys/net/bridge").exists()


def test_a_container_runs_without_a_network(engine: CortenEngine) -> None:
    done = engine.docker("run", "--rm", "--network", "none", IMAGE, "sh", "-c", "echo hello; ls /sys/class/net; exit 7")
    assert (done.stdout, done.returncode) == ("hello\nlo\n", 7), done.stderr


def test_a_limited_container_has_its_limits_in_its_cgroup(engine: CortenEngine, limited: str) -> None:
    own = cgroup(engine, limited)
    found = {name: read(own, name) for name in ("memory.max", "memory.swap.max", "cpu.max", "cpu.weight", "pids.max")}
    # 512 shares: 1 + (512 - 2) * 9999 / 262142
    assert found == {
        "memory.max": str(64 << 20),
        "memory.swap.max": str(32 << 20),
        "cpu.max": "50000 100000",
        "cpu.weight": "20",
        "pids.max": "50",
    }
    assert read(own, "cpuset.cpus") == "1"
    limits = Path(f"/proc/{inspect(engine, limited)['State']['Pid']}/limits").read_text()
    assert "Max open files            2000                 4000" in limits


def test_its_port_is_published_by_nat(engine: CortenEngine, limited: str) -> None:
    address = inspect(engine, limited)["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    assert get("http://127.0.0.1:8091/") == b"from inside\n"
    assert get(f"http://{address}/") == b"from inside\n"
    ruleset = run("nft", "list", "ruleset")
    assert f"8091 : {address} . 80" in ruleset
    assert "masquerade" in ruleset


def test_an_exec_joins_the_cgroup_and_sees_it_as_the_root(engine: CortenEngine, limited: str) -> None:
    script = "cat /proc/self/cgroup /sys/fs/cgroup/memory.max; cat /proc/1/attr/current; id -u"
    done = engine.docker("exec", limited, "sh", "-c", script)
    assert done.stdout.splitlines() == ["0::/", str(64 << 20), "unconfined", "0"], done.stderr


def test_info_tells_the_truth_of_this_machine(engine: CortenEngine) -> None:
    info = json.loads(engine.docker("info", "--format", "{{json .}}", check=True).stdout)
    assert info["SecurityOptions"] == ["name=seccomp,profile=builtin", "name=cgroupns"]
    assert (info["CgroupVersion"], info["CgroupDriver"], info["OomKillDisable"]) == ("2", "cgroupfs", False)
    wanted = ("MemoryLimit", "SwapLimit", "CpuCfsQuota", "CPUShares", "CPUSet", "PidsLimit", "IPv4Forwarding")
    assert {name: info[name] for name in wanted} == dict.fromkeys(wanted, True)


def test_files_are_copied_out_of_and_into_containers(engine: CortenEngine) -> None:
    """On a kernel that mounts nothing on detached mounts, and with a root that is shared."""
    folder = engine.folder / "copies"
    folder.mkdir()
    (folder / "file").write_text("mine")
    script = "echo inside > /t/x; exec sleep 1000"
    made = ("run", "-d", "--name", "copied", "--network", "none", "-v", "copied:/v", "--tmpfs", "/t", IMAGE)
    engine.docker(*made, "sh", "-c", script, check=True)
    for place in ("/etc", "/v", "/t"):
        engine.docker("cp", str(folder / "file"), f"copied:{place}", check=True)
    seen = engine.docker("exec", "copied", "cat", "/etc/file", "/v/file", "/t/file", check=True)
    assert seen.stdout == "mine" * 3
    engine.docker("cp", "copied:/t/x", str(folder / "x"), check=True)
    assert (folder / "x").read_text() == "inside\n"
    engine.docker("kill", "copied", check=True)
    engine.docker("cp", "copied:/v/.", str(folder / "all"), check=True)
    assert (folder / "all" / "file").read_text() == "mine"
    engine.docker("cp", str(folder / "x"), "copied:/v/new", check=True)
    mounts = Path("/proc/1/mountinfo").read_text()
    engine.docker("cp", "copied:/etc/file", str(folder / "y"), check=True)
    assert Path("/proc/1/mountinfo").read_text() == mounts
    engine.docker("rm", "copied", check=True)
    engine.docker("volume", "rm", "copied", check=True)


def test_containers_outlive_a_killed_cortend(engine: CortenEngine, limited: str) -> None:
    pid = inspect(engine, limited)["State"]["Pid"]
    engine.kill9()
    assert get("http://127.0.0.1:8091/") == b"from inside\n"
    engine.start()
    assert inspect(engine, limited)["State"]["Pid"] == pid
    assert engine.docker("exec", limited, "hostname", check=True).stdout
    engine.docker("kill", limited, check=True)
    assert engine.docker("wait", limited, check=True).stdout == "137\n"
    engine.docker("rm", limited, check=True)
    assert not list(CGROUPS.glob(f"corten-*/{limited}*"))


def test_zz_destroy_leaves_nothing(engine: CortenEngine, before: dict[str, set[str]]) -> None:
    engine.docker("run", "-d", "--name", "last", "-p", "8092:80", IMAGE, "sleep", "1000", check=True)
    assert engine.destroy() == []
    after = state()
    assert {kind: found - before[kind] for kind, found in after.items() if found - before[kind]} == {}
