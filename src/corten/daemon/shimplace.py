"""The cgroup of the shims: `/corten-<id>-shims`, beside that of the containers and not below cortend's own.

What happens to cortend's cgroup (a limit of its unit, `systemctl kill`, an out-of-memory kill in it) does not reach a
shim then, and with it a container (design.md §5).  The zygote joins it before it loads anything; shims and the helper
are forked from it and need not move.  cgroup v2 allows no processes beside controllers that were handed down: this one
hands none down.  It stays until `cortend --destroy`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from corten.engine.parts import cgroup_parent
from corten.errors import CortenError
from corten.launch.facts import HostFacts
from corten.runtime.cgroups import Cgroup, CgroupPaths, plan_paths
from corten.sys import cgroup, files

log = logging.getLogger("corten.daemon")

_STAY = "shims are in the cgroup of cortend"
_V1_JOIN = "tasks"  # a thread alone: cgroup.procs waits for RCU, in each hierarchy


def path(engine_id: str) -> str:
    """From the root of each hierarchy.  Not a child of the containers' parent, whose children are containers."""
    return f"{cgroup_parent(engine_id)}-shims"


def prepare(facts: HostFacts, engine_id: str) -> tuple[str, ...]:
    """Makes it: the files to which a process with one thread writes 0 to be in it; () where it cannot be made."""
    paths = plan_paths(facts, path(engine_id), "")
    try:
        if facts.cgroup_mode == "v2":
            files.make_directories(paths.v2)  # without controllers of its own, and no change to those above
        else:
            Cgroup(paths).create()
    except (CortenError, OSError) as error:
        log.warning("%s: %s", _STAY, error)
        return ()
    joins = [f"{directory}/{_V1_JOIN}" for directory in paths.v1.values()]
    return (*joins, f"{paths.v2}/{cgroup.PROCS}") if paths.v2 else tuple(joins)


def take_in(facts: HostFacts, engine_id: str, pids: Iterable[int]) -> None:
    """Shims that are elsewhere: those of an earlier release.  Blocks, for them some ms each."""
    paths = plan_paths(facts, path(engine_id), "")
    for pid in filter(None, pids):
        try:
            for place in _elsewhere(paths, path(engine_id), files.read_text(f"/proc/{pid}/cgroup")):
                cgroup.write(place, cgroup.PROCS, str(pid))
        except (CortenError, OSError) as error:
            if files.exists(f"/proc/{pid}"):  # else it has ended meanwhile
                log.warning("shim %d stays in its cgroup: %s", pid, error)


def _elsewhere(paths: CgroupPaths, wanted: str, text: str) -> list[str]:
    """Our directories in the hierarchies where /proc/PID/cgroup (`text`) names another path than `wanted`."""
    found = []
    for line in text.splitlines():
        _, names, is_in = line.split(":", 2)
        directory = paths.directory(names.split(",")[0]) if names else paths.v2
        if directory and is_in != wanted:
            found.append(directory)
    return found


def remove(facts: HostFacts, engine_id: str) -> None:
    """Who is left in it is killed."""
    leftover = Cgroup(plan_paths(facts, path(engine_id), ""))
    leftover.kill_all()
    leftover.remove()
