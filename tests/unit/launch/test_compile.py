"""Compiling: what is refused, and what an exec takes over from its container.  Whole plans: tests/golden."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from corten.errors import FailedPrecondition, InvalidArgument
from corten.launch.checks import sysctl_path
from corten.launch.context import CALLS, SHIM
from corten.launch.execops import Exec, Hook, Seccomp
from corten.launch.facts import HostFacts, facts_from_obj, facts_to_obj
from corten.launch.mountops import (
    FsMount,
    MountDetached,
    MountSetattr,
    MoveMount,
    OpenTree,
)
from corten.launch.ops import (
    Clone,
    CloneLauncher,
    CloneLegacy,
    Close,
    Op,
    SetControllingTerminal,
    SetDumpable,
    Setns,
    Setsid,
    Unshare,
    Wait,
    Write,
    WriteFile,
)
from corten.launch.procops import SetScheduler
from corten.launch.tail import candidates
from corten.launch.userops import (
    DropBounding,
    FindExecutable,
    NoNewPrivs,
    ParentDeathSignal,
    RaiseAmbient,
    SetCaps,
    SetHome,
    SetRlimit,
    Umask,
)
from support.compiling import ALL_CALLS, FACTS, config, exec_ops, of_type, ops


class TestRefusals:
    """What cannot be compiled says why."""

    def test_old_kernel(self) -> None:
        with pytest.raises(FailedPrecondition, match=r"kernel 4\.18"):
            ops(config(), HostFacts((4, 18), "v2", {}, "/sys/fs/cgroup"))

    def test_bytes_that_are_no_text_are_written_as_they_are(self) -> None:
        """Found by the fuzzer; what they mean the kernel decides."""
        document = config(
            linux={"namespaces": [{"type": "mount"}, {"type": "ipc"}], "sysctl": {"kernel.sem": "\udc8c"}}
        )
        assert [op.data for op in ops(document) if isinstance(op, WriteFile) and "sem" in op.path] == [b"\x8c"]

    def test_no_process(self) -> None:
        document = config()
        del document["process"]
        with pytest.raises(InvalidArgument, match="process: missing"):
            ops(document)

    def test_no_arguments(self) -> None:
        with pytest.raises(InvalidArgument, match="args"):
            ops(config(process={"args": []}))

    def test_no_mount_namespace(self) -> None:
        with pytest.raises(InvalidArgument, match="mount namespace"):
            ops(config(linux={"namespaces": []}))

    def test_hostname_of_the_host(self) -> None:
        with pytest.raises(InvalidArgument, match="private UTS namespace"):
            ops(config(hostname="x", linux={"namespaces": [{"type": "mount"}]}))

    def test_user_namespace_without_mappings(self) -> None:
        with pytest.raises(InvalidArgument, match="no uid or gid mappings"):
            ops(config(linux={"namespaces": [{"type": "mount"}, {"type": "user"}]}))

    def test_terminal_without_a_socket_for_it(self) -> None:
        with pytest.raises(InvalidArgument, match="cannot allocate tty"):
            ops(config(process={"terminal": True}))

    def test_apparmor_profile_where_there_is_no_apparmor(self) -> None:
        with pytest.raises(FailedPrecondition, match="apparmor is not active"):
            ops(config(process={"apparmorProfile": "docker-default"}))

    def test_variable_without_a_value(self) -> None:
        with pytest.raises(InvalidArgument, match="invalid environment variable: 'X'"):
            ops(config(process={"env": ["X"]}))

    @pytest.mark.parametrize(
        ("name", "namespaces", "text"),
        [
            ("net.ipv4.ip_forward", ["mount"], "not allowed in host network namespace"),
            ("kernel.msgmax", ["mount"], "not allowed in the hosts ipc namespace"),
            ("kernel.hostname", ["mount", "uts"], "conflicts"),
            ("vm.swappiness", ["mount"], "not in a separate kernel namespace"),
            ("net.ipv4...kernel.x", ["mount", "network"], "not a name"),
            ("net/../kernel/core_pattern", ["mount", "network"], "not a name"),
        ],
    )
    def test_sysctl_of_the_host(self, name: str, namespaces: list[str], text: str) -> None:
        linux = {"sysctl": {name: "1"}, "namespaces": [{"type": kind} for kind in namespaces]}
        with pytest.raises(InvalidArgument, match=text):
            ops(config(linux=linux))


class TestIdentity:
    """Capabilities, ids, environment."""

    CAPS = ("CAP_CHOWN", "CAP_KILL")

    def caps(self, **process: Any) -> tuple[Op, ...]:
        sets = dict.fromkeys(("bounding", "effective", "permitted"), self.CAPS)
        lists = {name: list(names) for name, names in sets.items()}
        return ops(config(process={"capabilities": lists, **process}), seccomp=bytes(8))

    def test_sys_admin_stays_until_the_filter_is_in_and_is_not_in_the_bounding_set(self) -> None:
        found = self.caps()
        (caps,) = of_type(SetCaps, found)
        assert caps.permitted == caps.effective == 0b100001 | 1 << 21
        assert caps.inheritable == 0
        (bounding,) = of_type(DropBounding, found)
        assert bounding.keep == 0b100001

    def test_no_new_privs_needs_no_sys_admin(self) -> None:
        found = self.caps(noNewPrivileges=True)
        (caps,) = of_type(SetCaps, found)
        assert caps.permitted == 0b100001
        assert len(of_type(NoNewPrivs, found)) == 1

    def test_capabilities_that_the_runtime_does_not_have_are_left_out(self) -> None:
        facts = HostFacts((6, 1), "v2", {}, "/sys/fs/cgroup", cap_bounding=0b1)
        document = config(process={"capabilities": {name: list(self.CAPS) for name in ("bounding", "permitted")}})
        (bounding,) = of_type(DropBounding, ops(document, facts))
        assert bounding.keep == 0b1

    def test_ambient_bits_need_permitted_and_inheritable_ones(self) -> None:
        sets = {"ambient": list(self.CAPS), "permitted": list(self.CAPS), "inheritable": ["CAP_KILL"]}
        (ambient,) = of_type(RaiseAmbient, ops(config(process={"capabilities": sets})))
        assert ambient.mask == 0b100000

    def test_last_of_a_variable_counts(self) -> None:
        (end,) = of_type(Exec, ops(config(process={"env": ["A=1", "PATH=/x", "A=2", "HOME=/h"]})))
        assert end.env == ("A=2", "PATH=/x", "HOME=/h")

    @pytest.mark.parametrize(("env", "count"), [([], 1), (["HOME="], 1), (["HOME=/h"], 0)])
    def test_home_comes_from_passwd_where_it_is_not_given(self, env: list[str], count: int) -> None:
        assert len(of_type(SetHome, ops(config(process={"env": env})))) == count

    def test_limits_of_a_user_namespace_are_set_before_it(self) -> None:
        maps = [{"containerID": 0, "hostID": 1000, "size": 10}]
        linux = {"namespaces": [{"type": "mount"}, {"type": "user"}], "uidMappings": maps, "gidMappings": maps}
        limits = [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}]
        found = ops(config(process={"rlimits": limits}, linux=linux))
        kinds = [type(op) for op in found]
        assert kinds.index(SetRlimit) < kinds.index(Clone)

    def test_shim_is_watched_and_a_command_is_not(self) -> None:
        assert len(of_type(ParentDeathSignal, ops(config(), parent=SHIM))) == 1
        assert not of_type(ParentDeathSignal, ops(config()))

    @pytest.mark.parametrize(
        ("name", "path", "found"),
        [
            ("sh", "/bin:/usr/bin/", ("/bin/sh", "/usr/bin/sh")),
            ("./sh", "/bin", ("./sh",)),
            ("/sh", "", ("/sh",)),
            ("sh", "", ()),
            ("sh", ":relative:/bin", ("/bin/sh",)),
        ],
    )
    def test_executable_is_looked_for_in_absolute_directories_only(
        self, name: str, path: str, found: tuple[str, ...]
    ) -> None:
        assert candidates(name, path) == found


class TestMounts:
    """Single mounts; whole lists are in the golden plans."""

    def one(self, **mount: Any) -> tuple[Op, ...]:
        return ops(config(mounts=[{"destination": "/data", **mount}]))

    def test_relative_source_lies_in_the_bundle(self) -> None:
        trees = of_type(OpenTree, self.one(type="bind", source="files", options=["rbind"]))
        assert ("/bundle/files", 1) in [(tree.path, tree.recursive) for tree in trees]

    def test_destination_is_taken_beneath_the_root_whatever_it_says(self) -> None:
        found = of_type(MoveMount, ops(config(mounts=[{"destination": "../../etc", "type": "tmpfs"}])))
        assert [op.path for op in found if op.slot == "mount.0"] == ["/etc"]

    def test_readonly_tmpfs_is_writable_until_everything_in_it_is_made(self) -> None:
        found = self.one(type="tmpfs", source="tmpfs", options=["ro", "nosuid"])
        (made,) = [op for op in of_type(FsMount, found) if op.slot == "mount.0"]
        assert made.attrs == 2
        assert MountSetattr("mount.0", 1, 0, 0, 0) in found

    @pytest.mark.parametrize("type", ["tmpfs", "proc", "overlay"])
    def test_what_fsconfig_does_not_take_is_mounted_by_mount_2_and_gets_its_attributes_then(self, type: str) -> None:
        found = self.one(type=type, source="s" * 256, options=["sync", "nosuid", "noatime", "gid=5"])
        assert not [op for op in of_type(FsMount, found) if op.slot == "mount.0"]
        (made,) = of_type(MountDetached, found)
        assert (made.source, made.flags, made.data, made.on) == ("s" * 256, 16, "gid=5", "/data")
        assert made.magic == (0x9FA0 if type == "proc" else 0)
        assert found[found.index(made) + 1] == MountSetattr("mount.0", 0x12, 0x70, 1 << 18, 0, on="/data")

    def test_recursive_readonly_does_not_take_propagation_along(self) -> None:
        found = self.one(type="bind", source="/src", options=["rbind", "rro", "private"])
        attrs = [op for op in of_type(MountSetattr, found) if op.slot == "mount.0"]
        mounts = [MountSetattr("mount.0", *each, on="/data") for each in ((1, 0, 0, 1), (0, 0, 1 << 18, 0))]
        assert attrs == mounts

    @pytest.mark.parametrize(
        ("destination", "text"),
        [("/", "over the root"), ("/x/../", "over the root"), ("/proc/1/attr", '"/proc/1/attr" cannot be mounted')],
    )
    def test_root_and_the_files_of_proc_are_no_place_for_a_mount(self, destination: str, text: str) -> None:
        with pytest.raises(InvalidArgument, match=text):
            ops(config(mounts=[{"destination": destination, "type": "bind", "source": "/a"}]))

    def test_file_of_proc_that_emulators_replace_may_be_mounted(self) -> None:
        mounts = [{"destination": "/proc/meminfo", "type": "bind", "source": "/a", "options": ["bind"]}]
        assert [op for op in ops(config(mounts=mounts)) if isinstance(op, MoveMount) and op.path == "/proc/meminfo"]

    def test_user_namespace_without_a_cgroup_namespace_gets_the_hosts_view(self) -> None:
        maps = [{"containerID": 0, "hostID": 1000, "size": 10}]
        linux = {"namespaces": [{"type": "mount"}, {"type": "user"}], "uidMappings": maps, "gidMappings": maps}
        mounts = [{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}]
        trees = of_type(OpenTree, ops(config(linux=linux, mounts=mounts)))
        assert ("/sys/fs/cgroup", 1) in [(tree.path, tree.recursive) for tree in trees]

    def test_dev_of_its_own_is_not_filled(self) -> None:
        mounts = [{"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind"]}]
        assert "mknod" not in "".join(op.describe() for op in ops(config(mounts=mounts)))


class TestExec:
    """An exec fills in what it leaves out from the container's own process."""

    OWN = {
        "args": ["sh"],
        "cwd": "/",
        "user": {"umask": 63},
        "capabilities": {"bounding": ["CAP_KILL"]},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 3, "hard": 4}],
        "oomScoreAdj": 7,
    }

    def test_what_is_left_out_is_the_containers(self) -> None:
        found = exec_ops(config(process=self.OWN), {"args": ["id"], "cwd": "/"})
        assert DropBounding(0b100000, 40) in found
        assert SetRlimit(7, 3, 4) in found
        assert Umask(63) in found
        assert WriteFile("hostproc", "self/oom_score_adj", b"7") in found

    def test_what_is_given_counts(self) -> None:
        process = {"args": ["id"], "cwd": "/", "user": {"umask": 0}, "capabilities": {}, "oomScoreAdj": 9}
        found = exec_ops(config(process=self.OWN), process)
        assert DropBounding(0, 40) in found
        assert found.count(Umask(0)) == 2
        assert WriteFile("hostproc", "self/oom_score_adj", b"9") in found

    def test_selinux_label_is_refused(self) -> None:
        selinux = HostFacts((6, 18), "v2", {}, "/sys/fs/cgroup", selinux=True)
        for facts, text in ((FACTS, "selinux is disabled or not supported"), (selinux, "'a:b': not supported yet")):
            with pytest.raises(InvalidArgument, match=text):
                exec_ops(config(), {"args": ["id"], "cwd": "/", "selinuxLabel": "a:b"}, facts)
            with pytest.raises(InvalidArgument, match=text):
                exec_ops(config(process={"selinuxLabel": "a:b"}), {"args": ["id"], "cwd": "/"}, facts)
            for changes in ({"process": {"selinuxLabel": "a:b"}}, {"linux": {"mountLabel": "a:b"}}):
                with pytest.raises(InvalidArgument, match=text):
                    ops(config(**changes), facts)

    def test_exec_makes_no_namespace(self) -> None:
        found = exec_ops(config(), {"args": ["id"], "cwd": "/"})
        assert not of_type(Unshare, found)
        assert of_type(CloneLegacy, found) == [CloneLegacy(0)]


