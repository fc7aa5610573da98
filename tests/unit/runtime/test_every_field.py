"""No field of config.json is read and forgotten: each one changes what is decided, is warned of, or is refused.

FIELDS has every field of runtime-spec 1.3 for Linux.  The outcome of a bundle is everything that `prepare` decides, on
a host with v1 cgroups and on one with v2: the plan with its bytes, cgroup files, what state.json will hold, warnings,
or the sentence of the refusal.  A field must change it on either host.  The other way round, no slot of a parsed value
is left that no row of FIELDS sets.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from corten.errors import CortenError
from corten.launch.compile import compile_exec
from corten.launch.context import ExecContext
from corten.launch.encode import encode
from corten.launch.facts import HostFacts, facts_from_obj
from corten.runtime import hooks, prepare
from corten.runtime.options import CreateOptions
from corten.spec import netdevices, process, rdt, resources, runtime, scheduling
from corten.spec.reader import Value
from corten.spec.runtime import Config, parse_config
from support import goldenplans

HOSTS = ("default-hybrid", "default-v2")
REFUSED = "refused: "
USERNS = {"linux.namespaces[]": {"type": "user"}}
MAPS = {name: [{"containerID": 0, "hostID": 1000, "size": 9}] for name in ("uidMappings", "gidMappings")}
MAPPED = {**USERNS, **{f"linux.{name}": value for name, value in MAPS.items()}}
IDMAPPED = {"mounts[]": {"destination": "/i", "type": "bind", "source": "/tmp", "options": ["idmap"], **MAPS}}
TIME = {"linux.namespaces[]": {"type": "time"}}
FILTER = {
    "linux.seccomp": {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": ["mkdir"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 6, "op": "SCMP_CMP_EQ"}]}
        ],
    }
}
ERRNO = {
    "linux.seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}
}
MASKED: dict[str, Any] = copy.deepcopy(FILTER)
MASKED["linux.seccomp"]["syscalls"][0]["args"][0]["op"] = "SCMP_CMP_MASKED_EQ"
AGENT = {
    "linux.seccomp": {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": "/run/agent",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
    }
}
DEADLINE = {"process.scheduler": {"policy": "SCHED_DEADLINE", "runtime": 1000, "deadline": 2000, "period": 2000}}
AMBIENT = {name: ["CAP_KILL"] for name in ("inheritable", "permitted")}
IO_PRIORITY = {"process.ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4}}
DEVICE = {"linux.devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}]}
DEVICE_RULE = {"linux.resources.devices": [{"allow": True, "type": "c", "major": 4, "minor": 7, "access": "r"}]}
WEIGHT = {"linux.resources.blockIO.weightDevice": [{"major": 8, "minor": 0, "weight": 10}]}
THROTTLES = ("throttleReadBpsDevice", "throttleWriteBpsDevice", "throttleReadIOPSDevice", "throttleWriteIOPSDevice")
HUGE = {"linux.resources.hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}
PRIORITY = {"linux.resources.network.priorities": [{"name": "eth0", "priority": 1}]}
RDMA = {"linux.resources.rdma": {"mlx5_0": {"hcaHandles": 1, "hcaObjects": 2}}}
MEMORY = {"linux.resources.memory.limit": 1 << 24}
POLICY = {"linux.memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0"}}
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
RDT = {"linux.intelRdt": {"closID": "a"}}
SWAP = 1 << 25

# field → (its value, what the bundle has besides with and without it)
FIELDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "root.path": ("other", {}),
    "root.readonly": (True, {}),
    "hostname": ("h", {}),
    "domainname": ("d", {}),
    "annotations": ({"a": "b"}, {}),
    "mounts[0].destination": ("/elsewhere", {}),
    "mounts[0].type": ("ramfs", {"mounts": [{"destination": "/m", "type": "tmpfs", "source": "t"}]}),
    "mounts[0].source": ("s", {"mounts": [{"destination": "/m", "type": "tmpfs", "source": "t"}]}),
    "mounts[0].options": (["ro"], {"mounts": [{"destination": "/m", "type": "tmpfs", "source": "t"}]}),
    **{f"mounts[-1].{name}": ([{"containerID": 0, "hostID": 5, "size": 2}], IDMAPPED) for name in MAPS},
    **{
        f"mounts[-1].{name}[0].{field}": (3, IDMAPPED)
        for name in MAPS
        for field in ("containerID", "hostID", "size")
    },
    **{
        f"hooks.{name}[0].{field}": (value, {f"hooks.{name}": [{"path": "/h"}]})
        for name in HOOKS
        for field, value in (("path", "/other"), ("args", ["a", "b"]), ("env", ["A=b"]), ("timeout", 3))
    },
    "process.terminal": (True, {}),
    "process.consoleSize.height": (24, {"process.terminal": True, "process.consoleSize.width": 80}),
    "process.consoleSize.width": (80, {"process.terminal": True, "process.consoleSize.height": 24}),
    "process.cwd": ("/w", {}),
    "process.env": (["A=b"], {}),
    "process.args": (["other"], {}),
    "process.user.uid": (5, {}),
    "process.user.gid": (5, {}),
    "process.user.umask": (0o27, {}),
    "process.user.additionalGids": ([7], {}),
    "process.rlimits": ([{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}], {}),
    **{
        f"process.rlimits[0].{field}": (value, {"process.rlimits": [{"type": "RLIMIT_CORE", "soft": 1, "hard": 2}]})
        for field, value in (("type", "RLIMIT_NOFILE"), ("soft", 2), ("hard", 3))
    },
    "process.apparmorProfile": ("p", {}),
    **{
        f"process.capabilities.{name}": (
            ["CAP_KILL"],
            {"process.capabilities": AMBIENT if name == "ambient" else {}},
        )
        for name in ("bounding", "effective", "inheritable", "permitted", "ambient")
    },
    "process.capabilities.effective[]": ("CAP_OF_TOMORROW", {}),
    "process.noNewPrivileges": (True, {}),
    "process.oomScoreAdj": (17, {}),
    "process.selinuxLabel": ("l", {}),
    "process.scheduler.policy": ("SCHED_BATCH", {}),
    "process.scheduler.nice": (3, {"process.scheduler.policy": "SCHED_BATCH"}),
    "process.scheduler.priority": (3, {"process.scheduler.policy": "SCHED_FIFO"}),
    "process.scheduler.flags": (["SCHED_FLAG_RESET_ON_FORK"], {"process.scheduler.policy": "SCHED_BATCH"}),
    **{f"process.scheduler.{name}": (1500, DEADLINE) for name in ("runtime", "deadline", "period")},
    "process.ioPriority.class": ("IOPRIO_CLASS_IDLE", IO_PRIORITY),
    "process.ioPriority.priority": (3, IO_PRIORITY),
    "process.execCPUAffinity.initial": ("0", {}),
    "process.execCPUAffinity.final": ("1", {}),
    "linux.namespaces[]": ({"type": "cgroup"}, {"linux.namespaces": [{"type": "mount"}, {"type": "uts"}]}),
    "linux.namespaces[1].path": ("/run/x", {"linux.namespaces": [{"type": "mount"}, {"type": "uts"}]}),
    "linux.namespaces[1].type": ("ipc", {"linux.namespaces": [{"type": "mount"}, {"type": "uts"}]}),
    **{f"linux.{name}[0].{field}": (3, MAPPED) for name in MAPS for field in ("containerID", "hostID", "size")},
    **{
        f"linux.timeOffsets.{clock}.{field}": (5, TIME) for clock in runtime.CLOCKS for field in ("secs", "nanosecs")
    },
    **{
        f"linux.devices[0].{field}": (value, DEVICE)
        for field, value in (
            ("path", "/dev/y"), ("type", "b"), ("major", 5), ("minor", 5), ("fileMode", 0o600), ("uid", 5), ("gid", 5),
        )
    },
    "linux.cgroupsPath": ("/elsewhere", {}),
    "linux.rootfsPropagation": ("shared", {}),
    "linux.maskedPaths": (["/x"], {}),
    "linux.readonlyPaths": (["/x"], {}),
    "linux.mountLabel": ("l", {}),
    "linux.sysctl": ({"net.ipv4.ip_forward": "1"}, {}),
    "linux.personality.domain": ("LINUX32", {}),
    "linux.personality.flags": (["x"], {"linux.personality.domain": "LINUX"}),
    "linux.memoryPolicy.mode": ("MPOL_INTERLEAVE", POLICY),
    "linux.memoryPolicy.nodes": ("1", POLICY),
    "linux.memoryPolicy.flags": (["MPOL_F_STATIC_NODES"], POLICY),
    "linux.netDevices": ({"eth5": {}}, {}),
    "linux.netDevices.eth5.name": ("e", {"linux.netDevices": {"eth5": {}}}),
    "linux.intelRdt.closID": ("b", RDT),
    "linux.intelRdt.l3CacheSchema": ("L3:0=f", RDT),
    "linux.intelRdt.memBwSchema": ("MB:0=10", RDT),
    "linux.intelRdt.schemata": (["L2:0=f"], RDT),
    "linux.intelRdt.enableMonitoring": (True, RDT),
    "linux.intelRdt.enableCMT": (True, RDT),
    "linux.intelRdt.enableMBM": (True, RDT),
    "linux.seccomp.defaultAction": ("SCMP_ACT_TRAP", FILTER),
    "linux.seccomp.defaultErrnoRet": (7, FILTER),
    "linux.seccomp.architectures": (["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], FILTER),
    "linux.seccomp.flags": (["SECCOMP_FILTER_FLAG_LOG"], FILTER),
    "linux.seccomp.listenerPath": ("/run/other", AGENT),
    "linux.seccomp.listenerMetadata": ("m", AGENT),
    "linux.seccomp.syscalls[0].names": (["rmdir"], FILTER),
    "linux.seccomp.syscalls[0].action": ("SCMP_ACT_KILL", FILTER),
    "linux.seccomp.syscalls[0].errnoRet": (7, ERRNO),
    "linux.seccomp.syscalls[0].args[0].index": (2, FILTER),
    "linux.seccomp.syscalls[0].args[0].value": (2, FILTER),
    "linux.seccomp.syscalls[0].args[0].valueTwo": (2, MASKED),
    "linux.seccomp.syscalls[0].args[0].op": ("SCMP_CMP_GT", FILTER),
    **{
        f"linux.resources.devices[0].{field}": (value, DEVICE_RULE)
        for field, value in (("allow", False), ("type", "b"), ("major", 5), ("minor", 5), ("access", "w"))
    },
    "linux.resources.memory.limit": (1 << 24, {}),
    "linux.resources.memory.reservation": (1 << 20, {}),
    "linux.resources.memory.swap": (SWAP, MEMORY),
    "linux.resources.memory.kernel": (1, {}),
    "linux.resources.memory.kernelTCP": (1, {}),
    "linux.resources.memory.swappiness": (60, {}),
    "linux.resources.memory.disableOOMKiller": (True, {}),
    "linux.resources.memory.useHierarchy": (False, {}),
    "linux.resources.cpu.shares": (100, {}),
    "linux.resources.cpu.quota": (5000, {}),
    "linux.resources.cpu.burst": (500, {}),
    "linux.resources.cpu.period": (5000, {}),
    "linux.resources.cpu.realtimeRuntime": (500, {}),
    "linux.resources.cpu.realtimePeriod": (500, {}),
    "linux.resources.cpu.cpus": ("0", {}),
    "linux.resources.cpu.mems": ("0", {}),
    "linux.resources.cpu.idle": (1, {}),
    "linux.resources.pids.limit": (77, {}),
    "linux.resources.blockIO.weight": (10, {}),
    "linux.resources.blockIO.leafWeight": (10, {}),
    **{
        f"linux.resources.blockIO.weightDevice[0].{field}": (20, WEIGHT)
        for field in ("major", "minor", "weight", "leafWeight")
    },
    **{
        f"linux.resources.blockIO.{name}[0].{field}": (
            5, {f"linux.resources.blockIO.{name}": [{"major": 8, "minor": 0, "rate": 1}]},
        )
        for name in THROTTLES
        for field in ("major", "minor", "rate")
    },
    "linux.resources.hugepageLimits[0].pageSize": ("1GB", HUGE),
    "linux.resources.hugepageLimits[0].limit": (2, HUGE),
    "linux.resources.network.classID": (5, {}),
    "linux.resources.network.priorities[0].name": ("eth1", PRIORITY),
    "linux.resources.network.priorities[0].priority": (5, PRIORITY),
    "linux.resources.rdma.mlx5_0.hcaHandles": (5, RDMA),
    "linux.resources.rdma.mlx5_0.hcaObjects": (5, RDMA),
    "linux.resources.unified": ({"memory.high": "5"}, {}),
}  # fmt: skip


def base() -> dict[str, Any]:
    """A bundle of Docker without a filter, and with nothing of its own on the host."""
    document: dict[str, Any] = goldenplans.load("default-hybrid", "config")
    document["linux"].pop("seccomp", None)
    document["linux"]["namespaces"] = [{"type": type} for type in ("mount", "uts", "pid", "ipc", "network")]
    document["linux"].update(resources={}, sysctl={})
    document["root"]["path"] = "rootfs"
    document.pop("hostname", None)
    return document


def steps(path: str) -> list[str | int]:
    """`a.b[0].c` as keys; `[]` is the place behind the last one."""
    found: list[str | int] = []
    for part in path.split("."):
        name, _, index = part.partition("[")
        found.append(name)
        if index:
            found.append(int(index[:-1]) if index != "]" else "[]")
    return found


def put(document: Any, path: str, value: Any) -> None:
    """Sets one field, and makes what is missing above it."""
    *above, last = keys = steps(path)
    for key, following in zip(above, keys[1:], strict=True):
        if isinstance(document, dict) and key not in document:
            document[key] = [] if following == "[]" else {}
        document = document[key]
    if last == "[]":
        document.append(copy.deepcopy(value))
    else:
        document[last] = copy.deepcopy(value)


def bundle(fields: dict[str, Any]) -> dict[str, Any]:
    made = base()
    for path, value in fields.items():
        put(made, path, value)
    return made


class Decided:
    """What is decided about a bundle, as text."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("rootfs", "other"):
            (folder / name).mkdir()

    def of(self, document: dict[str, Any], case: str) -> str:
        """Of one host."""
        (self.folder / "config.json").write_text(json.dumps(document, ensure_ascii=False), errors="surrogateescape")
        facts = facts_from_obj({**goldenplans.load(case, "facts"), "resctrl": "/sys/fs/resctrl"})
        said: list[str] = []
        terminal = document["process"].get("terminal", False)
        options = CreateOptions("c1", "/run/c", str(self.folder), console_fd=0 if terminal else -1, warn=said.append)
        host = prepare.Host(facts, str(self.folder / "cache"))
        try:
            made = prepare.prepare(options, host)
            said.append(made.describe())
            said.append(encode(made.plan, dict.fromkeys(made.plan.inputs, 9), 8).hex())
            said.append(repr((made.settings, made.device_program, made.rootfs, made.paths.directories())))
            said += handed_on(made.config)
            said.append(self.exec({"args": ["x"], "cwd": "/", "terminal": terminal}, made.config, facts))
        except CortenError as error:
            said.append(f"{REFUSED}{error.text}")
        return "\n".join(said)

    def exec(self, document: dict[str, Any], config: Config, facts: HostFacts) -> str:
        """Of a process file."""
        said: list[str] = []
        try:
            entered = process.parse_process(document)
            prepare.warn_of_capabilities(config, entered, facts, said.append)
            context = ExecContext("c1", cgroup_paths={}, console=entered.terminal)
            plan = compile_exec(config, entered, facts, context)
            said.append(encode(plan, dict.fromkeys(plan.inputs, 9), 8).hex())
        except CortenError as error:
            said.append(f"{REFUSED}{error.text}")
        return "\n".join(said)


