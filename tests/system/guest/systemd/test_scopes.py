"""`--systemd-cgroup`: a container's cgroup is a scope, made and limited by systemd, and gone with the container."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from corten.runtime import systemd
from support import paths, runtimes, units
from support.process import wait_for
from support.runtimes import Bundle, Runtime
from support.units import is_gone, wait_gone

CGROUPS = Path("/sys/fs/cgroup")
SLICE = CGROUPS / "box.slice/box-test.slice"
NAMES = (
    *("Slice", "TasksMax", "MemoryMax", "MemoryLow", "MemorySwapMax", "CPUWeight", "CPUQuotaPerSecUSec", "Delegate"),
    *("CPUQuotaPeriodUSec", "AllowedCPUs", "DefaultDependencies", "MemoryAccounting", "CPUAccounting", "IOAccounting"),
    *("TasksAccounting", "ControlGroup", "ActiveState"),
)
LIMITS: dict[str, Any] = {
    "memory": {"limit": 67108864, "swap": 100663296, "reservation": 33554432},
    "cpu": {"shares": 512, "quota": 12345, "period": 100000, "cpus": "0"},
    "pids": {"limit": 33},
}
FILES = (
    "memory.max",
    "memory.low",
    "memory.swap.max",
    "cpu.weight",
    "cpuset.cpus",
    "pids.max",
    "cgroup.subtree_control",
)
# kills this process before or after the nth message that it sends to systemd, then runs the command
KILLED = """
import os, sys
sys.path.insert(0, {source!r})
from corten.sys import dbus
send, left = dbus.Connection._send, [{count}]
def killed(self, data):
    left[0] -= 1
    if left[0] == 0 and {before}:
        os.kill(os.getpid(), 9)
    send(self, data)
    if left[0] == 0:
        os.kill(os.getpid(), 9)