# the calls that a launcher makes for some processes alone
ASKED_FOR = ("ioctl", "prlimit64", "read", "sched_setaffinity", "sendmsg")


class TestVisible:
    """What a container sees from its clone on has as little left to do, and as few rights, as can be."""

    SETS = MappingProxyType({name: ["CAP_CHOWN"] for name in ("bounding", "effective", "permitted")})
    CHILD = (Write, Close, Setsid, SetControllingTerminal, ParentDeathSignal, Wait, Exec)

    def exec(self, *, calls: int = ALL_CALLS, facts: HostFacts = FACTS, **process: Any) -> tuple[Op, ...]:
        asked = {"args": ["id"], "cwd": "/", "capabilities": dict(self.SETS), **process}
        return exec_ops(config(), asked, facts, parent=SHIM, console=True, seccomp=bytes(8), seccomp_calls=calls)

    def after_clone(self, found: tuple[Op, ...]) -> tuple[Op, ...]:
        (clone,) = of_type(CloneLegacy, found)
        return found[found.index(clone) + 1 :]

    @pytest.mark.parametrize("terminal", [False, True])
    @pytest.mark.parametrize("uid", [0, 1000])
    def test_child_only_does_what_no_launcher_can(self, uid: int, terminal: bool) -> None:
        found = self.exec(user={"uid": uid, "gid": uid}, terminal=terminal)
        assert all(isinstance(op, self.CHILD) for op in self.after_clone(found))

    def test_sys_admin_goes_when_the_filter_is_there_and_before_the_clone(self) -> None:
        found = self.exec()
        at = next(i for i, op in enumerate(found) if isinstance(op, Seccomp))
        kinds = [type(op) for op in found[at - 1 : at + 3]]
        assert kinds == [SetDumpable, Seccomp, SetCaps, CloneLegacy]
        first, last = of_type(SetCaps, found)
        assert (first.permitted, last.permitted) == (1 | 1 << 21, 1)
        assert (first.effective, last.effective) == (1 | 1 << 21, 1)

    @pytest.mark.parametrize("missing", [name for name in CALLS if name not in ASKED_FOR])
    def test_filter_that_refuses_one_of_the_calls_comes_last(self, missing: str) -> None:
        found = self.exec(calls=ALL_CALLS & ~(1 << CALLS.index(missing)))
        assert [type(op) for op in found[-2:]] == [Seccomp, Exec]
        (caps,) = of_type(SetCaps, found)
        assert caps.permitted == 1 | 1 << 21

    def test_calls_that_are_not_made_may_be_refused(self) -> None:
        calls = ALL_CALLS & ~(1 << CALLS.index("ioctl"))
        assert isinstance(self.exec(calls=calls)[-3], ParentDeathSignal)
        assert isinstance(self.exec(calls=calls, terminal=True)[-2], Seccomp)

    def test_child_sets_the_scheduler_that_fork_does_not_keep_and_may(self) -> None:
        deadline = {"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3}
        for scheduler in (deadline, {"policy": "SCHED_FIFO", "priority": 5, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}):
            found = self.exec(scheduler=scheduler, noNewPrivileges=True, user={"uid": 1000, "gid": 1000})
            assert len(of_type(SetScheduler, self.after_clone(found))) == 1
            assert len(of_type(SetScheduler, found)) == 1
            (caps,) = of_type(SetCaps, found)
            assert caps.effective == 1 | 1 << 23
            assert isinstance(found[-2], Seccomp)

    def test_launcher_sets_the_scheduler_that_fork_keeps(self) -> None:
        found = self.exec(scheduler={"policy": "SCHED_FIFO", "priority": 5})
        assert of_type(SetScheduler, found) == [SetScheduler(1, 0, 0, 5, 0, 0, 0)]
        assert not of_type(SetScheduler, self.after_clone(found))

    @pytest.mark.parametrize("calls", [0, ALL_CALLS])
    def test_no_new_privs_needs_sys_admin_in_no_plan(self, calls: int) -> None:
        (caps,) = of_type(SetCaps, self.exec(calls=calls, noNewPrivileges=True))
        assert caps.permitted == 1

    def test_users_limit_of_processes_leaves_room_for_the_launcher(self) -> None:
        limits = [{"type": "RLIMIT_NPROC", "soft": 3, "hard": 4}, {"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}]
        user = {"uid": 1000, "gid": 1000}
        assert of_type(SetRlimit, self.exec(rlimits=limits)) == [SetRlimit(6, 3, 4), SetRlimit(7, 5, 6)]
        found = self.exec(rlimits=limits, user=user)
        assert of_type(SetRlimit, found) == [SetRlimit(6, 4, 5), SetRlimit(7, 5, 6), SetRlimit(6, 3, 4)]
        assert of_type(SetRlimit, self.after_clone(found)) == [SetRlimit(6, 3, 4)]
        poor = HostFacts((6, 1), "v2", {}, "/sys/fs/cgroup", can_raise_rlimits=False)
        assert of_type(SetRlimit, self.exec(rlimits=limits, user=user, facts=poor))[-1] == SetRlimit(6, 3, 4)

    def test_endless_limit_of_processes_is_not_raised(self) -> None:
        endless = (1 << 64) - 1
        limits = [{"type": "RLIMIT_NPROC", "soft": endless, "hard": endless}]
        found = self.exec(rlimits=limits, user={"uid": 1, "gid": 1})
        assert of_type(SetRlimit, found) == [SetRlimit(6, endless, endless)] * 2

    def test_apparmor_profile_is_set_by_the_launcher(self) -> None:
        facts = HostFacts((6, 1), "v2", {}, "/sys/fs/cgroup", apparmor=True)
        found = self.exec(facts=facts, apparmorProfile="box")
        path = "thread-self/attr/apparmor/exec"
        place = found.index(WriteFile("hostproc", path, b"exec box"))
        assert place < next(i for i, op in enumerate(found) if isinstance(op, Setns))

    def test_launcher_goes_into_the_cgroup_before_it_enters(self) -> None:
        found = exec_ops(config(), {"args": ["id"], "cwd": "/"}, cgroup_v2_dir="/sys/fs/cgroup/c1")
        kinds = [type(op) for op in found]
        assert kinds.index(CloneLauncher) < kinds.index(Setns)
        second = exec_ops(
            config(), {"args": ["id"], "cwd": "/"}, cgroup_v2_dir="/sys/fs/cgroup/c1", clone_into_cgroup=False
        )
        assert not of_type(CloneLauncher, second)
        assert isinstance(self.after_clone(second)[0], Write)


def test_hook_gets_the_state_around_the_pid() -> None:
    document = config(hooks={"createContainer": [{"path": "/h", "timeout": 3}]}, annotations={"a": 'q"\n'})
    (hook,) = of_type(Hook, ops(document))
    assert hook.args == ("/h",)
    assert hook.head + b"1" + hook.tail == (
        b'{"ociVersion":"1.2.0","id":"c1","status":"creating","pid":1,"bundle":"/bundle","annotations":{"a":"q\\"\\n"}}'
    )


def test_executable_is_found_before_the_start_is_waited_for() -> None:
    kinds = [type(op).__name__ for op in ops(config())]
    assert kinds.index("FindExecutable") < kinds.index("Wait")
    assert FindExecutable("sh", ("/bin/sh",)) in ops(config())


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "sys/net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.1/rp_filter", "sys/net/ipv4/conf/eth0.1/rp_filter"),
        ("net.ipv4.conf.eth0/1.rp_filter", "sys/net/ipv4/conf/eth0.1/rp_filter"),
    ],
)
def test_sysctl_is_written_in_both_ways(name: str, path: str) -> None:
    assert sysctl_path(name) == path


def test_facts_survive_being_written_down() -> None:
    assert facts_from_obj(facts_to_obj(FACTS)) == FACTS
