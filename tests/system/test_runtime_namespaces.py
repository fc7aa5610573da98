"""Namespaces of a configuration: paths that lead to the wrong thing, time with offsets, sysctls, devices, propagation.

Beside runc, where it can.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import paths, peers, runtimes
from support.runtimes import Bundle, Runtime

DAYS = 10**6
OFFSETS = {"monotonic": {"secs": 2 * DAYS, "nanosecs": 5}, "boottime": {"secs": 3 * DAYS}}
CLOCKS = "cat /proc/self/timens_offsets; cat /proc/uptime"


def run(runtime: Runtime, bundle: Bundle) -> subprocess.CompletedProcess[str]:
    return runtime("run", "-b", str(bundle.save().path), f"c{os.urandom(3).hex()}")


def joining(bundle: Bundle, kind: str, path: str) -> Bundle:
    """The bundle with one namespace by path."""
    namespaces = [entry for entry in bundle.config["linux"]["namespaces"] if entry["type"] != kind]
    bundle.config["linux"]["namespaces"] = [*namespaces, {"type": kind, "path": path}]
    return bundle


@pytest.fixture
def runc(folder: Path) -> Runtime:
    return Runtime(peers.binary("runc"), folder / "runc")


@pytest.fixture
def bundle(folder: Path) -> Bundle:
    return runtimes.bundle("true", folder=folder / "bundle")


class TestPaths:
    """A namespace that is named by path."""

    @pytest.mark.parametrize("kind", ["network", "ipc", "uts", "pid", "cgroup", "mount", "time"])
    def test_nothing_there_is_said_in_runcs_words(
        self, corten: Runtime, runc: Runtime, bundle: Bundle, kind: str
    ) -> None:
        words = "unable to create new parent process: namespace path: lstat /nope/x: no such file or directory"
        joining(bundle, kind, "/nope/x")
        assert words in run(corten, bundle).stderr
        if kind != "time":  # which runc 1.1 does not know
            assert words in run(runc, bundle).stderr

    @pytest.mark.parametrize("other", ["/proc/self/ns/user", "/tmp", "/etc/passwd"])
    @pytest.mark.parametrize(
        ("kind", "name"),
        [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("cgroup", "cgroup"), ("time", "time")],
    )
    def test_another_kind_is_an_error_that_names_both(
        self, corten: Runtime, bundle: Bundle, kind: str, name: str, other: str
    ) -> None:
        done = run(corten, joining(bundle, kind, other))
        assert f"failed to setns into {name} namespace {other}: invalid argument" in done.stderr
        assert done.returncode == 1

    @pytest.mark.parametrize("kind", ["uts", "time", "pid"])
    def test_fifo_does_not_hold_the_runtime_up(self, corten: Runtime, bundle: Bundle, kind: str) -> None:
        os.mkfifo(bundle.path / "fifo")
        done = run(corten, joining(bundle, kind, str(bundle.path / "fifo")))
        assert "invalid argument" in done.stderr

    def test_runc_calls_another_kind_an_invalid_argument_too(self, runc: Runtime, bundle: Bundle) -> None:
        done = run(runc, joining(bundle, "network", "/proc/self/ns/uts"))
        assert "failed to setns into net namespace: Invalid argument" in done.stderr


class TestJoinedMounts:
    """A mount namespace by path: pivot_root(2) would change the root of everybody who is in it."""

    def test_of_another_container_is_refused_and_its_root_stays(
        self, corten: Runtime, bundle: Bundle, folder: Path
    ) -> None:
        bundle.config["process"]["args"] = ["sleep", "1000"]
        corten.detached("run", "--detach", "-b", str(bundle.save().path), "first")
        pid = corten.state("first")["pid"]
        second = runtimes.bundle("true", folder=folder / "second")
        (second.path / "rootfs/second").mkdir()
        done = run(corten, joining(second, "mount", f"/proc/{pid}/ns/mnt"))
        assert "a mount namespace of its own is needed" in done.stderr
        assert "second" not in os.listdir(f"/proc/{pid}/root")

    def test_of_the_host_is_refused_and_runc_takes_its_root_from_those_who_are_there(
        self, corten: Runtime, runc: Runtime, bundle: Bundle
    ) -> None:
        """Why: with runc a process that was there before has no way back to the machine's files, even after the end."""
        argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo ready; exec sleep 1000"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as neighbour:
            try:
                assert neighbour.stdout
                neighbour.stdout.readline()
                root, before = f"/proc/{neighbour.pid}/root", set(os.listdir("/"))
                joining(bundle, "mount", f"/proc/{neighbour.pid}/ns/mnt")
                assert "a mount namespace of its own is needed" in run(corten, bundle).stderr
                assert set(os.listdir(root)) == before
                assert run(runc, bundle).returncode == 0
                assert set(os.listdir(root)) == set(os.listdir(bundle.path / "rootfs"))
            finally:
                neighbour.kill()

    def test_runc_fails_over_it_too(self, runc: Runtime, bundle: Bundle, folder: Path) -> None:
        bundle.config["process"]["args"] = ["sleep", "1000"]
        runc.detached("run", "--detach", "-b", str(bundle.save().path), "first")
        second = runtimes.bundle("true", folder=folder / "second")
        try:
            assert run(runc, joining(second, "mount", f"/proc/{runc.state('first')['pid']}/ns/mnt")).returncode == 1
        finally:
            runc.close()