def handed_on(config: Config) -> list[str]:
    """What is not in the plan: it goes to hooks, to state.json, to the agent, or is done by the runtime itself."""
    from corten.runtime import listener

    linux, rows = config.linux, config.hooks
    profile: Any = linux.seccomp or {}
    return [
        *(repr(hooks.to_objs(getattr(rows, name))) for name in ("prestart", "create_runtime", "poststart", "poststop")),
        repr((config.annotations, linux.net_devices, linux.intel_rdt, profile.get("listenerPath"))),
        repr(listener.message(profile.get("listenerMetadata") or "", {}, 1)),
    ]


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> Decided:
    return Decided(tmp_path_factory.mktemp("bundle"))


def holds(decided: Decided, field: str) -> dict[str, bool]:
    """Whether the field changes anything, by host."""
    value, besides = FIELDS[field]
    without, with_it = bundle(besides), bundle({**besides, field: value})
    before = {case: decided.of(without, case) for case in HOSTS}
    return {case: text != decided.of(with_it, case) for case, text in before.items() if REFUSED not in text}


# means something for `update` alone, where memory is used already: tests/unit/runtime/test_cgroup_writes.py
FOR_UPDATE = {"linux.resources.memory.checkBeforeUpdate": (True, MEMORY)}


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_changes_what_is_decided_or_is_told(decided: Decided, field: str) -> None:
    found = holds(decided, field)
    assert found, "what it stands beside is refused everywhere"
    assert all(found.values()), found


