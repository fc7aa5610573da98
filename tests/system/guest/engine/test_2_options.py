"""Options whose effect depends on the host: limits, devices, capabilities, propagation, the network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.engine import CortenEngine
from support.guestlook import CGROUPS, IMAGE, cgroup, get, inspect, read, run, status
from support.process import wait_for

PATIENCE_S = 120.0
LISTENER = """
import socket
with socket.create_server(("", 9000)) as server:
    print("listens", flush=True)
    print(server.accept()[1][0])
"""
ALL = (1 << int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1) - 1


def until(ready: Callable[[], bool], what: str) -> None:
    wait_for(ready, what, PATIENCE_S)


def output(engine: CortenEngine, *words: str) -> str:
    """What a container of these options and words prints."""
    return engine.docker("run", "--rm", "--network", "none", *words, check=True).stdout


@contextmanager
def running(engine: CortenEngine, name: str, *words: str) -> Iterator[str]:
    engine.docker("run", "-d", "--name", name, *words, check=True)
    try:
        yield name
    finally:
        engine.docker("rm", "-f", name)


@pytest.mark.slow
def test_the_default_pids_limit_is_500_and_none_means_none(engine: CortenEngine) -> None:
    assert output(engine, IMAGE, "cat", "/sys/fs/cgroup/pids.max") == "500\n"
    assert output(engine, "--pids-limit", "-1", IMAGE, "cat", "/sys/fs/cgroup/pids.max") == "max\n"


@pytest.mark.slow
def test_memory_alone_allows_as_much_swap_again_and_minus_one_allows_all(engine: CortenEngine) -> None:
    files = ("cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.swap.max")
    assert output(engine, "-m", "32m", IMAGE, *files).split() == [str(32 << 20)] * 2
    assert output(engine, "-m", "32m", "--memory-swap", "-1", IMAGE, *files).split() == [str(32 << 20), "max"]


MIB = 1 << 20
CHANGES = (  # one after the other
    (("--memory-swap", "-1"), {"memory.max": str(64 * MIB), "memory.swap.max": "max"}),
    (("-m", "100m", "--memory-swap", "150m"), {"memory.max": str(100 * MIB), "memory.swap.max": str(50 * MIB)}),
    (("-m", "32m"), {"memory.max": str(32 * MIB), "memory.swap.max": str(118 * MIB)}),
    (("--memory-swap", "-1"), {"memory.max": str(32 * MIB), "memory.swap.max": "max"}),
    (("-m", "200m"), {"memory.max": str(200 * MIB), "memory.swap.max": "max"}),
    (("--memory-reservation", "16m"), {"memory.low": str(16 * MIB)}),
    (("--cpu-shares", "512"), {"cpu.weight": "20"}),
    (("--cpu-quota", "50000"), {"cpu.max": "50000 100000"}),
    (("--cpu-period", "50000"), {"cpu.max": "50000 50000"}),
    (("--cpu-quota", "-1"), {"cpu.max": "max 50000"}),
    (("--cpuset-cpus", "0", "--cpuset-mems", "0"), {"cpuset.cpus": "0", "cpuset.mems": "0"}),
    (("--pids-limit", "44"), {"pids.max": "44"}),
    (("--pids-limit", "-1"), {"pids.max": "max"}),
)


@pytest.mark.slow
def test_an_update_of_a_running_container_changes_each_limit_in_the_kernel(engine: CortenEngine) -> None:
    with running(engine, "changed", "-m", "64m", IMAGE, "sleep", "1000"):
        own = cgroup(engine, "changed")
        for words, wanted in CHANGES:
            engine.docker("update", *words, "changed", check=True)
            assert {name: read(own, name) for name in wanted} == wanted, words
    with running(engine, "changed", IMAGE, "sleep", "1000"):
        own = cgroup(engine, "changed")
        engine.docker("update", "--cpus", "0.5", "changed", check=True)
        assert read(own, "cpu.max") == "50000 100000"


@pytest.mark.slow
def test_a_cgroup_parent_of_the_users_is_made_and_removed(engine: CortenEngine) -> None:
    with running(engine, "placed", "--cgroup-parent", "/users-own", "-m", "32m", IMAGE, "sleep", "1000"):
        own = cgroup(engine, "placed")
        assert own.parent == CGROUPS / "users-own"
        assert read(own, "memory.max") == str(32 << 20)
    assert not (CGROUPS / "users-own").exists()


@pytest.mark.slow
def test_a_device_is_refused_unless_it_was_given(engine: CortenEngine) -> None:
    """The machine's own disk, by a node that the container makes itself: the program judges the number alone."""
    number = os.stat("/dev/vda").st_rdev
    node = f"mknod /tmp/mine b {os.major(number)} {os.minor(number)}"
    look = f"{node}; head -c 1 /tmp/mine > /dev/null && echo reads; true >> /tmp/mine && echo writes; true"
    assert output(engine, IMAGE, "sh", "-c", look) == ""
    assert output(engine, "--device", "/dev/vda", IMAGE, "sh", "-c", look).split() == ["reads", "writes"]
    assert output(engine, "--device", "/dev/vda:/dev/vda:rm", IMAGE, "sh", "-c", look).split() == ["reads"]