class TestSysctls:
    """What may be set is what belongs to the container."""

    def test_of_a_network_namespace_that_is_the_hosts_is_refused_as_by_runc(
        self, corten: Runtime, runc: Runtime, bundle: Bundle
    ) -> None:
        words = 'sysctl \\"net.ipv4.ip_default_ttl\\" not allowed in host network namespace'
        joining(bundle, "network", f"/proc/{os.getpid()}/ns/net")
        bundle.config["linux"]["sysctl"] = {
            "net.ipv4.ip_default_ttl": Path("/proc/sys/net/ipv4/ip_default_ttl").read_text().strip()
        }
        assert words in run(corten, bundle).stderr
        assert words in run(runc, bundle).stderr

    def test_of_a_missing_network_namespace_is_said_in_runcs_words(
        self, corten: Runtime, runc: Runtime, bundle: Bundle
    ) -> None:
        bundle.config["linux"]["sysctl"] = {"net.ipv4.ip_default_ttl": "64"}
        joining(bundle, "network", "/nope")
        for runtime in (corten, runc):
            assert "invalid netns path: stat /nope: no such file or directory" in run(runtime, bundle).stderr

    def test_of_an_ipc_namespace_that_is_the_hosts_is_refused(self, corten: Runtime, bundle: Bundle) -> None:
        joining(bundle, "ipc", f"/proc/{os.getpid()}/ns/ipc")
        bundle.config["linux"]["sysctl"] = {"kernel.msgmax": Path("/proc/sys/kernel/msgmax").read_text().strip()}
        assert "is not allowed in the hosts ipc namespace" in run(corten, bundle).stderr

    def test_of_the_containers_user_namespace_is_written(self, corten: Runtime, bundle: Bundle) -> None:
        add_user_namespace(bundle)
        bundle.config["linux"]["sysctl"] = {"user.max_uts_namespaces": "77"}
        bundle.config["process"]["args"] = ["cat", "/proc/sys/user/max_uts_namespaces"]
        before = Path("/proc/sys/user/max_uts_namespaces").read_text()
        done = run(corten, bundle)
        assert (done.stdout, done.stderr) == ("77\n", "")
        assert Path("/proc/sys/user/max_uts_namespaces").read_text() == before


def add_user_namespace(bundle: Bundle) -> None:
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    bundle.config["linux"].update(uidMappings=mapping, gidMappings=mapping)
    for path in (bundle.path, bundle.path.parent):
        path.chmod(0o755)


