"""What `docker info` warns of (what the kernel lacks, an API that is open to others), and what it says of the disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

Json = dict[str, Any]

_LACKING: Final = (
    ("MemoryLimit", "No memory limit support"),
    ("SwapLimit", "No swap limit support"),
    ("CpuCfsQuota", "No cpu cfs quota support"),
    ("CpuCfsPeriod", "No cpu cfs period support"),
    ("CPUShares", "No cpu shares support"),
    ("CPUSet", "No cpuset support"),
    ("IPv4Forwarding", "IPv4 forwarding is disabled"),
)
_ROOT: Final = "\n         Access to the remote API is equivalent to root access on the host."
# dockerd's names where they are not the kernel's
_FILE_SYSTEMS: Final = {"ext2": "extfs", "ext3": "extfs", "ext4": "extfs", "overlay": "overlayfs"}


def warnings(kernel: Json, hosts: Sequence[str], *, is_tls: bool, is_verified: bool) -> list[str]:
    """Lines in dockerd's words; `kernel` has SystemInfo's fields."""
    out = []
    for host in hosts:
        scheme, _, address = host.partition("://")
        if scheme == "tcp" and not is_tls:
            out.append(f"WARNING: API is accessible on http://{address} without encryption.{_ROOT}")
        elif scheme == "tcp" and not is_verified:
            out.append(f"WARNING: API is accessible on https://{address} without TLS client verification.{_ROOT}")
    return out + [f"WARNING: {text}" for field, text in _LACKING if not kernel[field]]


def file_system(path: str) -> str:
    """Of what kind the file system is that `path` lies on, in dockerd's words; empty when nobody tells."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            if before.split(" ")[2] == wanted:
                kind = after.split(" ")[0]
                return _FILE_SYSTEMS.get(kind, kind)
    return ""


def uses_metacopy() -> bool:
    """Whether overlay mounts copy up no data for a change of metadata, where nobody asks (overlayfs.rst)."""
    try:
        with open("/sys/module/overlay/parameters/metacopy", encoding="ascii") as file:
            return file.read().strip() == "Y"
    except OSError:
        return False
