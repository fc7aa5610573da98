"""Who makes, changes and removes the cgroups of a container, chosen once at create and kept in its record.

cgroupfs   this process, by the files
systemd    systemd, asked over D-Bus for a scope; the files that it does not write are written by this process
disabled   nobody: the container stays in its creator's cgroups
rootless   as cgroupfs, as far as the user may write them (`corten.runtime.rootless`)
"""

from __future__ import annotations

from corten.errors import Internal
from corten.runtime.cgroups import Cgroup, CgroupPaths, SettingRefused, plan_paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.launch.facts import HostFacts
    from corten.runtime.cgroup_settings import Setting
    from corten.runtime.launching import Creation
    from corten.runtime.prepare import Prepared
    from corten.runtime.state import State
    from corten.spec.resources import Resources
    from corten.spec.runtime import Config

CGROUPFS, SYSTEMD, DISABLED, ROOTLESS = "cgroupfs", "systemd", "disabled", "rootless"


START_FAILURE = "unable to start container process"
APPLY = f"{START_FAILURE}: unable to apply cgroup configuration"
SET = f"{START_FAILURE}: error during container init: error setting cgroup config for procHooks process"


def what_fails(paths: CgroupPaths, error: Internal) -> str:
    """What runc is at when a limit cannot be set; a v1 cpuset's has to be there before anybody is in it."""
    first = isinstance(error, SettingRefused) and error.controller == "cpuset" and paths.mode != "v2"
    return APPLY if first else SET


def owner_of(config: Config) -> int | None:
    """The host's user who is to own the container's v2 cgroup, None to leave it: whoever its process runs as, where
    it sees that cgroup alone and may write (config-linux.md, "Cgroup ownership")."""
    linux = config.linux
    own = linux.namespace("cgroup")
    mounts = [entry for entry in config.mounts if entry.destination.rstrip("/") == "/sys/fs/cgroup"]
    if own is None or own.path or config.process is None or not mounts:
        return None
    if mounts[-1].type not in ("cgroup", "cgroup2") or "ro" in mounts[-1].options:
        return None
    uid = config.process.user.uid
    if linux.namespace("user") is None:
        return uid
    for entry in linux.uid_mappings:
        if 0 <= uid - entry.container_id < entry.size:
            return entry.host_id + uid - entry.container_id
    return None


class Manager:
    """The manager by files.  No method keeps anything: the record and the kernel are the memory.

    starts_unit   the cgroup is made around the launcher, which waits for it (`start_unit`)
    """

    starts_unit = False

    def paths(self, facts: HostFacts, cgroups_path: str, id: str) -> CgroupPaths:
        """Where the cgroup will be; nothing is made."""
        return plan_paths(facts, cgroups_path, id)

    def admit(
        self, paths: CgroupPaths, limit: tuple[int, str], writes: list[Setting]
    ) -> tuple[tuple[int, str], list[Setting]]:
        """The limit of processes and the settings of a new cgroup, as far as they can be."""
        return limit, writes

    def unit(self, cgroups_path: str, id: str) -> str:
        """The name of the unit that the cgroup will be of, '' for none."""
        return ""

    def make(self, prepared: Prepared) -> None:
        """Directories, limits and device rules, before anything is spawned."""
        limit(prepared, prepared.settings)

    def start_unit(self, making: Creation, launcher_pid: int) -> None:
        """The same around a launcher that waits, where the manager `starts_unit`."""

    def settle(self, making: Creation) -> None:
        """What has to wait until the launcher is gone; the init waits."""

    def update(self, state: State, resources: Resources) -> None:
        """Writes new limits; what `resources` leaves out stays.  Device rules are not part of it, as in runc."""
        group = Cgroup(state.cgroup)
        group.check_usage(resources.memory)
        group.change(group.settings(resources))

    def group(self, state: State) -> Cgroup:
        """The cgroup whose processes are the container's, also when its init is dead."""
        return Cgroup(state.cgroup)

    def remove(self, state: State) -> None:
        """Removes the cgroup, in which nobody is any more."""
        self.group(state).remove()


class Disabled(Manager):
    """No cgroup at all."""

    def paths(self, facts: HostFacts, cgroups_path: str, id: str) -> CgroupPaths:
        """None."""
        return CgroupPaths(facts.cgroup_mode, {}, "")

    def make(self, prepared: Prepared) -> None:
        """Nothing is limited."""


def limit(prepared: Prepared, settings: list[Setting]) -> None:
    """Directories that are missing, limits and device rules; raises Internal in runc's words."""
    group = Cgroup(prepared.paths)
    group.create()
    try:
        group.check_usage(prepared.config.linux.resources.memory)
        group.apply(settings)
    except Internal as error:
        raise Internal(f"{what_fails(prepared.paths, error)}: {error}") from error
    if prepared.device_program:  # v2; loading it costs ctypes, which v1 hosts never pay
        from corten.sys import bpf

        bpf.attach_device_program(prepared.paths.v2, prepared.device_program)
    owner = owner_of(prepared.config) if prepared.paths.mode == "v2" else None
    if owner is not None:
        group.delegate(owner)


MANAGERS: dict[str, Manager] = {CGROUPFS: Manager(), DISABLED: Disabled()}


def named(name: str) -> Manager:
    """The manager of a name."""
    if name == ROOTLESS:
        from corten.runtime.rootless import Rootless

        return Rootless()
    if name == SYSTEMD:
        from corten.runtime.systemd import Systemd

        return Systemd()
    return MANAGERS[name]


def of(state: State) -> Manager:
    """The manager that a container was created with."""
    return named(state.manager)
