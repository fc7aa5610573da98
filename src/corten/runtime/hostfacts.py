"""Gathers `HostFacts`: a handful of kernel files, read once per process (about 0.2 ms)."""

from __future__ import annotations

import posix

from corten.launch.facts import HostFacts
from corten.runtime.settings import in_user_namespace
from corten.sys import cgroup, files

CAP_SYS_RESOURCE = 24


def gather() -> HostFacts:
    """The facts of the machine that this process runs on."""
    kernel = kernel_version(posix.uname().release)
    status = _status(files.read_text("/proc/self/status"))
    euid, inside = posix.geteuid(), in_user_namespace()
    mountinfo = files.read_text("/proc/self/mountinfo")
    mounts, version_2 = cgroup.mounts(mountinfo)
    return HostFacts(
        kernel,
        cgroup_mode(mounts, version_2),
        hierarchies(mounts),
        version_2,
        cap_last=int(files.read("/proc/sys/kernel/cap_last_cap")),
        cap_bounding=int(status["CapBnd"], 16),
        apparmor=_is_on("/sys/module/apparmor/parameters/enabled", b"Y"),
        selinux=files.exists("/sys/fs/selinux/enforce"),
        can_raise_rlimits=bool(int(status["CapEff"], 16) >> CAP_SYS_RESOURCE & 1),
        has_kcore=files.exists("/proc/kcore"),
        procfs_pidns=kernel >= (6, 17),
        narrow_affinity=len(posix.sched_getaffinity(0)) < (posix.cpu_count() or 1),
        euid=euid,
        egid=posix.getegid(),
        in_user_namespace=inside,
        # an ordinary user's namespace has its groups, whatever its map: as in runc nobody sets others there
        setgroups_denied=euid != 0 or (inside and files.read("/proc/self/setgroups").strip() == b"deny"),
        resctrl=resctrl_mount(mountinfo) if " - resctrl " in mountinfo else "",
    )


def resctrl_mount(mountinfo: str) -> str:
    """Where the resctrl file system is mounted."""
    return next(line.split(" ")[4] for line in mountinfo.splitlines() if " - resctrl " in line)


def kernel_version(release: str) -> tuple[int, int]:
    """(6, 1) of `6.1.0-18-amd64`."""
    major, _, rest = release.partition(".")
    digits = ""
    for letter in rest:
        if not letter.isdigit():
            break
        digits += letter
    return int(major), int(digits or 0)


def cgroup_mode(mounts: dict[str, str], version_2: str) -> str:
    """The layout of the host by what is mounted."""
    if not mounts:
        return "v2"
    return "hybrid" if version_2 else "v1"


def hierarchies(mounts: dict[str, str]) -> dict[str, str]:
    """Controllers that share a mount point as one key: {'cpu,cpuacct': …}."""
    joined: dict[str, str] = {}
    for controller, point in mounts.items():
        joined[point] = f"{joined[point]},{controller}" if point in joined else controller
    return {names: point for point, names in joined.items()}


def _status(text: str) -> dict[str, str]:
    pairs = (line.split(":\t", 1) for line in text.splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def _is_on(path: str, wanted: bytes) -> bool:
    try:
        return files.read(path).strip() == wanted
    except OSError:
        return False
