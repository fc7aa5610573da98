"""What the engine knows of the machine, gathered once and passed as a value."""

from __future__ import annotations

import glob
import os
import platform
import re
from typing import Final

import msgspec

from corten.engine import defaults

_ONLINE_CPUS: Final = "/sys/devices/system/cpu/online"
_THERMAL: Final = "/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle"
_ONLINE_NODES: Final = "/sys/devices/system/node/online"
LIST_MAX: Final = 8192  # dockerd's
GO_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """`cpus` and `mems` are kernel lists such as `0-3`; `capabilities` those that can be given to a container."""

    machine: str
    kernel: tuple[int, int]
    kernel_release: str
    hostname: str
    cpu_count: int
    cpus: str
    mems: str
    cgroup_mode: str
    v1_controllers: frozenset[str]
    capabilities: frozenset[str]
    memory_bytes: int
    has_blkio_weight: bool = False
    has_blkio_weight_device: bool = False
    has_blkio_throttle: bool = False
    has_cpu_rt: bool = False
    sysctls: frozenset[str] = frozenset(defaults.SYSCTLS)
    apparmor: bool = False
    masked_paths: tuple[str, ...] = defaults.MASKED_PATHS
    has_quotas: bool = False  # containers may have a size

    @property
    def architecture(self) -> str:
        """Go's name: amd64."""
        return GO_ARCHITECTURES.get(self.machine, self.machine)


def gather(cgroup_mode: str, v1_mounts: dict[str, str]) -> Host:
    """Read /proc and /sys.  v1_mounts: controller list → mount point, as in launch.facts."""
    release = platform.release()
    major, _, rest = release.partition(".")
    controllers = frozenset(name for names in v1_mounts for name in names.split(",") if "=" not in name)
    blkio = next((path for names, path in v1_mounts.items() if "blkio" in names.split(",")), "")
    cpu = next((path for names, path in v1_mounts.items() if "cpu" in names.split(",")), "")
    return Host(
        machine=platform.machine(),
        kernel=(int(major), int(rest.split(".")[0].split("-")[0])),
        kernel_release=release,
        hostname=platform.node(),
        cpu_count=len(os.sched_getaffinity(0)),
        cpus=_read(_ONLINE_CPUS) or f"0-{(os.cpu_count() or 1) - 1}",
        mems=_read(_ONLINE_NODES) or "0",
        cgroup_mode=cgroup_mode,
        v1_controllers=controllers,
        capabilities=_kernel_capabilities(),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        has_blkio_weight=cgroup_mode == "v2" or os.path.exists(f"{blkio}/blkio.weight"),
        has_blkio_weight_device=cgroup_mode == "v2" or os.path.exists(f"{blkio}/blkio.weight_device"),
        has_blkio_throttle=cgroup_mode == "v2" or os.path.exists(f"{blkio}/blkio.throttle.read_bps_device"),
        has_cpu_rt=os.path.exists(f"{cpu}/cpu.rt_runtime_us"),
        sysctls=frozenset(name for name in defaults.SYSCTLS if os.path.exists(_sysctl_path(name))),
        apparmor=_read("/sys/module/apparmor/parameters/enabled") == "Y",
        masked_paths=(*defaults.MASKED_PATHS, *sorted(glob.glob(_THERMAL))),
    )


def _sysctl_path(name: str) -> str:
    return "/proc/sys/" + name.replace(".", "/")


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _kernel_capabilities() -> frozenset[str]:
    """What the kernel has and this process may give away: more cannot be given to a container."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        bounding = next((int(line.split()[1], 16) for line in file if line.startswith("CapBnd:")), -1)
    return frozenset(name for number, name in enumerate(defaults.ALL_CAPABILITIES) if bounding >> number & 1)


_RANGE: Final = re.compile(r"[0-9]+(-[0-9]+)?")


def parse_list(text: str) -> frozenset[int]:
    """A kernel list: `0-2,4` → {0, 1, 2, 4}.  Raises ValueError, OverflowError for more than LIST_MAX."""
    out: set[int] = set()
    for part in text.split(","):
        if not _RANGE.fullmatch(part):
            raise ValueError(text)
        first, dash, last = part.partition("-")
        begin, end = int(first), int(last if dash else first)
        if end < begin:
            raise ValueError(text)
        if max(begin, end) > LIST_MAX:
            raise OverflowError(f"value of out range, maximum is {LIST_MAX}")
        out.update(range(begin, end + 1))
    return frozenset(out)
