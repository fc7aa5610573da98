"""Configurations that nobody would write: a document changed by what the specification knows, and by bytes."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from corten.launch import options
from corten.launch.seccomp import FLAGS
from corten.launch.seccomp_compile import ACTIONS, OPERATORS
from corten.spec.process import CAPABILITIES, RLIMITS
from corten.spec.runtime import NAMESPACES, PROPAGATIONS
from corten.spec.scheduling import DOMAINS, IO_CLASSES, MEMORY_FLAGS, MEMORY_MODES, POLICIES, SCHEDULER_FLAGS

# words that some field knows; in any other they are wrong
WORDS: tuple[str, ...] = (
    *CAPABILITIES, *RLIMITS, *NAMESPACES, *PROPAGATIONS, *FLAGS, *ACTIONS, *OPERATORS, *options.ATTRIBUTES,
    *POLICIES, *SCHEDULER_FLAGS, *IO_CLASSES, *MEMORY_MODES, *MEMORY_FLAGS, *DOMAINS,
    *("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_VAX", "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup"),
    *("cgroup2", "bind", "rbind", "idmap", "ridmap", "remount", "tmpcopyup", "size=64k", "mode=0755", "size=", "x=y"),
    *("a", "c", "b", "p", "unconfined", "docker-default", "net.ipv4.ip_forward", "kernel.msgmax", "65536", "1GB"),
    "user.max_user_namespaces",
)  # fmt: skip
TEXTS = (
    "", "/", "//", ".", "..", "/..", "/../../etc", "/proc", "/proc/self/fd/7", "/proc/self/ns/net", "/dev", "/dev/null",
    "/sys/fs/cgroup", "a/b", "a b", "\n", "a\nb", "\0", "a\0b", "\ud800", "\u0661", "é" * 300, "x" * 5000,
    "/" + "d/" * 2500, "-1", "0-3,7", "0-99999999", "=", "A=b", "=b", "a=b=c", "%s%n", "{}", "$(id)", "+1", "1e3",
    "system.slice:a:b", ":", "::", "a\udc95b",
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2, 7, 8, 255, 256, 500, 511, 512, 4095, 65535, 65536, (1 << 31) - 1, 1 << 31, -(1 << 31), (1 << 32) - 1,
    1 << 32, (1 << 63) - 1, 1 << 63, -(1 << 63), (1 << 64) - 1, 1 << 64, 10**40, -(10**40),
)  # fmt: skip
ODD: tuple[Any, ...] = (None, True, False, 0.5, -0.0, 1e308, [], {}, [[]], [None], {"": None}, [{}])

# refused by themselves
RARE = ("timeOffsets", "intelRdt", "netDevices", "selinuxLabel", "mountLabel", "uidMappings", "gidMappings")
# every field of the specification that a bundle of Docker does not have, so that something lies there to be changed
MORE: dict[str, Any] = {
    "domainname": "d",
    "annotations": {"a": "b"},
    "hooks": {
        name: [{"path": "/bin/hook", "args": ["hook"], "env": ["A=b"], "timeout": 3}]
        for name in ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
    },
    "process": {
        "consoleSize": {"width": 80, "height": 24},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}],
        "apparmorProfile": "x",
        "selinuxLabel": "y",
        "oomScoreAdj": 3,
        "scheduler": {"policy": "SCHED_DEADLINE", "flags": ["SCHED_FLAG_RECLAIM"], "runtime": 1, "deadline": 2},
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 3},
        "execCPUAffinity": {"initial": "0", "final": "0-1"},
    },
    "linux": {
        "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
        "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
        "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0}],
        "rootfsPropagation": "rslave",
        "mountLabel": "z",
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "personality": {"domain": "LINUX32", "flags": []},
        "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]},
        "timeOffsets": {"boottime": {"secs": 1, "nanosecs": 2}, "monotonic": {"secs": 1}},
        "intelRdt": {"closID": "x", "l3CacheSchema": "L3:0=f"},
        "netDevices": {"eth0": {"name": "e"}},
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 1,
            "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "listenerPath": "/run/agent",
            "listenerMetadata": "m",
            "syscalls": [
                {
                    "names": ["mkdir"],
                    "action": "SCMP_ACT_NOTIFY",
                    "args": [{"index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_EQ"}],
                }
            ],
        },
        "resources": {
            "devices": [{"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}],
            "memory": {"limit": 1 << 24, "swap": 1 << 25, "reservation": 1, "swappiness": 60, "disableOOMKiller": True},
            "cpu": {"shares": 2, "quota": 1000, "period": 1000, "burst": 1, "idle": 1, "cpus": "0", "mems": "0"},
            "pids": {"limit": 3},
            "blockIO": {
                "weight": 10,
                "leafWeight": 10,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 10, "leafWeight": 10}],
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 1}],
            },
            "hugepageLimits": [{"pageSize": "2MB", "limit": 1}],
            "network": {"classID": 1, "priorities": [{"name": "eth0", "priority": 1}]},
            "rdma": {"mlx5_0": {"hcaHandles": 1, "hcaObjects": 2}},
            "unified": {"memory.high": "max"},
        },
    },
}  # fmt: skip


class Mutator:
    """Changes documents as its seed says."""

    def __init__(self, seed: int, documents: list[dict[str, Any]]) -> None:
        self._random = random.Random(seed)
        self._documents = documents

    def document(self) -> dict[str, Any]:
        """A document with some more fields, and up to three changes."""
        made = merged(self._random.choice(self._documents), self._some(MORE))
        for _ in range(self._random.randint(0, 3)):
            self._change(made)
        return made

    def _some(self, more: dict[str, Any]) -> dict[str, Any]:
        """A fifth of the fields, of the sections' own ones as well."""
        chosen: dict[str, Any] = {}
        for key, value in more.items():
            if key in ("process", "linux", "resources"):
                chosen[key] = self._some(value)
            elif self._random.randrange(20 if key in RARE else 5) == 0:
                chosen[key] = value
        return chosen

    def data(self) -> bytes:
        """The JSON of a document, every other one with bytes that are wrong."""
        data = bytearray(json.dumps(self.document()).encode("utf-8", "surrogatepass"))
        for _ in range(self._random.choice((0, 1, 1, 2, 8))):
            at = self._random.randrange(len(data) + 1)
            match self._random.randrange(6):
                case 0:
                    del data[at : at + self._random.randint(1, 40)]
                case 1:
                    data[at:at] = self._random.randbytes(self._random.randint(1, 4))
                case 2:
                    data[at : at + 1] = bytes([self._random.randrange(256)])
                case 3:
                    data[at:at] = data[at : at + self._random.randint(1, 200)]
                case 4:
                    data[at:at] = self._random.choice(
                        (b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\ud800", b"NaN")
                    )
                case _:
                    data[at:at] = self._random.choice(
                        (b"[" * 3000, b'{"a":' * 3000, b"9" * 5000, b"-Infinity", b"1e999")
                    )
        return bytes(data)

    def _change(self, document: dict[str, Any]) -> None:
        """One value, wherever it lies, becomes another one."""
        places = list(walk(document))
        holder, key = self._random.choice(places)
        choice = self._random.randrange(10)
        if choice == 0:
            del holder[key]
        elif choice == 1:
            holder[key] = copy.deepcopy(self._value_elsewhere(places))
        elif choice == 2 and isinstance(holder, list):
            holder += [copy.deepcopy(holder[key])] * self._random.choice((1, 2, 50))
        elif choice == 3 and isinstance(holder, dict):
            holder[self._random.choice((*TEXTS, *WORDS))] = holder.pop(key)
        else:
            holder[key] = self._value(holder[key])

    def _value_elsewhere(self, places: list[tuple[Any, Any]]) -> Any:
        holder, key = self._random.choice(places)
        return holder[key]

    def _value(self, before: Any) -> Any:
        """Of the same kind three times out of four, so that what comes behind the parser sees it."""
        if self._random.randrange(4) == 0:
            return copy.deepcopy(self._random.choice(self._random.choice((ODD, TEXTS, NUMBERS))))
        if isinstance(before, bool):
            return not before
        if isinstance(before, int):
            return self._random.choice(NUMBERS)
        if isinstance(before, str):
            return self._random.choice(self._random.choice((TEXTS, WORDS)))
        if isinstance(before, list):
            return self._random.sample(before, self._random.randint(0, len(before)))
        return copy.deepcopy(self._random.choice(ODD))


def merged(document: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """A document with the fields of another one where it has none."""
    made = dict(copy.deepcopy(document))
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(made.get(key), dict):
            made[key] = merged(made[key], value)
        else:
            made.setdefault(key, copy.deepcopy(value))
    return made


def walk(value: Any) -> Any:
    """(container, key) of every value below `value`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from walk(item)
