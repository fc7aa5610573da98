"""The helper's beginning: its part in the zygote's rehearsal, then the pure half of the built-in runtime, configuration
to plan, over a configuration like dockerd's.  Bytecode is specialized and caches are filled before the first session.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from corten.launch.encode import encode
from corten.runtime import container, executing, fast, hooks  # noqa: F401  # loaded here, used in sessions
from corten.runtime.prepare import Host, prepare
from corten.shim.helper import Helper
from corten.shim.stage import Stage
from corten.sys import files, mount, openfiles

if TYPE_CHECKING:
    from corten.launch.facts import HostFacts
    from corten.shim.rehearsal import Rehearsal

ROUNDS = 12  # CPython 3.11 specializes a function after 8 calls
_GUARDED = ["nosuid", "noexec", "nodev"]


def run(
    listener: socket.socket, life_fd: int, reason: int, facts: HostFacts, rehearsal: Rehearsal | None, *, exec_root: str
) -> None:
    """The life of a helper in a process just forked from the zygote; a later one has no rehearsal.

    `reason`: its pipe to the zygote (corten.shim.keeper).
    """
    host = Host(facts)
    if rehearsal is not None:
        Stage(rehearsal.directory, rehearsal.listener, host).run(rehearsal.over_fd)
        rehearsal.close()
    play(host)
    openfiles.take_all()  # for itself: what it launches is a shim's child, with the shim's limits
    Helper(listener, host, reason, exec_root).run(life_fd)


def play(host: Host) -> None:
    """All rounds; some 20 ms.  In a tmpfs that no path leads to and that ends with its descriptor."""
    stage_fd = mount.detached_tmpfs()
    stage = f"/proc/self/fd/{stage_fd}"
    settled = Host(host.facts, f"{stage}/seccomp")
    try:
        for number in range(ROUNDS):
            _play_plan(stage, settled, has_terminal=number % 4 == 0)
    finally:
        os.close(stage_fd)


def _play_plan(stage: str, host: Host, *, has_terminal: bool) -> None:
    """Configuration to encoded plan, as `create` does it."""
    config = _config()
    config["process"]["terminal"] = has_terminal
    files.replace(f"{stage}/config.json", fast.dump_bytes(config))
    options = container.CreateOptions(
        "0" * 64, f"{stage}/runtime", stage, rootfs_fd=0, parent="shim", console_fd=0 if has_terminal else -1
    )
    plan = prepare(options, host).plan
    encode(plan, dict.fromkeys(plan.inputs, 3), 4)
    for op in plan.ops:
        op.describe()


def _config() -> dict[str, Any]:
    """A configuration of the shape that the engine writes."""
    capabilities = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETUID"]
    return {
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0, "additionalGids": [0, 10]},
            "args": ["sh", "-c", "true"],
            "env": ["PATH=/usr/bin:/bin", "HOSTNAME=rehearsal"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024}],
            "oomScoreAdj": 0,
        },
        "root": {"path": "rootfs"},
        "hostname": "rehearsal",
        "mounts": _mounts(),
        "linux": {
            "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0"},
            "cgroupsPath": "/rehearsal",
            "resources": {
                "devices": [
                    {"allow": False, "access": "rwm"},
                    {"allow": True, "type": "c", "major": 1, "access": "rwm"},
                ],
                "memory": {"limit": 1 << 26, "swap": 1 << 27},
                "cpu": {"shares": 512, "quota": 50000, "period": 100000},
                "pids": {"limit": 100},
            },
            "namespaces": [{"type": name} for name in ("mount", "uts", "ipc", "pid", "cgroup")]
            + [{"type": "network", "path": "/proc/self/ns/uts"}],  # any but the helper's own: nothing is launched
            "seccomp": {
                "defaultAction": "SCMP_ACT_ERRNO",
                "defaultErrnoRet": 1,
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{"names": ["read", "write", "execve", "exit_group"], "action": "SCMP_ACT_ALLOW"}],
            },
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/sys"],
        },
    }


def _mounts() -> list[dict[str, Any]]:
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": _GUARDED},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*_GUARDED, "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [*_GUARDED, "ro"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": _GUARDED},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*_GUARDED, "mode=1777"]},
        {"destination": "/etc/hosts", "type": "bind", "source": "/etc/hosts", "options": ["rbind", "rprivate"]},
    ]