class TestTime:
    """A time namespace: its clocks are ahead of the host's, and everything that enters the container has them."""

    def with_time(self, bundle: Bundle, *args: str, offsets: Any = None) -> Bundle:
        bundle.config["linux"]["namespaces"].append({"type": "time"})
        if offsets:
            bundle.config["linux"]["timeOffsets"] = offsets
        bundle.config["process"]["args"] = list(args)
        return bundle.save()

    @contextmanager
    def living(self, corten: Runtime, bundle: Bundle) -> Iterator[int]:
        corten.detached("run", "--detach", "-b", str(bundle.path), "C")
        yield corten.state("C")["pid"]
        corten("delete", "--force", "C", check=True)

    def check(self, text: str) -> None:
        *offsets, uptime = text.splitlines()
        assert [line.split() for line in offsets] == [
            ["monotonic", str(2 * DAYS), "5"],
            ["boottime", str(3 * DAYS), "0"],
        ]
        assert abs(float(uptime.split()[0]) - time.clock_gettime(time.CLOCK_BOOTTIME) - 3 * DAYS) < 30

    @pytest.mark.parametrize("user", [False, True], ids=["host's users", "user namespace"])
    def test_init_and_exec_have_its_clocks(self, corten: Runtime, bundle: Bundle, user: bool) -> None:
        if user:
            add_user_namespace(bundle)
        self.with_time(bundle, "sh", "-c", CLOCKS, offsets=OFFSETS)
        done = run(corten, bundle)
        assert done.stderr == ""
        self.check(done.stdout)
        self.with_time(bundle, "sleep", "1000")
        bundle.config["linux"]["namespaces"].pop()
        with self.living(corten, bundle.save()) as pid:
            self.check(corten("exec", "C", "sh", "-c", CLOCKS, check=True).stdout)
            ours = corten("exec", "C", "ls", "-l", "/proc/self/ns/time", "/proc/1/ns/time", check=True).stdout
            assert set(re.findall(r"time:\[\d+\]", ours)) == {os.readlink(f"/proc/{pid}/ns/time")}

    def test_without_offsets_is_a_namespace_all_the_same(self, corten: Runtime, bundle: Bundle) -> None:
        self.with_time(bundle, "sleep", "1000")
        with self.living(corten, bundle) as pid:
            assert os.readlink(f"/proc/{pid}/ns/time") != os.readlink("/proc/self/ns/time")

    def test_another_container_joins_it_alone_and_with_its_processes(
        self, corten: Runtime, bundle: Bundle, folder: Path
    ) -> None:
        self.with_time(bundle, "sleep", "1000", offsets=OFFSETS)
        with self.living(corten, bundle) as pid:
            second = runtimes.bundle("sh", "-c", CLOCKS, folder=folder / "second")
            joining(second, "time", f"/proc/{pid}/ns/time")
            self.check(run(corten, second).stdout)
            joining(second, "pid", f"/proc/{pid}/ns/pid")
            self.check(run(corten, second).stdout)

    def test_a_clock_before_the_boot_is_refused(self, corten: Runtime, bundle: Bundle) -> None:
        self.with_time(bundle, "true", offsets={"monotonic": {"secs": -DAYS}})
        assert "timens_offsets: numerical result out of range" in run(corten, bundle).stderr

    def test_times_of_the_steps_go_on_as_on_the_host(self, corten: Runtime, bundle: Bundle, folder: Path) -> None:
        from corten.runtime.trace import explain

        self.with_time(bundle, "sleep", "1000", offsets=OFFSETS)
        with self.living(corten, bundle):
            explained = explain((folder / "root/C/trace").read_bytes())
        assert sum(step["duration_ns"] for step in explained["steps"]) < 20 * 10**9


