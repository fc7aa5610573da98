"""`cpu-rt-period` and `cpu-rt-runtime` of daemon.json: real-time of the cgroups that containers are below (v1 alone).

What is above limits what is below, so the two are written from the root down, before each start, as by dockerd.
Source: sched-rt-group.rst.
"""

from __future__ import annotations

import os
import posixpath
from typing import Final

from corten.engine.settings import Settings
from corten.errors import Internal
from corten.sys import cgroup

_FAILED: Final = "unable to init CPU RT controller"


def prepare(settings: Settings, container_cgroup: str, mountinfo: str = "/proc/self/mountinfo") -> None:
    """For the parents of a container's cgroup; nothing where daemon.json names neither.  Raises Internal."""
    files = [("cpu.rt_period_us", settings.cpu_rt_period), ("cpu.rt_runtime_us", settings.cpu_rt_runtime)]
    wanted = [(name, value) for name, value in files if value]
    if not wanted:
        return
    with open(mountinfo, encoding="utf-8", errors="replace") as file:
        mount = cgroup.mounts(file.read())[0].get("cpu")
    if mount is None:
        raise Internal(f"{_FAILED}: mountpoint for cpu not found")
    path = mount
    for part in posixpath.dirname(posixpath.normpath(f"/{container_cgroup.lstrip('/')}")).split("/")[1:]:
        if part:
            path = f"{path}/{part}"
            _write(path, wanted)


def _write(directory: str, values: list[tuple[str, int]]) -> None:
    place = directory
    try:
        os.makedirs(directory, mode=0o755, exist_ok=True)
        for name, value in values:
            place = f"{directory}/{name}"
            with open(place, "w", encoding="ascii") as file:
                file.write(str(value))
    except OSError as error:
        raise Internal(f"{_FAILED}: open {place}: {(error.strerror or '').lower()}") from error
