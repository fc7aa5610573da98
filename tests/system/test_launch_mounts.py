"""Mounts, links as targets and the root itself, as the launcher makes them; and the sentences when it cannot."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corten.launch import bpf
from corten.launch.execops import Seccomp
from corten.launch.nsops import LockMounts, MakeUserNamespace
from corten.launch.ops import Op, Plan
from corten.launch.userops import SetCaps, SetRlimit
from support.launching import Machine, mount
from support.newmount import detached_overlay

IDS = [{"containerID": 0, "hostID": 100000, "size": 65536}]
# write(2) of four bytes kills: struct seccomp_data has the call at 0 and its third argument at 32 (seccomp(2))
KILL_WRITER = b"".join(
    bpf.INSTRUCTION.pack(*line)
    for line in (
        (bpf.LOAD_WORD, 0, 0, 0),
        (bpf.JUMP_EQUAL, 0, 3, bpf.MACHINES[os.uname().machine][1][0]),
        (bpf.LOAD_WORD, 0, 0, 32),
        (bpf.JUMP_EQUAL, 0, 1, 4),
        (bpf.RETURN, 0, 0, 0x80000000),
        (bpf.RETURN, 0, 0, bpf.ALLOW),
    )
)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.close()


class TestSentences:
    """A failed step names what it was about."""

    def test_missing_source(self, machine: Machine) -> None:
        document = machine.config("true")
        document["mounts"].append(mount("/data", "bind", "/no/such/source", "rbind"))
        done = machine.run(document)
        at = done.failure.rpartition(" (step ")
        assert at[0] == "mount /no/such/source on /data: no such file or directory"
        assert at[2] == f"{done.steps[-1] + 1} of {len(done.plan.ops)})"
        assert done.pid == 0, "the launcher itself failed: there was no child"

    def test_bad_option_comes_with_the_kernels_words(self, machine: Machine) -> None:
        document = machine.config("true")
        document["mounts"].append(mount("/data", "tmpfs", "tmpfs", "colour=red"))
        assert "invalid argument: tmpfs: Unknown parameter 'colour'" in machine.run(document).failure

    def test_file_in_the_way_of_a_directory(self, machine: Machine) -> None:
        document = machine.config("true")
        document["mounts"].append(mount("/etc/passwd/x", "tmpfs", "tmpfs"))
        assert machine.run(document).failure.startswith("mount tmpfs on /etc/passwd/x: not a directory (step ")

    def test_limit_that_cannot_be_raised(self, machine: Machine) -> None:
        def without_capabilities(plan: Plan) -> Plan:
            at = next(number for number, op in enumerate(plan.ops) if isinstance(op, SetRlimit))
            return Plan((*plan.ops[:at], SetCaps(0, 0, 0), *plan.ops[at:]), plan.inputs, plan.preserve_fds)

        limits = [{"type": "RLIMIT_NOFILE", "soft": 1 << 20, "hard": 1 << 20}]
        text = "error setting rlimits for ready process: error setting rlimit type 7: operation not permitted"
        plan = machine.plan(machine.config("true", rlimits=limits))
        assert machine.spawn(plan, transform=without_capabilities).finish().failure == text

    def test_failed_child_leaves_nothing(self, machine: Machine) -> None:
        document = machine.config("true")
        document["mounts"].append(mount("/data", "no-such-fs", "x"))
        done = machine.run(document)
        assert done.failure.startswith("mount no-such-fs on /data: no such device (step ")
        assert done.status == 1
        assert (Path(machine.cgroup_paths["pids"]) / "tasks").read_text() == ""


class TestMounts:
    """Binds, tmpfs, links as targets."""

    def bound(self, machine: Machine, script: str, *mounts: dict[str, Any]) -> Any:
        document = machine.config("sh", "-c", script)
        document["mounts"] += mounts
        return machine.run(document)

    def test_bind_of_a_directory_and_of_a_file(self, machine: Machine, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("content")
        done = self.bound(
            machine,
            "cat /deep/new/dir/file /etc/as-file; echo x > /deep/new/dir/file; echo y > /etc/as-file",
            mount("/deep/new/dir", "bind", str(tmp_path), "rbind", "ro"),
            mount("/etc/as-file", "bind", str(tmp_path / "file"), "rbind"),
        )
        assert done.out == "contentcontent"
        assert done.err.count("Read-only file system") == 1
        assert (tmp_path / "file").read_text() == "y\n"

    def test_bind_of_the_hosts_root_does_not_show_the_containers(self, machine: Machine) -> None:
        done = self.bound(machine, "ls -A /host", mount("/host", "bind", "/", "rbind"))
        assert set(os.listdir("/")) <= set(done.lines)

    def test_recursive_readonly_holds_below(self, machine: Machine) -> None:
        done = self.bound(
            machine,
            "touch /all/dev/shm/x; touch /one/dev/shm/corten-x && rm /one/dev/shm/corten-x && echo writable",
            mount("/all", "bind", "/", "rbind", "rro"),
            mount("/one", "bind", "/", "rbind", "ro"),
        )
        assert "Read-only file system" in done.err
        assert done.out == "writable\n"

    def test_tmpfs_looks_like_the_directory_that_it_covers(self, machine: Machine) -> None:
        done = self.bound(
            machine,
            "stat -c %a /root /tmp /fresh /given",
            mount("/root", "tmpfs", "tmpfs", "size=1m"),
            mount("/tmp", "tmpfs", "tmpfs"),
            mount("/fresh", "tmpfs", "tmpfs"),
            mount("/given", "tmpfs", "tmpfs", "mode=710"),
        )
        assert done.lines == ["700", "1777", "1777", "710"]

    def test_tmpfs_may_begin_as_a_copy(self, machine: Machine) -> None:
        script = "cd /etc; cat deep/er/file; stat -c '%a %u:%g %Y %F' deep/er/file pipe; readlink link; echo x > passwd"
        folder = machine.rootfs / "etc/deep/er"
        folder.mkdir(parents=True)
        (folder / "file").write_text("kept\n")
        os.chown(folder / "file", 7, 8)
        (folder / "file").chmod(0o4751)
        os.utime(folder / "file", (5, 6))
        os.mkfifo(machine.rootfs / "etc/pipe", 0o640)
        (machine.rootfs / "etc/link").symlink_to("/nowhere")
        try:
            done = self.bound(machine, script, mount("/etc", "tmpfs", "tmpfs", "tmpcopyup", "mode=755"))
        finally:
            shutil.rmtree(machine.rootfs / "etc/deep")
            for name in ("pipe", "link"):
                (machine.rootfs / "etc" / name).unlink()
        assert done.failure == ""
        assert done.lines[:2] == ["kept", "4751 7:8 6 regular file"]
        assert done.lines[2].startswith("640 0:0 ")
        assert done.lines[2].endswith(" fifo")
        assert done.lines[3] == "/nowhere"
        assert (machine.rootfs / "etc/passwd").read_text().startswith("root:")

    def test_copy_of_what_is_not_there_is_empty(self, machine: Machine) -> None:
        assert self.bound(machine, "ls -A /new", mount("/new", "tmpfs", "tmpfs", "tmpcopyup")).out == ""

    def test_readonly_tmpfs(self, machine: Machine) -> None:
        done = self.bound(machine, "touch /ro/x; grep ' /ro ' /proc/mounts", mount("/ro", "tmpfs", "tmpfs", "ro"))
        assert "Read-only file system" in done.err
        assert " tmpfs ro," in done.out

    @pytest.mark.parametrize("target", ["/etc", "../../../../etc", "/proc/self/root/etc"])
    def test_link_as_target_stays_in_the_root(self, machine: Machine, tmp_path: Path, target: str) -> None:
        (tmp_path / "mark").write_text("")
        link = machine.rootfs / "link"
        link.symlink_to(target)
        try:
            done = self.bound(machine, "ls /etc", mount("/link", "bind", str(tmp_path), "bind"))
        finally:
            link.unlink()
        assert not Path("/etc/mark").exists()
        if "/proc/" in target:
            assert done.failure.endswith("(step " + done.failure.rpartition("(step ")[2])
            assert "too many levels of symbolic links" in done.failure
        else:
            assert done.out == "mark\n"

    def test_link_to_nowhere_is_made_inside(self, machine: Machine, tmp_path: Path) -> None:
        (tmp_path / "mark").write_text("")
        link = machine.rootfs / "dangling"
        link.symlink_to("/corten-not/there")
        try:
            entry = mount("/dangling/below", "bind", str(tmp_path), "bind")
            done = self.bound(machine, "ls /corten-not/there/below", entry)
        finally:
            link.unlink()
        assert done.out == "mark\n"
        assert not Path("/corten-not").exists()

    @pytest.mark.parametrize("name", ["proc", "sys", "dev"])
    def test_link_in_place_of_a_kernel_directory_is_refused(self, machine: Machine, name: str) -> None:
        """CVE-2019-19921, 2026-41579."""
        real = machine.rootfs / name
        real.rename(machine.rootfs / "moved")
        real.symlink_to("/tmp")
        try:
            failure = machine.sh("true").failure
        finally:
            real.unlink()
            (machine.rootfs / "moved").rename(real)
        assert f"on /{name}: too many levels of symbolic links" in failure

    def test_link_in_place_of_a_device_is_refused(self, machine: Machine) -> None:
        """Of an image without a /dev of the configuration's; masks: attacks/test_runtime_paths.py, TestMasks."""
        document = machine.config("true")
        document["mounts"] = [entry for entry in document["mounts"] if not entry["destination"].startswith("/dev")]
        link = machine.rootfs / "dev/null"
        link.symlink_to("/proc/kcore")
        try:
            done = machine.run(document)
        finally:
            for path in (machine.rootfs / "dev").iterdir():
                path.unlink()
        assert done.failure.startswith("mknod /dev/null: file exists: what is there is another file or device (step ")

    def test_propagation_is_what_was_asked_for(self, machine: Machine, tmp_path: Path) -> None:
        done = self.bound(
            machine,
            "cat /proc/self/mountinfo",
            mount("/a", "bind", str(tmp_path), "rbind", "rshared"),
            mount("/b", "bind", str(tmp_path), "rbind", "rprivate"),
        )
        rows = {line.split()[4]: line.split()[6] for line in done.lines}
        assert rows["/a"].startswith("shared:")
        assert rows["/b"] == "-"


