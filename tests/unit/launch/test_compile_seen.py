"""Plans of an init that others see while it is made: another container, or a hook."""

from __future__ import annotations

from typing import Any

import pytest

from corten.errors import InvalidArgument
from corten.launch.context import CALLS, SHIM
from corten.launch.execops import Exec, Hook, Seccomp
from corten.launch.facts import HostFacts
from corten.launch.mountops import AttachRoot, AttachRootHere, Chroot, FsMount, MountDetached, OpenTree, PivotRoot
from corten.launch.ops import (
    O_DIRECTORY,
    O_PATH,
    Clone,
    CloneLauncher,
    CloneLegacy,
    Close,
    Fchdir,
    Op,
    Open,
    SetDumpable,
    Setsid,
    Unshare,
    Wait,
)
from corten.launch.tail import SETUP_CAPS
from corten.launch.userops import ParentDeathSignal, SetCaps, Umask
from support.compiling import ALL_CALLS, FACTS, config, of_type, ops

HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer")


class TestLateInit:
    """An init that joins another container's pid namespace."""

    NEW = HostFacts((6, 17), "v2", {}, "/sys/fs/cgroup", procfs_pidns=True)
    PROC = [{"destination": "/proc", "type": "proc", "source": "proc"}]

    def init(
        self, facts: HostFacts = NEW, limit: int = 0, proc: dict[str, Any] | None = None, **context: Any
    ) -> tuple[Op, ...]:
        namespaces = [{"type": "mount"}, {"type": "cgroup"}, {"type": "pid", "path": "/proc/7/ns/pid"}]
        document = config(mounts=[{**self.PROC[0], **(proc or {})}])
        document["linux"] = {"namespaces": namespaces, "resources": {"pids": {"limit": limit}}}
        return ops(document, facts, cgroup_v2_dir="/sys/fs/cgroup/c1", **context)

    def test_launcher_does_everything_where_procfs_can_be_mounted_for_another(self) -> None:
        found = self.init(seccomp=bytes(8), seccomp_calls=ALL_CALLS, parent=SHIM)
        clone = found.index(CloneLegacy(0))
        assert [type(op) for op in found[clone + 1 :]] == [Setsid, ParentDeathSignal, Close, Wait, Close, Exec]
        assert [op.pidns for op in of_type(FsMount, found) if op.fstype == "proc"] == ["ns.pid"]
        kinds = [type(op) for op in found]
        assert kinds.index(CloneLauncher) < kinds.index(Unshare), "the cgroup namespace has the container's root"

    @pytest.mark.parametrize("changes", [{"facts": FACTS}, {"limit": 1}, {"wait_for_limit": True}])
    def test_child_mounts_where_that_cannot_be_with_what_it_needs_for_it(self, changes: dict[str, Any]) -> None:
        found = self.init(**changes)
        assert not of_type(CloneLauncher, found)
        clone = next(i for i, op in enumerate(found) if isinstance(op, Clone))
        mount = next(i for i, op in enumerate(found) if isinstance(op, FsMount) and op.fstype == "proc")
        assert clone < mount
        (reduced,) = of_type(SetCaps, found[:clone])
        assert reduced.permitted == SETUP_CAPS

    @pytest.mark.parametrize("long", [{"source": "s" * 256}, {"options": ["k=" + "x" * 256]}])
    def test_child_mounts_a_procfs_whose_options_only_mount_2_takes(self, long: dict[str, Any]) -> None:
        found = self.init(proc=long)
        assert not of_type(CloneLauncher, found)
        clone = next(i for i, op in enumerate(found) if isinstance(op, Clone))
        (mount,) = of_type(MountDetached, found)
        assert clone < found.index(mount), "by the launcher it would show the launcher's pid namespace"

    def joined(self, facts: HostFacts = NEW, **context: Any) -> tuple[Op, ...]:
        document = config(mounts=self.PROC, hooks={name: [{"path": f"/{name}"}] for name in HOOKS})
        document["process"] |= {"noNewPrivileges": context.pop("no_new_privs", False)}
        document["process"] |= {"scheduler": context.pop("scheduler")} if "scheduler" in context else {}
        document["linux"] = {"namespaces": [{"type": "mount"}, {"type": "pid", "path": "/proc/7/ns/pid"}]}
        return ops(document, facts, seccomp=bytes(8), **{"seccomp_calls": ALL_CALLS, **context})

    @pytest.mark.parametrize("facts", [NEW, FACTS], ids=["whole", "late"])
    def test_launcher_waits_for_what_the_host_does(self, facts: HostFacts) -> None:
        found = self.joined(facts, wait_for_hooks=True, wait_for_network=True)
        clone = next(i for i, op in enumerate(found) if isinstance(op, Clone))
        assert [op.slot for op in found[:clone] if isinstance(op, Wait)] == ["network", "hooks"]
        assert [op.slot for op in found[clone:] if isinstance(op, Wait)] == ["start"]
        kinds = [type(op) for op in found]
        assert kinds.index(AttachRootHere) < kinds.index(Hook) < kinds.index(PivotRoot) < clone

    @pytest.mark.parametrize("no_new_privs", [False, True])
    @pytest.mark.parametrize(
        "changes",
        [
            {"facts": FACTS},
            {"facts": FACTS, "wait_for_limit": True},
            {"seccomp_calls": ALL_CALLS & ~(1 << CALLS.index("clone"))},
            {"scheduler": {"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 2}},
        ],
        ids=["late", "record", "no clone", "deadline"],
    )
    def test_child_is_what_it_will_be_before_it_waits(self, changes: dict[str, Any], no_new_privs: bool) -> None:
        found = self.joined(no_new_privs=no_new_privs, **changes)
        clone = next(i for i, op in enumerate(found) if isinstance(op, Clone))
        filter = next(i for i, op in enumerate(found) if isinstance(op, Seccomp))
        first = next(i for i, op in enumerate(found) if isinstance(op, Wait | Hook) and i > clone)
        assert clone < filter < first
        assert of_type(SetCaps, found[:first])[-1].permitted == 0, "what the program has"
        assert any(isinstance(op, SetDumpable) for op in found[clone - 5 : filter])
        waits = ["record", "start"] if "wait_for_limit" in changes else ["start"]
        assert [op.slot for op in found[first:] if isinstance(op, Wait)] == waits
        assert {type(op) for op in found[filter + 1 :]} <= {SetCaps, Wait, Close, Hook, Exec}

    @pytest.mark.parametrize("facts", [NEW, FACTS], ids=["whole", "late"])
    @pytest.mark.parametrize("name", ["write", "close", "read", "capset", "execve", "clock_gettime", "rt_sigaction"])
    def test_profile_that_refuses_what_is_left_to_do_is_refused_by_name(self, facts: HostFacts, name: str) -> None:
        calls = ALL_CALLS & ~(1 << CALLS.index(name))
        with pytest.raises(InvalidArgument, match=f"have to be allowed: {name}$"):
            self.joined(facts, seccomp_calls=calls)
        if name == "capset":
            assert self.joined(facts, seccomp_calls=calls, no_new_privs=True)

    def test_hooks_of_the_child_run_under_the_filter_as_in_runc(self) -> None:
        found = self.joined()
        clone = found.index(CloneLegacy(0))
        assert isinstance(found[clone - 2], Seccomp)
        assert [type(op) for op in found[-4:]] == [Wait, Close, Hook, Exec]


class TestShownRoot:
    """Where hooks find the container's root."""

    @pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
    def test_root_is_attached_where_the_bundle_has_it(self, kind: str) -> None:
        found = ops(config(hooks={kind: [{"path": "/h"}]}))
        kinds = [type(op) for op in found]
        place = kinds.index(Fchdir)
        assert found[place - 1].describe() == "open /srv/root -> place"
        assert OpenTree("rootfs", ".", 1, "/") in found[place:], "the path is looked up once"
        assert place < kinds.index(Clone) < kinds.index(AttachRootHere)
        assert AttachRoot not in kinds

    def test_root_that_comes_as_a_descriptor_goes_where_the_bundle_says(self) -> None:
        found = ops(config(hooks={"prestart": [{"path": "/h"}]}, root={"path": "r"}), rootfs="", rootfs_fd=True)
        assert Open("place", "/bundle/r", O_PATH | O_DIRECTORY) in found
        assert "rootfs" not in [op.slot for op in of_type(OpenTree, found)]

    @pytest.mark.parametrize("kind", ["startContainer", "poststart", "poststop"])
    def test_nobody_else_pays_for_it(self, kind: str) -> None:
        kinds = [type(op) for op in ops(config(hooks={kind: [{"path": "/h"}]}))]
        assert AttachRoot in kinds
        assert not {AttachRootHere, Fchdir} & set(kinds)

    def test_hooks_have_the_usual_mask_and_nothing_else_has(self) -> None:
        found = ops(config(hooks={"createContainer": [{"path": "/h"}, {"path": "/i"}]}))
        first = next(i for i, op in enumerate(found) if isinstance(op, Hook))
        assert found[first - 1] == Umask(0o022)
        assert found[first + 2] == Umask(0)

    def test_without_pivot_the_root_ends_on_the_old_one_as_ever(self) -> None:
        found = ops(config(hooks={"createContainer": [{"path": "/h"}]}), no_pivot=True)
        kinds = [type(op) for op in found]
        assert kinds[kinds.index(Chroot) - 1] is AttachRoot