@pytest.mark.parametrize("field", [field for field in FIELDS if field.startswith("process.")])
def test_a_field_of_a_process_file_changes_the_exec(decided: Decided, field: str) -> None:
    value, besides = FIELDS[field]
    files = []
    for fields in (besides, {**besides, field: value}):
        document: dict[str, Any] = {"process": {"args": ["x"], "cwd": "/"}}
        for path, entry in fields.items():
            put(document, path, entry)
        files.append(document["process"])
    facts = facts_from_obj(goldenplans.load(HOSTS[0], "facts"))
    texts = [decided.exec(file, parse_config(base()), facts) for file in files]
    assert REFUSED not in texts[0]
    assert texts[0] != texts[1]


def test_a_field_that_nobody_knows_would_be_noticed(decided: Decided) -> None:
    without, with_it = bundle({}), bundle({"linux.fieldOfTomorrow": 1})
    assert decided.of(without, HOSTS[0]) == decided.of(with_it, HOSTS[0])


def values(value: Any) -> list[Value]:
    """A parsed value and all below it."""
    if isinstance(value, tuple):
        return [found for item in value for found in values(item)]
    if not isinstance(value, Value):
        return []
    return [value, *(found for name in value.__slots__ for found in values(getattr(value, name)))]


def test_every_slot_of_a_parsed_value_belongs_to_a_field() -> None:
    seen: dict[str, set[str]] = {}
    for field, (value, besides) in {**FIELDS, **FOR_UPDATE}.items():
        try:
            config = parse_config(bundle({**besides, field: value}))
        except CortenError:
            continue
        for found in values(config):
            for name in found.__slots__:
                seen.setdefault(f"{type(found).__name__}.{name}", set()).add(repr(getattr(found, name)))
    modules = (runtime, process, resources, scheduling, rdt, netdevices)
    slots = {
        f"{cls.__name__}.{name}"
        for module in modules
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, Value) and cls.__module__ == module.__name__
        for name in cls.__slots__
    }
    unmoved = {slot for slot in slots if len(seen.get(slot, ())) < 2}
    assert unmoved == {"Config.oci_version"}  # says how to read the rest, and 1.0 to 1.3 are read alike


BYTES = "a\udc95b"  # a byte that is no UTF-8, as the runtime reads it


@pytest.mark.parametrize(
    "fields",
    [
        {"linux.sysctl": {"net.ipv4.x": BYTES}},
        {"process.apparmorProfile": BYTES},
        {"process.args": [BYTES], "process.env": [f"A={BYTES}"], "process.cwd": f"/{BYTES}"},
        {
            "linux.seccomp": {
                "defaultAction": "SCMP_ACT_ERRNO",
                "syscalls": [{"names": [BYTES], "action": "SCMP_ACT_ALLOW"}],
            }
        },
        {"linux.resources.unified": {"memory.high": BYTES}},
        {"linux.cgroupsPath": f"/{BYTES}", "hostname": BYTES, "linux.maskedPaths": [f"/{BYTES}"]},
        {"hooks.createContainer": [{"path": f"/{BYTES}", "env": [BYTES]}], "annotations": {BYTES: BYTES}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_bytes_that_are_no_text_go_through(tmp_path: Path, fields: dict[str, Any]) -> None:
    assert REFUSED not in Decided(tmp_path).of(bundle(fields), "default-v2")