dbus.Connection._send = killed
from corten.runtime.main import main
main(sys.argv)
"""


def show(unit: str, *names: str) -> dict[str, str]:
    """Properties of a unit, as systemd tells them."""
    return units.show(unit, names or NAMES)


class Box:
    """A runtime that is told of systemd, and a bundle that sleeps in `box-test.slice`."""

    def __init__(self, folder: Path, program: Path | str, name: str) -> None:
        self.runtime = Runtime(program, folder / "root")
        self.runtime.program = str(program)
        self.bundle: Bundle = runtimes.sleeper(folder)
        self.name = name
        self.unit = f"t-{name}.scope"
        self.group = SLICE / self.unit
        self.bundle.config["linux"]["cgroupsPath"] = f"box-test.slice:t:{name}"

    def save(self, **linux: Any) -> None:
        self.bundle.config["linux"] |= linux
        self.bundle.save()

    def limit(self, resources: dict[str, Any]) -> None:
        self.save(resources={"devices": [{"allow": False, "access": "rwm"}], **resources})

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        words = words or ("run", "-d", "-b", str(self.bundle.path), self.name)
        return self.runtime.detached("--systemd-cgroup", *words, check=check)

    def file(self, name: str) -> str:
        return (self.group / name).read_text().strip()


@pytest.fixture
def folder() -> Iterator[Path]:
    made = paths.scratch("scopes")
    yield made
    shutil.rmtree(made)


@pytest.fixture
def box(folder: Path) -> Iterator[Box]:
    made = Box(folder, paths.COMMANDS / "corten-runtime", "ours")
    yield made
    made.runtime.close()


def test_a_container_lives_in_a_scope_of_its_slice(box: Box) -> None:
    box.limit(LIMITS)
    box.run()
    found = show(box.unit)
    pid = box.runtime.state("ours")["pid"]
    assert Path(f"/proc/{pid}/cgroup").read_text() == f"0::/box.slice/box-test.slice/{box.unit}\n"
    assert found["ControlGroup"] == f"/box.slice/box-test.slice/{box.unit}"
    assert (found["ActiveState"], found["Delegate"], found["Slice"]) == ("active", "yes", "box-test.slice")
    assert (found["TasksMax"], found["MemoryMax"], found["AllowedCPUs"]) == ("33", "67108864", "0")
    assert found["CPUQuotaPerSecUSec"] == "130ms", "12.345 percent, rounded up"
    assert box.file("cgroup.procs") == str(pid), "nobody waits in the scope beside the init"
    assert (box.file("pids.max"), box.file("memory.max"), box.file("cpu.max")) == ("33", "67108864", "12345 100000")
    done = box.runtime("exec", "ours", "cat", "/proc/self/cgroup", check=True)
    assert done.stdout == "0::/\n"
    box.runtime("pause", "ours", check=True)
    assert box.runtime.state("ours")["status"] == "paused"
    box.runtime("delete", "--force", "ours", check=True)
    wait_gone(box.unit)
    assert not box.group.exists()


@pytest.mark.slow
def test_unit_and_files_are_those_of_runc(box: Box, folder: Path) -> None:
    (folder / "theirs").mkdir()
    theirs = Box(folder / "theirs", "runc", "theirs")
    try:
        for one in (box, theirs):
            one.limit(LIMITS)
            one.run()
        ours = {key: value.replace("ours", "NAME") for key, value in show(box.unit).items()}
        expected = {key: value.replace("theirs", "NAME") for key, value in show(theirs.unit).items()}
        assert ours == expected
        assert {name: box.file(name) for name in FILES} == {name: theirs.file(name) for name in FILES}
    finally:
        theirs.runtime.close()


@pytest.mark.slow
def test_update_goes_to_the_unit_and_outlives_a_reload_of_systemd(box: Box) -> None:
    box.limit(LIMITS)
    box.run()
    limits = {"memory": {"limit": 50331648, "swap": 50331648}, "pids": {"limit": 20}, "cpu": {"quota": 50000}}
    box.runtime("update", "-r", "-", "ours", stdin=json.dumps(limits).encode(), check=True)
    found = show(box.unit)
    assert (found["TasksMax"], found["MemoryMax"], found["MemorySwapMax"]) == ("20", "50331648", "0")
    before = {name: box.file(name) for name in FILES}
    assert (before["pids.max"], before["memory.max"], before["memory.swap.max"]) == ("20", "50331648", "0")
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    assert {name: box.file(name) for name in FILES} == before
    shown = box.runtime("exec", "ours", "sh", "-c", "head -c 1 /dev/zero | wc -c; ls /dev/mem; true", check=True)
    assert shown.stdout.startswith("1\n")


@pytest.mark.slow
def test_devices_stay_forbidden_after_a_reload_of_systemd(box: Box) -> None:
    capabilities = box.bundle.config["process"]["capabilities"]
    box.bundle.config["process"]["capabilities"] = {kind: [*names, "CAP_MKNOD"] for kind, names in capabilities.items()}
    (box.bundle.path / "rootfs/bin/mknod").symlink_to("busybox")
    box.limit({})
    box.run()
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    script = "mknod /dev/m c 1 1 && echo made; head -c 1 /dev/m; head -c 1 /dev/zero | wc -c"
    done = box.runtime("exec", "--cap", "CAP_MKNOD", "ours", "sh", "-c", script)
    assert done.stdout == "made\n1\n"
    assert "Operation not permitted" in done.stderr


@pytest.mark.slow
def test_one_process_can_be_the_limit(box: Box) -> None:
    box.limit({"pids": {"limit": 1}})
    box.run()
    assert (box.file("pids.max"), show(box.unit)["TasksMax"]) == ("1", "1")
    box.run("delete", "--force", "ours")
    box.bundle.config["process"]["args"] = ["sh", "-c", "sleep 1 || echo refused"]
    box.save()
    done = box.runtime("--systemd-cgroup", "run", "-b", str(box.bundle.path), "ours")
    assert "can't fork" in done.stderr, done


@pytest.mark.slow
def test_a_container_without_a_path_or_a_limit_gets_the_defaults(box: Box) -> None:
    box.limit({})
    del box.bundle.config["linux"]["cgroupsPath"]
    box.save()
    box.run()
    found = show("corten-ours.scope")
    assert (found["Slice"], found["TasksMax"], found["MemoryMax"]) == ("system.slice", "500", "infinity")
    box.runtime("kill", "ours", "KILL", check=True)
    wait_gone("corten-ours.scope")  # the last process ended: systemd takes the scope away by itself
    box.runtime("delete", "ours", check=True)


def test_run_in_the_foreground_leaves_nothing(box: Box) -> None:
    box.bundle.config["process"]["args"] = ["sh", "-c", "cat /proc/self/cgroup; exit 7"]
    box.save()
    done = box.runtime("--systemd-cgroup", "run", "-b", str(box.bundle.path), "ours")
    assert (done.stdout, done.returncode) == ("0::/\n", 7)
    wait_gone(box.unit)
    assert not box.group.exists()


@pytest.mark.slow
def test_a_unit_of_somebody_else_is_not_taken(box: Box, folder: Path) -> None:
    box.save()
    box.run()
    (folder / "second").mkdir()
    second = Box(folder / "second", paths.COMMANDS / "corten-runtime", "ours")
    second.save()
    done = second.run(check=False)
    assert done.returncode == 1
    assert "container's cgroup is not empty" in done.stderr
    assert not list((folder / "second/root").glob("*"))
    assert box.runtime.state("ours")["status"] == "running"
    second.runtime.close()


@contextmanager
def ended_and_followed(box: Box) -> Iterator[subprocess.Popen[bytes]]:
    """The container has ended and its scope with it; somebody else has the unit's name, and so the cgroup, by now."""
    box.save()
    box.run()
    box.runtime("kill", box.name, "KILL", check=True)
    wait_gone(box.unit)
    scope = ("systemd-run", "--scope", "--quiet", "--slice", "box-test.slice", "--unit", box.unit)
    with subprocess.Popen([*scope, "sleep", "1000"], stdin=subprocess.DEVNULL) as later:
        try:
            wait_for(lambda: show(box.unit, "ActiveState") == {"ActiveState": "active"}, "the later unit", 60)
            assert box.file("cgroup.procs") == str(later.pid)
            yield later
        finally:
            later.kill()
    wait_gone(box.unit)


