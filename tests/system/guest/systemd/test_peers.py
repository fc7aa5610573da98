"""Engines that have systemd make their cgroups: each container is a scope with its limits, and leaves none.

dockerd 26.1 with `native.cgroupdriver=systemd`, podman 4.3 as it is by default, containerd 1.7 by ctr; each with
corten-runtime and with runc, beside which unit and files must be the same.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import guestctr, images, paths, units
from support.guestctr import LINGER, Containerd
from support.guestdocker import TIMEOUT_S, Docker
from support.process import wait_for

CGROUPS = Path("/sys/fs/cgroup")
CORTEN, RUNC = paths.COMMANDS / "corten-runtime", Path("/usr/local/sbin/runc")
PROPERTIES = (
    *("ActiveState", "Slice", "Delegate", "TasksMax", "MemoryMax", "MemorySwapMax", "CPUQuotaPerSecUSec", "CPUWeight"),
    *("AllowedCPUs", "DefaultDependencies", "MemoryAccounting", "TasksAccounting"),
)
FILES = ("pids.max", "memory.max", "memory.swap.max", "cpu.max", "cpu.weight", "cpuset.cpus")
LIMITS = ("--memory", "64m", "--memory-swap", "96m", "--cpus", "0.5", "--cpuset-cpus", "0", "--pids-limit", "20")
IMAGE = images.BUSYBOX_REF
LEFT = ("docker-*.scope", "libpod-*.scope", "t-*.scope", "corten-*.scope")


def look(group: Path) -> dict[str, str]:
    """What systemd and the kernel say of a scope."""
    files = {name: (group / name).read_text().strip() for name in FILES}
    return {**units.show(group.name, PROPERTIES), **files}


def different(ours: dict[str, str], theirs: dict[str, str]) -> dict[str, tuple[str, str]]:
    """What the two do not have in common."""
    return {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}


def cgroup_of(pid: str) -> Path:
    """A process's cgroup."""
    return CGROUPS / Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::/")


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No scope of a container outlives its test."""
    yield
    wait_for(lambda: not units.names_of(*LEFT), f"end of all scopes, not of {units.names_of(*LEFT)}", 60)


# dockerd


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    made = Docker(tmp_path_factory.mktemp("dockerd"), "--exec-opt", "native.cgroupdriver=systemd")
    try:
        made.docker("load", "-i", str(images.busybox()), check=True, timeout=TIMEOUT_S)
        yield made
    finally:
        made.daemon.stop()


@pytest.mark.slow
def test_containers_of_dockerd_are_scopes_with_their_limits(docker: Docker) -> None:
    info = docker.docker("info", "--format", "{{.CgroupDriver}} {{.CgroupVersion}}", check=True).stdout
    assert info == "systemd 2\n"
    found = []
    for runtime in ("corten", "peer"):
        options = ("--network", "none", "--runtime", runtime, "--name", "box", *LIMITS)
        id = docker.docker("run", "-d", *options, IMAGE, "sleep", "1000", check=True, timeout=TIMEOUT_S).stdout.strip()
        pid = docker.docker("inspect", "--format", "{{.State.Pid}}", id, check=True).stdout.strip()
        group = cgroup_of(pid)
        assert group == CGROUPS / f"system.slice/docker-{id}.scope"
        before = look(group)
        assert docker.docker("exec", "box", "cat", "/proc/self/cgroup", check=True).stdout == "0::/\n"
        # no swap at all is what runc tells the files, but not the unit
        update = ("--memory", "32m", "--memory-swap", "48m", "--pids-limit", "10", "--cpus", "0.25")
        docker.docker("update", *update, "box", check=True, timeout=TIMEOUT_S)
        subprocess.run(["systemctl", "daemon-reload"], check=True)
        after = look(group)
        docker.docker("pause", "box", check=True)
        docker.docker("unpause", "box", check=True)
        docker.docker("restart", "--time", "0", "box", check=True, timeout=TIMEOUT_S)
        again = look(group)
        docker.docker("rm", "-f", "box", check=True, timeout=TIMEOUT_S)
        units.wait_gone(group.name)
        assert not group.exists()
        found.append([before, after, again])
    for ours, theirs in zip(*found, strict=True):
        assert different(ours, theirs) == {}
    before, after, again = found[0]
    assert (before["TasksMax"], before["MemoryMax"], before["pids.max"]) == ("20", str(64 << 20), "20")
    assert (after["TasksMax"], after["MemoryMax"], after["memory.swap.max"]) == ("10", str(32 << 20), str(16 << 20))
    assert after == again


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["corten", "peer"])
def test_a_container_of_dockerd_that_ends_by_itself_leaves_nothing(docker: Docker, runtime: str) -> None:
    assert docker.run("--runtime", runtime, IMAGE, "sh", "-c", "cat /proc/self/cgroup; exit 7") == "0::/\nstatus 7\n"
    eaten = docker.run(
        "--runtime", runtime, "--memory", "8m", IMAGE, "sh", "-c", "head -c 100m /dev/zero | tail; exit $?"
    )
    assert eaten.endswith("status 137\n")


# podman


class Podman:
    """podman with folders of its own, as root, with its default manager of cgroups."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}\n')
        text = (
            f'[engine]\nruntime_supports_json = ["corten-runtime", "runc"]\n[engine.runtimes]\ncorten = ["{CORTEN}"]\n'
        )
        (folder / "containers.conf").write_text(text)
        self("load", "--signature-policy", f"{folder}/policy.json", "-i", str(images.busybox()))

    def __call__(self, *words: str, runtime: Path = CORTEN, check: bool = True) -> str:
        argv = ["podman", "--root", f"{self.folder}/root", "--runroot", f"{self.folder}/run"]
        argv += ["--tmpdir", f"{self.folder}/tmp", "--storage-driver", "overlay", "--events-backend", "file"]
        environment = {**os.environ, "CONTAINERS_CONF": f"{self.folder}/containers.conf", "HOME": str(self.folder)}
        done = subprocess.run(
            [*argv, "--runtime", str(runtime), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
            env=environment,
        )
        assert done.returncode == 0 or not check, f"podman {words}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Podman:
    return Podman(tmp_path_factory.mktemp("podman"))


@pytest.mark.slow
def test_containers_of_podman_are_scopes_with_their_limits(podman: Podman) -> None:
    assert podman("info", "--format", "{{.Host.CgroupManager}} {{.Host.CgroupsVersion}}") == "systemd v2\n"
    found = []
    for runtime in (CORTEN, RUNC):
        options = ("--network", "none", "--name", "box", *LIMITS)
        id = podman("run", "-d", *options, IMAGE, "sleep", "1000", runtime=runtime).strip()
        pid = podman("inspect", "--format", "{{.State.Pid}}", "box", runtime=runtime).strip()
        scope = CGROUPS / f"machine.slice/libpod-{id}.scope"
        assert scope in (cgroup_of(pid), cgroup_of(pid).parent)
        found.append({**look(scope), "below": cgroup_of(pid).name.replace(id, "ID")})
        assert podman("exec", "box", "echo", "in", runtime=runtime) == "in\n"
        podman("rm", "--force", "--time", "0", "box", runtime=runtime)
        units.wait_gone(scope.name)
        units.wait_gone(f"libpod-conmon-{id}.scope")
        assert not scope.exists()
    assert different(*found) == {}
    assert (found[0]["TasksMax"], found[0]["MemoryMax"], found[0]["pids.max"]) == ("20", str(64 << 20), "20")


@pytest.mark.slow
def test_a_container_of_podman_that_ends_by_itself_leaves_nothing(podman: Podman) -> None:
    for runtime in (CORTEN, RUNC):
        words = ("run", "--rm", "--network", "none", IMAGE, "sh", "-c", "echo in; exit 7")
        said = podman(*words, runtime=runtime, check=False)
        assert said == "in\n"


# containerd


@pytest.fixture
def containerd(tmp_path: Path) -> Iterator[Containerd]:
    with guestctr.with_busybox(tmp_path) as made:
        yield made


@pytest.mark.slow
def test_tasks_of_containerd_are_scopes_with_their_limits(containerd: Containerd) -> None:
    found = []
    for runtime in (CORTEN, RUNC):
        words = ("--detach", "--runc-binary", str(runtime), "--runc-systemd-cgroup", "--snapshotter", "native")
        limits = ("--cgroup", "box-test.slice:t:box", "--memory-limit", str(64 << 20), "--cpus", "0.5")
        containerd.check("run", *words, *limits, f"docker.io/{IMAGE}", "box", "sleep", "1000")
        group = CGROUPS / "box.slice/box-test.slice/t-box.scope"
        pid = containerd.check("tasks", "ls").splitlines()[1].split()[1]
        assert cgroup_of(pid) == group
        found.append(look(group))
        say = f"echo in; {LINGER}"
        assert containerd.check("tasks", "exec", "--exec-id", "e", "box", "sh", "-c", say) == "in\n"
        containerd.check("tasks", "kill", "--signal", "KILL", "box")
        wait_for(lambda: "RUNNING" not in containerd.check("tasks", "ls"), "end of the task", 60)
        containerd.check("tasks", "delete", "box")
        containerd.check("containers", "delete", "box")
        units.wait_gone(group.name)
        assert not group.exists()
    # the node's default, where nobody gave a limit
    assert different(found[0], {**found[1], "TasksMax": "500", "pids.max": "500"}) == {}
    assert (found[0]["MemoryMax"], found[0]["CPUQuotaPerSecUSec"]) == (str(64 << 20), "500ms")
