"""Beneath dockerd 26.1 on cgroup v2, with every capability: what this machine's neighbour cannot show, as by runc."""

from __future__ import annotations

import pytest

from support import images
from support.guestdocker import Docker

FILES = "cd /sys/fs/cgroup; for name in memory.max memory.swap.max cpu.max cpu.weight cpuset.cpus pids.max io.max; do "
FILES += "echo $name $(cat $name); done"
STATUS = "grep -E '^(Cap|Seccomp|NoNewPrivs|Uid|Groups|oom)' /proc/self/status; cat /proc/self/oom_score_adj"
# name: (options, script, text that must be there, lest both fail alike)
CHECKS: dict[str, tuple[list[str], str, str]] = {
    "limits": (["--memory", "64m", "--cpus", "0.5", "--cpuset-cpus", "0", "--pids-limit", "20"], FILES, "67108864"),
    "defaults": (["--pids-limit", "500"], FILES, "pids.max 500"),
    "throttle": (
        ["--pids-limit", "9", "--device-read-bps", "/dev/vda:1mb", "--cpu-shares", "512"],
        FILES,
        "rbps=1048576",
    ),
    "status": ([], STATUS, "CapBnd:"),
    "user": (["--user", "1000:1000", "--group-add", "7", "--cap-drop", "ALL"], STATUS, "1000"),
    "privileged": (
        ["--privileged"],
        f"{STATUS}; cat /proc/self/attr/current; ls /dev | sort; mount -t tmpfs x /tmp && echo mounted",
        "mounted",
    ),
    "all capabilities": (["--cap-add", "ALL"], STATUS, "CapEff:\t000001ff"),
    "a limit above the hard one": (["--ulimit", "nofile=700000:800000"], "ulimit -Sn; ulimit -Hn", "700000\n800000"),
    "locked memory": (["--ulimit", "memlock=-1:-1"], "ulimit -l", "unlimited"),
    # the shell says of each process that the kernel chose that it was killed: one or both
    "out of memory": (["--memory", "8m"], "exec 2> /dev/null; head -c 100m /dev/zero | tail; exit $?", "status 137"),
    "cgroup of the host": (["--cgroupns", "host"], "cat /proc/self/cgroup | cut -c 1-11", "0::/docker/"),
    "devices": (["--device", "/dev/vda:/dev/disk:r"], "head -c 1 /dev/disk | wc -c; true 2>&1 >> /dev/disk", "1\n"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_a_container_of_dockerd_is_as_by_runc(docker: Docker, name: str) -> None:
    options, script, wanted = CHECKS[name]
    image = (images.BUSYBOX_REF, "sh", "-c", script)
    shown = {runtime: docker.run("--runtime", runtime, *options, *image) for runtime in ("corten", "peer")}
    assert shown["corten"] == shown["peer"]
    assert wanted in shown["peer"]
