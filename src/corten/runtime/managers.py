"""Who makes, changes and removes the cgroups of a container, chosen once at create and kept in its record.

cgroupfs   this process, by the files
disabled   nobody: the container stays in its creator's cgroups
"""

from __future__ import annotations

from corten.runtime.cgroups import Cgroup, CgroupPaths, plan_paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.launch.facts import HostFacts
    from corten.runtime.prepare import Prepared
    from corten.runtime.state import State
    from corten.spec.resources import Resources

CGROUPFS, DISABLED = "cgroupfs", "disabled"


class Manager:
    """The manager by files.  No method keeps anything: the record and the kernel are the memory."""

    def paths(self, facts: HostFacts, cgroups_path: str, id: str) -> CgroupPaths:
        """Where the cgroup will be; nothing is made."""
        return plan_paths(facts, cgroups_path, id)

    def make(self, prepared: Prepared) -> None:
        """Directories, limits and device rules, before anything is spawned."""
        group = Cgroup(prepared.paths)
        group.create()
        group.apply(prepared.settings)
        if prepared.device_program:  # v2; loading it costs ctypes, which v1 hosts never pay
            from corten.sys import bpf

            bpf.attach_device_program(prepared.paths.v2, prepared.device_program)

    def update(self, state: State, resources: Resources) -> None:
        """Writes new limits; what `resources` leaves out stays.  Device rules are not part of it, as in runc."""
        group = Cgroup(state.cgroup)
        group.apply(group.settings(resources))

    def remove(self, state: State) -> None:
        """Removes the cgroup, in which nobody is any more."""
        Cgroup(state.cgroup).remove()


class Disabled(Manager):
    """No cgroup at all."""

    def paths(self, facts: HostFacts, cgroups_path: str, id: str) -> CgroupPaths:
        """None."""
        return CgroupPaths(facts.cgroup_mode, {}, "")

    def make(self, prepared: Prepared) -> None:
        """Nothing is limited."""


MANAGERS: dict[str, Manager] = {CGROUPFS: Manager(), DISABLED: Disabled()}


def of(state: State) -> Manager:
    """The manager that a container was created with."""
    return MANAGERS[state.manager]
