"""The configuration that `spec` writes: runc's starter bundle, a shell with three capabilities."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MASKED = ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list"]
MASKED += ["/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"]
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
NAMESPACES = ("pid", "network", "ipc", "uts", "mount")


def document(*, version_2: bool = True) -> dict[str, Any]:
    """The whole configuration, keys in runc's order; as runc's it has a cgroup namespace on a host of version 2."""
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [PATH, "TERM=xterm"],
            "cwd": "/",
            "capabilities": {name: list(CAPABILITIES) for name in ("bounding", "effective", "permitted", "ambient")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "corten",
        "mounts": mounts(),
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in (*NAMESPACES, *(("cgroup",) if version_2 else ()))],
            "maskedPaths": MASKED,
            "readonlyPaths": READONLY,
        },
    }


def mounts() -> list[dict[str, Any]]:
    """The mounts that every container expects (runtime-spec config-linux.md, "Default Filesystems")."""
    guarded = ["nosuid", "noexec", "nodev"]
    return [
        _mount("/proc", "proc"),
        _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        _mount("/dev/shm", "tmpfs", *guarded, "mode=1777", "size=65536k", source="shm"),
        _mount("/dev/mqueue", "mqueue", *guarded),
        _mount("/sys", "sysfs", *guarded, "ro"),
        _mount("/sys/fs/cgroup", "cgroup", *guarded, "relatime", "ro"),
    ]


def _mount(destination: str, kind: str, *options: str, source: str = "") -> dict[str, Any]:
    row: dict[str, Any] = {"destination": destination, "type": kind, "source": source or kind}
    if options:
        row["options"] = list(options)
    return row


def rootless(*, version_2: bool = True) -> dict[str, Any]:
    """The same for an ordinary user: a user namespace of one id, no network or resources of its own."""
    import os

    config = document(version_2=version_2)
    linux = config["linux"]
    linux["namespaces"] = [row for row in linux["namespaces"] if row["type"] != "network"] + [{"type": "user"}]
    linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    del linux["resources"]
    for row in config["mounts"]:
        if row["destination"] == "/sys":
            row.update(type="none", source="/sys", options=["rbind", "nosuid", "noexec", "nodev", "ro"])
        if "options" in row:
            row["options"] = [item for item in row["options"] if not item.startswith(("gid=", "uid="))]
    return config
