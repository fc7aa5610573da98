"""config.json as values: what is read, and that every error names its field."""

from __future__ import annotations

from typing import Any

import pytest

from corten.errors import InvalidArgument
from corten.spec.process import CAPABILITIES, Rlimit, User, capability_mask, parse_process
from corten.spec.resources import DeviceRule, parse_resources
from corten.spec.runtime import Device, Hook, IdMapping, Mount, Namespace, parse_config


def config(**changes: Any) -> dict[str, Any]:
    return {"ociVersion": "1.2.0", "process": {"cwd": "/", "args": ["sh"]}, "root": {"path": "r"}, **changes}


def test_least_configuration_has_empty_everything() -> None:
    parsed = parse_config({"ociVersion": "1.0.2"})
    assert parsed.process is None
    assert parsed.root is None
    assert parsed.mounts == ()
    assert parsed.linux.namespaces == ()
    assert parsed.linux.resources.memory.limit is None
    assert parsed.hooks.prestart == ()


def test_unknown_fields_are_ignored() -> None:
    assert parse_config(config(later={"a": 1})).oci_version == "1.2.0"


def test_process() -> None:
    process = parse_process(
        {
            "cwd": "/w",
            "args": ["a", "b"],
            "env": ["X=1"],
            "terminal": True,
            "consoleSize": {"height": 24, "width": 80},
            "user": {"uid": 4294967294, "gid": 2, "umask": 18, "additionalGids": [3, 4]},
            "capabilities": {"bounding": ["CAP_CHOWN", "CAP_LATER"], "ambient": ["CAP_KILL"]},
            "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 18446744073709551615}],
            "noNewPrivileges": True,
            "oomScoreAdj": -500,
            "apparmorProfile": "p",
        }
    )
    assert (process.args, process.cwd, process.env) == (("a", "b"), "/w", ("X=1",))
    assert (process.terminal, process.console_width, process.console_height) == (True, 80, 24)
    assert process.user == User(4294967294, 2, 18, (3, 4))
    assert process.capabilities is not None
    assert (process.capabilities.bounding, process.capabilities.ambient) == (1, 1 << 5)
    assert process.capabilities.unknown == ("CAP_LATER",)
    assert process.rlimits == (Rlimit(4, 0, 2**64 - 1),)
    assert (process.no_new_privileges, process.oom_score_adj) == (True, -500)


def test_linux_section() -> None:
    linux = parse_config(
        config(
            mounts=[{"destination": "/a", "type": "bind", "source": "/b", "options": ["ro"]}],
            hooks={"prestart": [{"path": "/h", "args": ["h"], "env": ["A=1"], "timeout": 2}]},
            linux={
                "namespaces": [{"type": "pid"}, {"type": "network", "path": "/n"}],
                "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
                "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 2, "fileMode": 8624, "gid": 5}],
                "sysctl": {"net.a": "1"},
                "cgroupsPath": "/c",
                "rootfsPropagation": "rslave",
                "maskedPaths": ["/m"],
                "readonlyPaths": ["/r"],
                "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
            },
        )
    )
    assert linux.mounts == (Mount("/a", "bind", "/b", ("ro",)),)
    assert linux.hooks.prestart == (Hook("/h", ("h",), ("A=1",), 2),)
    assert linux.linux.namespaces == (Namespace("pid"), Namespace("network", "/n"))
    assert linux.linux.namespace("network") == Namespace("network", "/n")
    assert linux.linux.namespace("user") is None
    assert linux.linux.uid_mappings == (IdMapping(0, 1000, 1),)
    assert linux.linux.devices == (Device("/dev/x", "c", 1, 2, 0o660, 0, 5),)
    assert linux.linux.seccomp == {"defaultAction": "SCMP_ACT_ALLOW"}