class TestRoot:
    """Where the root comes from."""

    def test_detached_mount_of_the_spawner(self, machine: Machine, tmp_path: Path) -> None:
        with detached_overlay(machine.rootfs, tmp_path) as fd:
            plan = machine.plan(machine.config("sh", "-c", "echo x > /written; stat -f -c %T /"), rootfs_fd=True)
            done = machine.spawn(plan, {"rootfs": fd}).finish()
        assert done.failure == ""
        assert done.status == 0
        assert (tmp_path / "upper/written").read_text() == "x\n"
        assert not (machine.rootfs / "written").exists()

    def test_without_pivot(self, machine: Machine) -> None:
        assert machine.run(machine.config("cat", "/etc/passwd"), no_pivot=True).out.startswith("root:")

    def test_shared_root_propagates_to_nobody_outside(self, machine: Machine) -> None:
        document = machine.config("sh", "-c", "grep ' / / ' /proc/self/mountinfo || cat /proc/self/mountinfo")
        document["linux"]["rootfsPropagation"] = "rshared"
        assert " shared:" in machine.run(document).out

    def test_user_namespace_has_ids_and_devices_of_its_own(self, machine: Machine) -> None:
        maps = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        script = "id -u; cat /proc/self/uid_map; echo > /dev/null; stat -c %U /proc/1/status"
        document = machine.config("sh", "-c", script)
        document["linux"]["namespaces"].append({"type": "user"})
        document["linux"].update(uidMappings=maps, gidMappings=maps)
        done = machine.run(document)
        assert done.failure == ""
        assert done.lines[0] == "0"
        assert done.lines[1].split() == ["0", "100000", "65536"]
        assert done.lines[2] == "root"