@pytest.mark.slow
@pytest.mark.parametrize("verb", [("delete",), ("delete", "--force"), ("kill", "--all")], ids=" ".join)
def test_a_later_unit_of_the_same_name_is_left_alone(box: Box, verb: tuple[str, ...]) -> None:
    with ended_and_followed(box) as later:
        words = (*verb, "ours", "KILL") if verb[0] == "kill" else (*verb, "ours")
        box.runtime(*words, check=True)
        assert (later.poll(), show(box.unit, "ActiveState")) == (None, {"ActiveState": "active"})
        assert box.file("cgroup.procs") == str(later.pid)
        assert box.runtime("ps", "--format", "json", "ours").stdout == ("null\n" if verb[0] == "kill" else "")
    box.runtime("delete", "--force", "ours", check=True)


@pytest.mark.slow
def test_runc_stops_it(folder: Path) -> None:
    theirs = Box(folder, "runc", "theirs")
    with ended_and_followed(theirs) as later:
        theirs.runtime("delete", "theirs", check=True)
        assert later.wait(30) == -15


@pytest.mark.slow
def test_an_ordinary_user_is_refused_with_the_reason(box: Box) -> None:
    box.save()
    for path in (box.bundle.path, *box.bundle.path.parents):
        path.chmod(path.stat().st_mode | 0o711)
    argv = [box.runtime.program, "--root", "/tmp/users-own", "--systemd-cgroup", "run", "-b", str(box.bundle.path), "c"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, user=65534, group=65534, extra_groups=[])
    assert done.returncode == 1
    assert "the systemd cgroup manager is for the machine's root: use cgroupfs" in done.stderr
    assert not Path("/tmp/users-own/c").exists()