@pytest.mark.parametrize(
    ("document", "field"),
    [
        (3, "config.json: expected an object"),
        ({}, r"config\.json\.ociVersion: expected a string"),
        (config(process={"args": ["sh"]}), r"process\.cwd: expected a string"),
        (config(process={"cwd": "rel", "args": []}), r"process\.cwd: 'rel' is not an absolute path"),
        (config(process={"cwd": "/", "args": "sh"}), r"process\.args: expected an array"),
        (config(process={"cwd": "/", "args": [1]}), r"process\.args: expected strings"),
        (config(process={"cwd": "/", "args": ["a\0b"]}), r"process\.args: contains a NUL byte"),
        (config(process={"cwd": "/", "args": ["\ud800"]}), r"process\.args: contains half of a surrogate pair"),
        (config(annotations={"\udfff": "a"}), r"annotations: contains half of a surrogate pair"),
        (config(process={"cwd": "/", "user": {"uid": 4294967295}}), r"user\.uid: 4294967295 is out of range"),
        (config(process={"cwd": "/", "user": {"uid": -1}}), r"user\.uid: -1 is out of range"),
        (config(process={"cwd": "/", "user": {"uid": True}}), r"user\.uid: expected a whole number"),
        (config(process={"cwd": "/", "terminal": 1}), r"terminal: expected true or false"),
        (config(process={"cwd": "/", "oomScoreAdj": 1001}), r"oomScoreAdj: 1001 is out of range"),
        (config(process={"cwd": "/", "rlimits": [{"type": "RLIMIT_X"}]}), "wrong rlimit value: RLIMIT_X"),
        (config(process={"cwd": "/", "scheduler": {"policy": "x"}}), "invalid scheduler policy: x"),
        (config(root={"path": ""}), r"root\.path: expected a string"),
        (config(mounts=[{"type": "tmpfs"}]), r"mounts\[0\]\.destination: expected a string"),
        (
            config(mounts=[{"destination": "/x", "uidMappings": [{"size": 1}]}]),
            r"mounts\[0\]: id-mapped mounts must have both",
        ),
        (config(mounts=[{"destination": "/x", "gidMappings": [{"size": 0}]}]), r"gidMappings\[0\]\.size: 0 is out of"),
        (config(linux={"timeOffsets": {"realtime": {}}}), r"timeOffsets: 'realtime' is not a clock"),
        (config(linux={"timeOffsets": {"boottime": {"nanosecs": 10**9}}}), r"boottime\.nanosecs: 1000000000 is out of"),
        (config(linux={"namespaces": [{"type": "x"}]}), r"namespaces\[0\]\.type: 'x' is not a namespace"),
        (config(linux={"namespaces": [{"type": "pid"}] * 2}), r"namespaces\[1\]\.type: pid is given twice"),
        (config(linux={"namespaces": [{"type": "pid", "path": "x"}]}), r"path: 'x' is not an absolute path"),
        (config(linux={"devices": [{"path": "/x", "type": "z"}]}), r"devices\[0\]\.type: 'z'"),
        (config(linux={"rootfsPropagation": "odd"}), r"rootfsPropagation: unknown value 'odd'"),
        (config(linux={"sysctl": {"a": 1}}), r"sysctl\.a: expected a string"),
        (config(linux={"intelRdt": {"closID": ".."}}), r"invalid intelRdt\.ClosID"),
        (config(linux={"netDevices": {"a/b": {}}}), "invalid network device name"),
        (config(linux={"netDevices": {"\ud800": {}}}), r"netDevices: contains half of a surrogate pair"),
        (config(linux={"resources": {"rdma": {"\ud800": {}}}}), r"rdma: contains half of a surrogate pair"),
        (config(linux={"resources": {"rdma": {"a\0": {}}}}), r"rdma: contains a NUL byte"),
        (config(hooks={"prestart": [{"path": "x"}]}), r"prestart\[0\]\.path: 'x' is not an absolute path"),
    ],
)
def test_error_names_the_field(document: object, field: str) -> None:
    with pytest.raises(InvalidArgument, match=field):
        parse_config(document)


def test_resources() -> None:
    parsed = parse_resources(
        {
            "devices": [{"allow": False}, {"allow": True, "type": "c", "major": 1, "minor": -1, "access": "rm"}],
            "memory": {"limit": 1048576, "swap": -1, "disableOOMKiller": False},
            "cpu": {"shares": 2, "quota": -1, "cpus": "0-1"},
            "pids": {"limit": 100},
            "blockIO": {"weight": 10, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}]},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
            "network": {"classID": 1, "priorities": [{"name": "eth0", "priority": 2}]},
            "rdma": {"mlx": {"hcaHandles": 3}},
            "unified": {"memory.high": "max"},
        }
    )
    assert parsed.devices == (DeviceRule(False, "a", None, None, "rwm"), DeviceRule(True, "c", 1, None, "rm"))
    assert (parsed.memory.limit, parsed.memory.swap, parsed.memory.reservation) == (1048576, -1, None)
    assert parsed.memory.disable_oom_killer is False
    assert (parsed.cpu.shares, parsed.cpu.quota, parsed.cpu.cpus) == (2, -1, "0-1")
    assert parsed.pids_limit == 100
    assert parsed.block_io.throttle_read_bps[0].rate == 5
    assert parsed.hugepage_limits[0].page_size == "2MB"
    assert parsed.network.priorities == (("eth0", 2),)
    assert parsed.rdma == {"mlx": (3, None)}
    assert parsed.unified == {"memory.high": "max"}


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"memory": {"limit": -2}}, r"memory\.limit"),
        ({"cpu": {"cpus": 3}}, r"cpu\.cpus"),
        ({"devices": [{"type": "x"}]}, r"devices\[0\]\.type"),
        ({"devices": [{"access": "x"}]}, r"devices\[0\]\.access"),
        ({"pids": []}, "pids: expected an object"),
    ],
)
def test_error_in_resources_names_the_field(document: object, field: str) -> None:
    with pytest.raises(InvalidArgument, match=field):
        parse_resources(document)


def test_values_compare_and_print_by_field() -> None:
    assert Mount("/a") == Mount("/a")
    assert Mount("/a") != Mount("/b")
    assert repr(root_of("/x")) == "Root(path='/x', readonly=False)"
    assert len({Mount("/a"), Mount("/a")}) == 1


def root_of(path: str) -> object:
    return parse_config(config(root={"path": path})).root


def test_capability_numbers_are_those_of_the_kernel() -> None:
    assert CAPABILITIES.index("CAP_SYS_ADMIN") == 21
    assert len(CAPABILITIES) == 41
    assert capability_mask(("CAP_CHOWN", "CAP_NONE", "CAP_CHECKPOINT_RESTORE")) == 1 | 1 << 40