class TestHolder:
    """The child that makes a namespace for the launcher."""

    @pytest.mark.parametrize("kind", [MakeUserNamespace, LockMounts], ids=lambda kind: kind.__name__)
    def test_one_that_dies_before_its_word_fails_the_start(
        self, machine: Machine, tmp_path: Path, kind: type[Op]
    ) -> None:
        """A filter kills whoever writes four bytes: the number of a descriptor, which the launcher never writes."""
        document = machine.config("true")
        document["linux"]["namespaces"].append({"type": "user"})
        document["linux"].update(uidMappings=IDS, gidMappings=IDS)
        entry = mount("/data", "bind", str(tmp_path), "bind", "idmap")
        document["mounts"].append({**entry, "uidMappings": IDS, "gidMappings": IDS})

        def with_filter(plan: Plan) -> Plan:
            at = next(index for index, op in enumerate(plan.ops) if isinstance(op, kind))
            return Plan((*plan.ops[:at], Seccomp(KILL_WRITER, 0, 0), *plan.ops[at:]), plan.inputs, plan.preserve_fds)

        failure = machine.spawn(machine.plan(document), transform=with_filter).finish().failure
        assert "input/output error" in failure
        assert next(op for op in machine.plan(document).ops if isinstance(op, kind)).describe() in failure