class TestDevices:
    """config-linux.md, "Devices": a file in the place of a node must be that node."""

    def with_device(self, bundle: Bundle, path: str) -> Bundle:
        node = {"path": path, "type": "c", "major": 1, "minor": 7, "fileMode": 0o666, "uid": 0, "gid": 0}
        bundle.config["linux"]["devices"] = [node]
        bundle.config["process"]["args"] = ["stat", "-c", "%t:%T", path]
        (bundle.path / "rootfs/bin/stat").symlink_to("busybox")
        return bundle

    def test_mknod_over_another_node_is_refused(self, corten: Runtime, bundle: Bundle) -> None:
        os.mknod(bundle.path / "rootfs/node", 0o20666, os.makedev(1, 3))
        done = run(corten, self.with_device(bundle, "/node"))
        assert "mknod /node: file exists: what is there is another file or device" in done.stderr

    @pytest.mark.parametrize("kind", ["file", "directory", "link", "fifo"])
    def test_mknod_over_a_file_that_is_no_device_is_refused(self, corten: Runtime, bundle: Bundle, kind: str) -> None:
        place = bundle.path / "rootfs/node"
        if kind == "file":
            place.touch()
        elif kind == "directory":
            place.mkdir()
        elif kind == "link":
            place.symlink_to("dev/full")
        else:
            os.mkfifo(place)
        assert "mknod /node: file exists" in run(corten, self.with_device(bundle, "/node")).stderr

    def test_the_same_node_is_left_alone(self, corten: Runtime, bundle: Bundle) -> None:
        os.mknod(bundle.path / "rootfs/node", 0o20600, os.makedev(1, 7))
        done = run(corten, self.with_device(bundle, "/node"))
        assert (done.stdout, done.stderr) == ("1:7\n", "")
        assert (bundle.path / "rootfs/node").stat().st_mode & 0o777 == 0o600


FOLLOW = """
"$1" --root "$2" run --detach -b "$3" C </dev/null >/dev/null 2>&1
mount -t tmpfs late "$3/rootfs/late"
"$1" --root "$2" exec C cat /proc/self/mountinfo
"$1" --root "$2" delete --force C
"""


class TestRootPropagation:
    """linux.rootfsPropagation, where the host's mounts are shared."""

    def mounts(self, program: Path | str, bundle: Bundle, root: Path) -> list[str]:
        """What the container says of `/` and of a mount that the host makes below it while it runs."""
        argv = ["unshare", "--mount", "--propagation", "shared", "sh", "-ec", FOLLOW, "sh"]
        argv += [str(program), str(root), str(bundle.path)]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60, stdin=subprocess.DEVNULL)
        rows = [line.split(" - ")[0].split() for line in done.stdout.splitlines()]
        return [
            " ".join([row[4], *re.sub(r"\d+", "N", " ".join(row[6:])).split()])
            for row in rows
            if row[4] in ("/", "/late")
        ]

    def given(self, bundle: Bundle, word: str) -> Bundle:
        bundle.config["process"]["args"] = ["sleep", "1000"]
        if word:
            bundle.config["linux"]["rootfsPropagation"] = word
        (bundle.path / "rootfs/late").mkdir()
        return bundle.save()

    @pytest.mark.parametrize("word", ["", "slave", "rslave", "private", "rprivate"])
    def test_is_that_of_runc(self, bundle: Bundle, folder: Path, word: str) -> None:
        self.given(bundle, word)
        ours = self.mounts(paths.COMMANDS / "corten-runtime", bundle, folder / "root")
        assert ours == self.mounts(peers.binary("runc"), bundle, folder / "runc")
        assert ours == (["/"] if "private" in word else ["/ master:N", "/late master:N"])

    @pytest.mark.parametrize(
        ("word", "tag"), [("shared", "shared:N"), ("rshared", "shared:N"), ("unbindable", "unbindable")]
    )
    def test_a_group_of_its_own_gets_nothing_of_the_host(
        self, bundle: Bundle, folder: Path, word: str, tag: str
    ) -> None:
        self.given(bundle, word)
        assert self.mounts(paths.COMMANDS / "corten-runtime", bundle, folder / "root") == [f"/ {tag}"]