@pytest.mark.slow
def test_annotations_set_what_they_may(box: Box) -> None:
    prefix = "org.systemd.property"
    box.bundle.config["annotations"] = {
        f"{prefix}.TimeoutStopUSec": "uint64 7000000",
        f"{prefix}.CollectMode": "'inactive-or-failed'",
        f"{prefix}.Description": "'a box'",
    }
    box.save()
    box.run()
    found = show(box.unit, "TimeoutStopUSec", "CollectMode", "Description")
    assert found == {"TimeoutStopUSec": "7s", "CollectMode": "inactive-or-failed", "Description": "a box"}
    box.run("delete", "--force", "ours")
    box.bundle.config["annotations"] = {f"{prefix}.Slice": "'system.slice'"}
    box.save()
    done = box.run(check=False)
    assert "may not set this property" in done.stderr
    assert is_gone(box.unit)


@pytest.mark.slow
def test_what_systemd_refuses_is_told_and_undone(box: Box) -> None:
    box.bundle.config["annotations"] = {"org.systemd.property.CollectMode": "'nonsense'"}
    box.save()
    done = box.run(check=False)
    assert done.returncode == 1
    assert "unable to apply cgroup configuration: StartTransientUnit: " in done.stderr
    assert is_gone(box.unit)
    assert box.runtime("list", "-q").stdout == ""


@pytest.mark.slow
def test_the_root_of_a_user_namespace_owns_its_cgroup_but_not_its_limits(box: Box) -> None:
    box.limit({"pids": {"limit": 33}})
    config = box.bundle.config
    config["linux"]["namespaces"].append({"type": "user"})
    for kind in ("uidMappings", "gidMappings"):
        config["linux"][kind] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    config["mounts"].append({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"})
    (box.bundle.path / "rootfs/bin/mkdir").symlink_to("busybox")
    os.chown(box.bundle.path / "rootfs", 100000, 100000)
    box.bundle.path.chmod(0o755)
    box.save()
    box.run()
    owners = {
        name: (box.group / name).stat().st_uid for name in (".", "cgroup.procs", "cgroup.subtree_control", "pids.max")
    }
    assert owners == {".": 100000, "cgroup.procs": 100000, "cgroup.subtree_control": 100000, "pids.max": 0}
    script = "mkdir /sys/fs/cgroup/below && echo 0 > /sys/fs/cgroup/below/cgroup.procs && cat /proc/self/cgroup"
    done = box.runtime("exec", "ours", "sh", "-c", script)
    assert done.stdout.splitlines() == ["0::/below"], done
    box.run("delete", "--force", "ours")
    wait_gone(box.unit)
    assert not box.group.exists()


def run_killed(box: Box, count: int, before: bool, *words: str) -> None:
    """A verb that is killed before or after the nth message that it sends to systemd."""
    script = KILLED.format(source=str(paths.REPOSITORY / "src"), count=count, before=before)
    done = subprocess.run(
        [sys.executable, "-ISE", "-c", script, "--root", str(box.runtime.root), "--systemd-cgroup", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == -9


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])  # greeting, begin, start, two for the invocation id
def test_a_create_that_is_killed_at_a_message_is_removed_by_delete(box: Box, count: int, before: bool) -> None:
    box.save()
    run_killed(box, count, before, "create", "-b", str(box.bundle.path), "ours")
    box.runtime("delete", "--force", "ours", check=True)
    wait_gone(box.unit)
    assert not box.group.exists()


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("count", [1, 4, 7, 10])  # before and after the kill, when the unit is looked for and stopped
def test_a_delete_that_is_killed_at_a_message_is_finished_by_the_next(box: Box, count: int, before: bool) -> None:
    box.save()
    box.run()
    run_killed(box, count, before, "delete", "--force", "ours")
    box.runtime("delete", "--force", "ours", check=True)
    wait_gone(box.unit)
    assert not box.group.exists()
    assert box.runtime("list", "-q", check=True).stdout == ""


@pytest.mark.slow
def test_the_bus_does_where_there_is_no_private_socket() -> None:
    with subprocess.Popen(["sleep", "1000"]) as child, systemd.Session("/nonexistent") as session:
        session.start("t-bus.scope", [("PIDs", ("au", [child.pid])), ("TasksMax", ("t", 5))])
        assert show("t-bus.scope")["TasksMax"] == "5"
        session.stop(session.invocation("t-bus.scope"))
        assert child.wait(30) == -15
    wait_gone("t-bus.scope")
    assert os.path.exists(systemd.PRIVATE)