@pytest.mark.slow
def test_a_privileged_container_has_all_capabilities_and_devices(engine: CortenEngine) -> None:
    script = "cat /proc/self/status; ls /dev; mount -t tmpfs x /mnt 2>&1; mkdir /m; mount -t tmpfs x /m && echo mounted"
    said = output(engine, "--privileged", IMAGE, "sh", "-c", script)
    found = status(said)
    assert {int(found[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {ALL}
    assert (found["Seccomp"], "mounted" in said) == ("0", True)
    assert {"vda", "kmsg"} <= set(said.split())


@pytest.mark.slow
def test_a_hard_limit_can_be_raised(engine: CortenEngine) -> None:
    own = next(line for line in Path(f"/proc/{engine.pid}/limits").read_text().splitlines() if "open files" in line)
    assert int(own.split()[4]) < 1048576
    limits = output(engine, "--ulimit", "nofile=1048576:1048576", IMAGE, "sh", "-c", "ulimit -Hn; ulimit -Sn")
    assert limits.split() == ["1048576", "1048576"]


@pytest.mark.slow
def test_a_read_only_container_writes_to_its_tmpfs_alone(engine: CortenEngine) -> None:
    script = "touch /x || echo refused; touch /t/x && echo written; grep ' /t ' /proc/mounts"
    said = output(engine, "--read-only", "--tmpfs", "/t:size=1m,mode=1777", IMAGE, "sh", "-c", script)
    assert said.splitlines()[:2] == ["refused", "written"]
    assert "size=1024k" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("propagation", "runtime"), [("rprivate", ""), ("rslave", ""), ("rshared", ""), ("rshared", "runc")]
)
def test_a_bind_propagates_mounts_as_asked(
    engine: CortenEngine, propagation: str, runtime: str, tmp_path: Path
) -> None:
    for name in ("early", "late", "back"):
        (tmp_path / name).mkdir()
    options: tuple[str, ...] = ("--privileged", "-v", f"{tmp_path}:/data:{propagation}", "--network", "none")
    options += ("--runtime", runtime) if runtime else ()
    run("mount", "-t", "tmpfs", "early", str(tmp_path / "early"))
    try:
        with running(engine, "bound", *options, IMAGE, "sleep", "1000"):
            run("mount", "-t", "tmpfs", "late", str(tmp_path / "late"))
            inside = engine.docker("exec", "bound", "cat", "/proc/mounts", check=True).stdout
            assert "early /data/early tmpfs" in inside
            assert ("late /data/late tmpfs" in inside) == (propagation != "rprivate")
            engine.docker("exec", "bound", "mount", "-t", "tmpfs", "back", "/data/back", check=True)
            assert (f"back {tmp_path}/back tmpfs" in Path("/proc/mounts").read_text()) == (propagation == "rshared")
    finally:
        for name in ("early", "late", "back"):
            subprocess.run(["mount", "--make-private", tmp_path / name], check=False, capture_output=True)
            subprocess.run(["umount", tmp_path / name], check=False, capture_output=True)


@pytest.mark.slow
def test_the_containers_own_mounts_are_not_seen_by_the_host(engine: CortenEngine) -> None:
    before = {line.split()[4] for line in Path("/proc/1/mountinfo").read_text().splitlines()}
    for options in ((), ("--runtime", "runc")):
        with running(engine, "quiet", "--network", "none", *options, IMAGE, "sleep", "1000"):
            after = {line.split()[4] for line in Path("/proc/1/mountinfo").read_text().splitlines()}
            assert after == before, options


@pytest.mark.slow
def test_init_is_process_1(engine: CortenEngine) -> None:
    assert "init" in output(engine, "--init", IMAGE, "sh", "-c", "cat /proc/1/comm")


@pytest.mark.slow
def test_an_exec_works_at_the_pids_limit_and_is_refused_when_paused(engine: CortenEngine) -> None:
    with running(engine, "full", "--network", "none", "--pids-limit", "1", IMAGE, "sleep", "1000"):
        own = cgroup(engine, "full")
        assert (read(own, "pids.max"), read(own, "pids.current")) == ("1", "1")
        done = engine.docker("exec", "full", "cat", "/proc/self/cgroup")
        assert (done.stdout, done.returncode) == ("0::/\n", 0), done.stderr
        engine.docker("pause", "full", check=True)
        assert (read(own, "cgroup.freeze"), "frozen 1" in read(own, "cgroup.events")) == ("1", True)
        refused = engine.docker("exec", "full", "true")
        assert refused.returncode == 1
        assert "is paused, unpause the container before exec" in refused.stderr
        engine.docker("unpause", "full", check=True)
        assert read(own, "cgroup.freeze") == "0"


@pytest.mark.slow
def test_an_exec_follows_an_init_that_hands_controllers_down(engine: CortenEngine) -> None:
    """As systemd in a container does: no process may be in the container's own cgroup any more."""
    own = "cd /sys/fs/cgroup; mkdir init.scope; echo 1 > init.scope/cgroup.procs"
    script = f"{own}; echo +pids +memory > cgroup.subtree_control; cat cgroup.subtree_control; exec sleep 1000"
    with running(engine, "manager", "--network", "none", "--privileged", IMAGE, "sh", "-c", script):
        until(lambda: "pids" in engine.docker("logs", "manager", check=True).stdout, "controllers")
        done = engine.docker("exec", "manager", "cat", "/proc/self/cgroup")
        assert (done.stdout, done.returncode) == ("0::/init.scope\n", 0), done.stderr
        folder = cgroup(engine, "manager").parent
        assert (folder / "init.scope").exists()
    assert not folder.exists()


@pytest.mark.slow
def test_the_cgroup_namespace_is_the_hosts_when_asked(engine: CortenEngine) -> None:
    path = output(engine, "--cgroupns", "host", IMAGE, "cat", "/proc/self/cgroup")
    assert path.startswith("0::/corten-"), path


@pytest.mark.slow
def test_a_kill_for_want_of_memory_is_told(engine: CortenEngine) -> None:
    options = ("--network", "none", "-m", "16m", "--memory-swap", "16m", "--name", "eats")
    done = engine.docker("run", *options, IMAGE, "sh", "-c", "tail /dev/zero")
    try:
        state = inspect(engine, "eats")["State"]
        assert (done.returncode, state["OOMKilled"], state["ExitCode"]) == (137, True, 137)
        since, until_ = state["StartedAt"], str(int(time.time()) + 1)
        events = engine.docker("events", "--since", since, "--until", until_, "--filter", "event=oom")
        assert "container oom" in events.stdout, events
    finally:
        engine.docker("rm", "-f", "eats")


@pytest.mark.slow
def test_stats_are_those_of_the_cgroup(engine: CortenEngine) -> None:
    with running(engine, "counted", "-m", "64m", IMAGE, "sh", "-c", "while :; do :; done"):
        found = json.loads(engine.docker("stats", "--no-stream", "--format", "json", "counted").stdout)
        assert found["PIDs"] == "1"
        assert found["MemUsage"].endswith("/ 64MiB")
        assert float(found["CPUPerc"].rstrip("%")) > 10
        assert not found["MemUsage"].startswith("0B")


@pytest.mark.slow
def test_runc_runs_the_same_container(engine: CortenEngine) -> None:
    script = "cat /sys/fs/cgroup/memory.max /proc/self/cgroup; exit 5"
    options = ("--rm", "--runtime", "runc", "-m", "32m", "--network", "none")
    done = engine.docker("run", *options, IMAGE, "sh", "-c", script)
    assert (done.stdout, done.returncode) == (f"{32 << 20}\n0::/\n", 5), done.stderr


@pytest.mark.slow
def test_apparmor_is_left_alone_and_an_unknown_profile_is_an_error(engine: CortenEngine) -> None:
    current = ("cat", "/proc/self/attr/current")
    assert output(engine, IMAGE, *current) == "unconfined\n"
    assert output(engine, "--security-opt", "apparmor=unconfined", IMAGE, *current) == "unconfined\n"
    refused = engine.docker("run", "--rm", "--security-opt", "apparmor=not-loaded", IMAGE, "true")
    assert refused.returncode in {125, 126, 127}
    assert "apparmor" in refused.stderr.lower(), refused.stderr


@pytest.mark.slow
def test_the_corten_cli_speaks_to_it(engine: CortenEngine) -> None:
    with running(engine, "listed", "--network", "none", IMAGE, "sleep", "1000"):
        assert "listed" in engine.corten("ps", check=True).stdout
        assert "clone3" in engine.corten("trace", "listed", check=True).stdout


# The network.


@pytest.fixture
def outside() -> Iterator[str]:
    """A neighbour at 192.0.2.2 whom this machine reaches as 192.0.2.1; the name of its namespace."""
    run("ip", "netns", "add", "outside")
    run("ip", "link", "add", "uplink", "type", "veth", "peer", "name", "eth0", "netns", "outside")
    run("ip", "address", "add", "192.0.2.1/24", "dev", "uplink")
    run("ip", "link", "set", "uplink", "up")
    for words in (("address", "add", "192.0.2.2/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
        run("ip", "-n", "outside", *words)
    yield "outside"
    run("ip", "netns", "delete", "outside")
    subprocess.run(["ip", "link", "delete", "uplink"], check=False, capture_output=True)


@pytest.mark.slow
def test_the_outside_is_reached_by_nat_and_reaches_what_is_published(engine: CortenEngine, outside: str) -> None:
    enter = ["nsenter", f"--net=/run/netns/{outside}", "--"]
    listener = subprocess.Popen([*enter, sys.executable, "-c", LISTENER], stdout=subprocess.PIPE, text=True)
    assert listener.stdout is not None
    assert listener.stdout.readline() == "listens\n"
    try:
        page = "echo hello > /tmp/index.html; httpd -f -p 80 -h /tmp"
        with running(engine, "web", "-p", "8095:80", IMAGE, "sh", "-c", page):
            assert run(*enter, "busybox", "wget", "-q", "-O", "-", "http://192.0.2.1:8095/") == "hello\n"
            engine.docker("exec", "web", "sh", "-c", "echo x | nc -w 2 192.0.2.2 9000", check=True)
            assert listener.communicate(timeout=30)[0] == "192.0.2.1\n"
    finally:
        listener.kill()
        listener.communicate()


@pytest.mark.slow
def test_containers_meet_with_and_without_br_netfilter(engine: CortenEngine) -> None:
    """Debian does not load br_netfilter: the order of the two halves matters."""
    assert not Path("/proc/sys/net/bridge").exists()
    page = "echo hello > /tmp/index.html; httpd -f -p 80 -h /tmp"
    with running(engine, "server", "-p", "8096:80", IMAGE, "sh", "-c", page):
        network = inspect(engine, "server")["NetworkSettings"]["Networks"]["bridge"]
        targets = (f"http://{network['IPAddress']}/", f"http://{network['Gateway']}:8096/")
        fetch = "; ".join(f"wget -q -O - {target}" for target in targets)
        for loaded in (False, True):
            if loaded:
                run("modprobe", "br_netfilter")
                assert Path("/proc/sys/net/bridge/bridge-nf-call-iptables").read_text() == "1\n"
            done = engine.docker("run", "--rm", IMAGE, "sh", "-c", fetch)
            assert done.stdout == "hello\nhello\n", f"br_netfilter {loaded}: {done.stderr}"
            itself = engine.docker("exec", "server", "sh", "-c", fetch.partition("; ")[2])
            assert itself.stdout == "hello\n", f"hairpin, br_netfilter {loaded}: {itself.stderr}"
            assert get("http://127.0.0.1:8096/") == b"hello\n"
