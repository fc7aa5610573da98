"""Which processors a launcher asks for, and when."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from corten.launch.compile import compile_exec, compile_init
from corten.launch.context import ExecContext, InitContext
from corten.launch.facts import HostFacts
from corten.launch.ops import CloneLauncher, CloneLegacy, Op, SetDumpable, Write
from corten.launch.procops import ALL_CPUS, SetAffinity
from corten.launch.userops import Umask
from corten.spec.process import parse_process
from corten.spec.runtime import parse_config

FACTS = HostFacts((6, 18), "v2", {}, "/sys/fs/cgroup")


def config(**process: Any) -> dict[str, Any]:
    return {
        "ociVersion": "1.2.0",
        "process": {"args": ["sh"], "cwd": "/", **process},
        "root": {"path": "rootfs"},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
    }


def ops(document: dict[str, Any], facts: HostFacts = FACTS, **context: Any) -> tuple[Op, ...]:
    given = InitContext("c1", "/bundle", cgroup_paths={}, rootfs="/bundle/rootfs", **context)
    return compile_init(parse_config(document), facts, given).ops


def exec_ops(
    document: dict[str, Any], process: dict[str, Any], facts: HostFacts = FACTS, **context: Any
) -> tuple[Op, ...]:
    given = ExecContext("c1", cgroup_paths={}, **context)
    return compile_exec(parse_config(document), parse_process(process), facts, given).ops


class TestAffinity:
    """`execCPUAffinity` is for execs; what the runtime itself may not use, a container may."""

    NARROW = HostFacts((6, 18), "v2", {}, "/sys/fs/cgroup", narrow_affinity=True)
    BOTH = MappingProxyType({"initial": "0", "final": "1"})

    def masks(self, found: tuple[Op, ...]) -> list[bytes]:
        return [op.mask for op in found if isinstance(op, SetAffinity)]

    def exec(self, affinity: dict[str, Any], facts: HostFacts = FACTS, **context: Any) -> tuple[Op, ...]:
        return exec_ops(config(), {"args": ["id"], "cwd": "/", "execCPUAffinity": affinity}, facts, **context)

    def test_nothing_is_done_when_nothing_is_asked_and_the_runtime_has_all(self) -> None:
        assert self.masks(ops(config())) == []
        assert self.masks(exec_ops(config(), {"args": ["id"], "cwd": "/"})) == []

    def test_a_narrow_runtime_gives_all_before_the_cgroup(self) -> None:
        for found in (
            ops(config(), self.NARROW, cgroup_v2_dir="/sys/fs/cgroup/c"),
            exec_ops(config(), {"args": ["id"], "cwd": "/"}, self.NARROW, cgroup_v2_dir="/sys/fs/cgroup/c"),
        ):
            assert [type(op) for op in found[:3]] == [SetDumpable, Umask, SetAffinity]
            assert self.masks(found) == [ALL_CPUS]

    def test_an_init_does_not_follow_it(self) -> None:
        assert self.masks(ops(config(execCPUAffinity=dict(self.BOTH)))) == []

    def test_an_exec_takes_the_containers_own(self) -> None:
        own = config(execCPUAffinity=dict(self.BOTH))
        assert self.masks(exec_ops(own, {"args": ["id"], "cwd": "/"})) == [b"\x01" + bytes(7), b"\x02" + bytes(7)]

    @pytest.mark.parametrize(
        ("affinity", "masks"),
        [
            ({"initial": "0"}, [b"\x01" + bytes(7), ALL_CPUS]),
            ({"final": "0-1"}, [b"\x03" + bytes(7)]),
            ({"initial": "", "final": ""}, []),
        ],
    )
    def test_half_of_it(self, affinity: dict[str, Any], masks: list[bytes]) -> None:
        assert self.masks(self.exec(affinity)) == masks

    def test_final_one_comes_when_the_process_is_in_the_cgroup(self) -> None:
        found = self.exec(dict(self.BOTH), cgroup_v2_dir="/sys/fs/cgroup/c")
        first, last = (i for i, op in enumerate(found) if isinstance(op, SetAffinity))
        (joined,) = [i for i, op in enumerate(found) if isinstance(op, CloneLauncher)]
        assert first < joined < last
        found = self.exec(dict(self.BOTH), cgroup_v2_dir="/sys/fs/cgroup/c", clone_into_cgroup=False)
        first, last = (i for i, op in enumerate(found) if isinstance(op, SetAffinity))
        (clone,) = [i for i, op in enumerate(found) if isinstance(op, CloneLegacy)]
        assert first < clone < last
        assert found[last - 3] == Write("cgroup", b"0")
