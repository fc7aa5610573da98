"""The cgroup of one container: where it is, making it, limits, counters, freezing, killing, removing.

Three layouts of the host (`HostFacts.cgroup_mode`): `v2`; `v1`; and `hybrid`, where controllers are v1 and a cgroup2
without controllers is mounted beside them.  In hybrid mode a container has a v2 cgroup as well, of the same path:
for `cgroup.kill`, `cgroup.freeze` and clone(CLONE_INTO_CGROUP).  Processes are put in by the launcher, never from here.
"""

from __future__ import annotations

import posix
import time

from corten.errors import FailedPrecondition, Internal, InvalidArgument
from corten.sys import cgroup, files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from corten.launch.facts import HostFacts
    from corten.runtime.cgroup_settings import Setting
    from corten.spec.resources import Memory, Resources

KILL, FREEZE, EVENTS = "cgroup.kill", "cgroup.freeze", "cgroup.events"
V1_FREEZER_STATE = "freezer.state"
STATES = {FREEZE: ("0", "1"), V1_FREEZER_STATE: ("THAWED", "FROZEN")}  # by whether it is frozen
DELEGATE = "/sys/kernel/cgroup/delegate"
FREEZE_TIMEOUT_S = 10.0
KILL_TIMEOUT_S = 10.0
POLL_S = 0.001
SIGKILL = 9
EPERM, ENOENT, EACCES, EBUSY, EINVAL = 1, 2, 13, 16, 22
NO_CGROUP = "cannot set {} limit: container could not join or create cgroup"


class SettingRefused(Internal):
    """A limit that could not be set, and the controller that it is of."""

    def __init__(self, controller: str, text: str) -> None:
        super().__init__(text)
        self.controller = controller


class CgroupPaths:
    """The directories of one container's cgroup.

    v1   controller list of a hierarchy, as in /proc/self/cgroup ('cpu,cpuacct', 'name=systemd') → directory
    v2   directory in cgroup2, '' where none is mounted
    """

    __slots__ = ("mode", "mount", "v1", "v2")

    def __init__(self, mode: str, v1: dict[str, str], v2: str, mount: str = "") -> None:
        self.mode = mode
        self.v1 = v1
        self.v2 = v2
        self.mount = mount

    def directory(self, controller: str) -> str:
        """The directory in which a controller's files stand, '' where the host has no such controller."""
        if self.mode == "v2":
            return self.v2
        for names, directory in self.v1.items():
            if controller in names.split(","):
                return directory
        return ""

    def directories(self) -> list[str]:
        """Every directory once."""
        return [*self.v1.values(), self.v2] if self.v2 else list(self.v1.values())

    def to_obj(self) -> dict[str, object]:
        """The JSON object that state.json holds."""
        return {"mode": self.mode, "v1": self.v1, "v2": self.v2, "mount": self.mount}

    @classmethod
    def from_obj(cls, obj: dict[str, object]) -> CgroupPaths:
        """The inverse of `to_obj`."""
        v1 = obj.get("v1")
        return cls(str(obj["mode"]), v1 if isinstance(v1, dict) else {}, str(obj["v2"]), str(obj.get("mount", "")))


def plan_paths(facts: HostFacts, cgroups_path: str, id: str) -> CgroupPaths:
    """Where the container's cgroup will be; nothing is made.

    `cgroups_path` is `linux.cgroupsPath`: with a slash in front it counts from the root of each hierarchy, else from
    this process's own cgroup (`corten.runtime.own_cgroups`); without one it is the id (runc's reading of it all).
    """
    path = files.absolute("/" + (cgroups_path or id))
    if path == "/":
        raise InvalidArgument(f"linux.cgroupsPath: {cgroups_path!r} is the root cgroup, or the runtime's own")
    if cgroups_path.startswith("/"):
        above = {**facts.cgroup_v1, "": facts.cgroup_v2_mount}
    else:
        from corten.runtime import own_cgroups

        above = own_cgroups.parents(facts)
    v1 = {names: above[names] + path for names in facts.cgroup_v1}
    v2 = above[""] + path if facts.cgroup_v2_mount else ""
    return CgroupPaths(facts.cgroup_mode, v1, v2, facts.cgroup_v2_mount)


class Counters:
    """What the kernel counted of a container: kills for want of memory, and forks refused at the pids limit."""

    __slots__ = ("oom_kills", "pids_max_hits")

    def __init__(self, oom_kills: int, pids_max_hits: int) -> None:
        self.oom_kills = oom_kills
        self.pids_max_hits = pids_max_hits


class Cgroup:
    """A container's cgroup.  It exists between `create` and `remove`; every method may be called on a missing one."""

    __slots__ = ("paths",)

    def __init__(self, paths: CgroupPaths) -> None:
        self.paths = paths

    # making and limiting

    def check_free(self) -> None:
        """Raises FailedPrecondition when somebody's processes are in one of the directories already.

        A cgroup that was there before may be taken when it is empty; else whoever is in it would be killed with
        the container.
        """
        for directory in self.paths.directories():
            if files.exists(directory) and (pids := cgroup.pids(directory)):
                raise FailedPrecondition(
                    f"container's cgroup is not empty: {len(pids)} process(es) found in {directory}"
                )

    def create(self) -> None:
        """Makes the directories."""
        paths = self.paths
        if paths.mode == "v2":
            _enable_controllers(paths.mount, paths.v2)
        for names, directory in paths.v1.items():
            files.make_directories(directory)
            if "cpuset" in names.split(","):
                for file in ("cpuset.cpus", "cpuset.mems"):
                    _inherit_cpuset(directory, file)
        if paths.v2:
            files.make_directories(paths.v2)

    def settings(self, resources: Resources) -> list[Setting]:
        """The writes by which `resources` change a cgroup that is there, device rules apart."""
        from corten.runtime import cgroup_settings

        if self.paths.mode == "v2":
            return cgroup_settings.version_2(self.completed(resources))
        memory = self.paths.directory("memory")
        memsw_now = cgroup.read_number(memory, "memory.memsw.limit_in_bytes") if memory else 0
        unlimited = memsw_now <= 0 or memsw_now >= 1 << 62
        settings = cgroup_settings.version_1(resources, cgroup_settings.UNLIMITED if unlimited else memsw_now)
        if resources.memory.disable_oom_killer is False:  # which a new cgroup has anyway
            settings.append(cgroup_settings.Setting("memory", "memory.oom_control", 0))
        return settings

    def completed(self, resources: Resources) -> Resources:
        """On v2, where quota and period are one file: with the half that `resources` leaves out, as it is now."""
        cpu = resources.cpu
        if self.paths.mode != "v2" or bool(cpu.quota) == bool(cpu.period):
            return resources
        try:
            quota, _, period = files.read_text(f"{self.paths.v2}/cpu.max").partition(" ")
        except FileNotFoundError:
            return resources  # no controller: the write will say so
        half = {"period": int(period)} if cpu.quota else {"quota": -1 if quota == "max" else int(quota)}
        return resources.replaced(cpu=cpu.replaced(**half))

    def device_settings(self, resources: Resources) -> list[Setting]:
        """The writes for the device rules; none on v2, where they are a program."""
        from corten.runtime import cgroup_settings

        if self.paths.mode == "v2":
            return []
        return cgroup_settings.devices_1(cgroup_settings.device_policy(resources.devices))

    def apply(self, settings: Iterable[Setting]) -> None:
        """Writes settings in their order; raises SettingRefused in runc's words."""
        later: list[tuple[Setting, tuple[str, str], list[str]]] = []
        for setting, place, values in self._batches(settings):
            try:
                cgroup.write_each(*place, values)
            except cgroup.Refused as error:
                if setting.again and error.errno == EINVAL:
                    later.append((setting, place, values))
                elif not (setting.optional and error.errno == ENOENT):
                    raise self._refused(setting, place, values[0], error) from error
        for setting, place, values in later:
            try:
                cgroup.write_each(*place, values)
            except cgroup.Refused as error:
                raise self._refused(setting, place, values[0], error) from error

    def change(self, settings: Iterable[Setting]) -> None:
        """`apply` to a cgroup in use: when one is refused, what was written before it is written back.

        What the kernel does not take back stays (a throttle of a device that had none).
        """
        settings = list(settings)
        before = {place: files.lines_of("/".join(place)) for _, place, _ in self._batches(settings)}
        try:
            self.apply(settings)
        except SettingRefused:
            for place, lines in reversed(before.items()):
                if lines is not None:
                    _restore(place, lines)
            raise

    def _batches(self, settings: Iterable[Setting]) -> Iterator[tuple[Setting, tuple[str, str], list[str]]]:
        """(setting, (directory, file), values): neighbours for the same file together."""
        first: Setting | None = None
        last, values = ("", ""), [""]
        for setting in settings:
            place, value = self._place(setting)
            if first is not None and place == last:
                values.append(value)
                continue
            if first is not None:
                yield first, last, values
            first, last, values = setting, place, [value]
        if first is not None:
            yield first, last, values

    def _place(self, setting: Setting) -> tuple[tuple[str, str], str]:
        """((directory, file), value) of a setting on this host."""
        directory = self.paths.directory(setting.controller)
        if not directory:
            raise SettingRefused(setting.controller, NO_CGROUP.format(setting.controller))
        for file, value in setting.choices[:-1]:
            if files.exists(f"{directory}/{file}"):
                return (directory, file), value
        file, value = setting.choices[-1]
        return (directory, file), value

    def _refused(self, setting: Setting, place: tuple[str, str], value: str, error: cgroup.Refused) -> SettingRefused:
        """What runc says of it."""
        (directory, file), controller, text = place, setting.controller, error.text
        if setting.unified:
            if error.errno in (ENOENT, EPERM, EACCES) and not self._has(controller):
                text = f'unified resource "{file}" can\'t be set: controller "{controller}" not available'
            else:
                text = f'unable to set unified resource "{file}": {error}'
        elif error.errno == ENOENT and self.paths.mode == "v2" and not self._has(controller):
            text = NO_CGROUP.format(controller)
        elif error.errno == EBUSY and file == "memory.limit_in_bytes":
            usage = cgroup.read_number(directory, "memory.usage_in_bytes")
            peak = cgroup.read_number(directory, "memory.max_usage_in_bytes")
            text = f"unable to set memory limit to {value} (current usage: {usage}, peak usage: {peak})"
        return SettingRefused(controller, text)

    def _has(self, controller: str) -> bool:
        """Whether this v2 cgroup has a controller's files; those of `cgroup` are everywhere."""
        try:
            listed = files.read_text(f"{self.paths.v2}/cgroup.controllers").split()
        except FileNotFoundError:
            return False
        return controller in ("cgroup", *listed)

    def check_usage(self, memory: Memory) -> None:
        """`checkBeforeUpdate`: raises Internal, in runc's words, for a v2 limit below what is used, which would kill.

        v1's kernel refuses such a limit by itself.
        """
        if not memory.check_before_update or self.paths.mode != "v2":
            return
        usage = cgroup.read_number(self.paths.v2, "memory.current")
        for name, limit in (("memory+swap", memory.swap or 0), ("memory", memory.limit or 0)):
            if 0 < limit <= usage:
                raise Internal(f"rejecting {name} limit {limit} <= usage {usage}")

    def delegate(self, uid: int) -> None:
        """Hands a v2 cgroup to a user of the host, but not its limits (config-linux.md, "Cgroup ownership")."""
        try:
            names = files.read_text(DELEGATE).split()
        except FileNotFoundError:
            names = ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"]
        try:
            posix.chown(self.paths.v2, uid, -1)
        except OSError as error:
            if error.errno not in (EPERM, EINVAL):
                raise
            return  # not ours to give away, or to somebody whom this user namespace does not know
        for name in names:
            try:
                posix.chown(f"{self.paths.v2}/{name}", uid, -1)
            except FileNotFoundError:
                continue

    # looking

    def check_there(self, work: str) -> None:
        """Raises FailedPrecondition for a container that got no cgroup at all (rootless), by which it could be done."""
        if not self.paths.directories():
            raise FailedPrecondition(f"cannot {work}: cgroups not configured for container")

    def pids(self) -> list[int]:
        """Every process of the container, in no order."""
        directory = self._members()
        return cgroup.pids(directory) if directory and files.exists(directory) else []

    def counters(self) -> Counters:
        """The counters, to be read after the last process died and before `remove`."""
        paths = self.paths
        pids = paths.directory("pids")
        memory = paths.directory("memory")
        file = "memory.events" if paths.mode == "v2" else "memory.oom_control"
        return Counters(
            cgroup.read_numbers(memory, file).get("oom_kill", 0) if memory else 0,
            cgroup.read_numbers(pids, "pids.events").get("max", 0) if pids else 0,
        )

    def stats(self) -> dict[str, object]:
        """One sample of every controller (`corten.runtime.cgroup_stats` tells its shape)."""
        from corten.runtime import cgroup_stats

        return cgroup_stats.sample(self.paths)

    def is_frozen(self) -> bool:
        """Whether somebody asked for the container to be frozen and has not thawed it."""
        directory, file = self._freezer()
        if not directory:
            return False
        try:
            return files.read_text(f"{directory}/{file}").strip() in ("1", "FROZEN", "FREEZING")
        except OSError as error:
            if error.errno not in cgroup.GONE:
                raise
            return False

    # acting

    def freeze(self) -> None:
        """Stops every process; returns when all are stopped; raises Internal after ten seconds, with all let go."""
        try:
            self._set_frozen(True)
        except Internal:
            directory, file = self._freezer()
            _restore((directory, file), [STATES[file][False]])  # one that does not stop leaves the others stopped
            raise

    def thaw(self) -> None:
        """Lets a frozen container go on."""
        self._set_frozen(False)

    def kill_all(self) -> None:
        """SIGKILL to every process, those that fork meanwhile included; returns when the signals are sent."""
        if self.paths.v2 and files.exists(f"{self.paths.v2}/{KILL}"):
            try:
                cgroup.write(self.paths.v2, KILL, "1")
            except cgroup.Refused as error:
                if error.errno not in cgroup.GONE:  # systemd removed it meanwhile
                    raise
        elif files.exists(self._members()):
            self._kill_one_by_one()

    def kill_strays(self) -> None:
        """SIGKILL to launchers that are in some v1 directories and not yet where `kill_all` looks: v2, or `pids`."""
        for names, directory in self.paths.v1.items():
            _signal_each(Cgroup(CgroupPaths("v1", {names: directory}, "")).pids, SIGKILL)

    def signal_all(self, signum: int) -> None:
        """A signal to every process; one that is gone meanwhile is passed over."""
        if signum == SIGKILL:
            self.kill_all()
        else:
            _signal_each(self.pids, signum)

    def remove(self) -> None:
        """Removes every directory; waits up to two seconds for tasks on their way out, then raises Internal."""
        for directory in self.paths.directories():
            cgroup.remove(directory)

    # inside

    def _members(self) -> str:
        """The directory whose processes are the container's."""
        return self.paths.v2 or self.paths.directory("pids") or next(iter(self.paths.v1.values()), "")

    def _freezer(self) -> tuple[str, str]:
        if self.paths.v2:
            return self.paths.v2, FREEZE
        return self.paths.directory("freezer"), V1_FREEZER_STATE

    def _set_frozen(self, frozen: bool) -> None:
        self.check_there("toggle freezer")
        directory, file = self._freezer()
        if not directory:
            raise FailedPrecondition("the host has no freezer cgroup")
        value = STATES[file][frozen]
        deadline = time.monotonic() + FREEZE_TIMEOUT_S
        while True:
            cgroup.write(directory, file, value)  # v1: a fork during the freeze needs it again
            if self._freeze_settled(directory, file, value):
                return
            if time.monotonic() > deadline:
                raise Internal(f"{directory}: not {'frozen' if frozen else 'thawed'} after {FREEZE_TIMEOUT_S:.0f} s")
            time.sleep(POLL_S)

    def _freeze_settled(self, directory: str, file: str, value: str) -> bool:
        if file == V1_FREEZER_STATE:
            return files.read_text(f"{directory}/{file}").strip() == value
        events = cgroup.read_numbers(directory, EVENTS)
        return value == "0" or not events.get("populated") or events.get("frozen") == 1

    def _kill_one_by_one(self) -> None:
        """Plain v1: freeze, so that nothing forks away from the list, kill, thaw; until nobody is left.
        What the kernel does not freeze, in the middle of I/O, is signalled as it is listed, in a time of its own."""
        deadline = time.monotonic() + KILL_TIMEOUT_S
        freezes = bool(self._freezer()[0])
        while self.pids() and time.monotonic() < deadline:
            if freezes and not self._stands_still():
                freezes, deadline = False, time.monotonic() + KILL_TIMEOUT_S
            if freezes:
                for pid in self.pids():  # again: what is frozen can neither fork nor end: no number changes hands
                    _kill(pid)
                self.thaw()
            else:
                _signal_each(self.pids, SIGKILL)
            time.sleep(POLL_S)

    def _stands_still(self) -> bool:
        try:
            self.freeze()
        except Internal:
            return False
        return True


def _kill(pid: int) -> None:
    """SIGKILL; 0 stands for a process that this pid namespace does not see, and would be this one's group."""
    try:
        if pid:
            posix.kill(pid, SIGKILL)
    except ProcessLookupError:
        return


def _signal_each(pids: Callable[[], list[int]], signum: int) -> None:
    """A signal to every process that is listed and that this pid namespace sees (the others are listed as 0)."""
    from corten.runtime import fast

    for pid in filter(None, pids()):
        try:
            pidfd = posix.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if pid in pids():  # else the number went to somebody else's process meanwhile
                fast.pidfd_send_signal(pidfd, signum)
        except ProcessLookupError:
            pass
        finally:
            posix.close(pidfd)


def _inherit_cpuset(directory: str, file: str) -> str:
    """A v1 cpuset takes no task before it has cpus and memory nodes, and a new one has none (cpuset(7)).

    Those above may have none either, when whoever made them was killed, or is at it right now; the root has all.
    """
    value = files.read_text(f"{directory}/{file}").strip()
    if not value:
        value = _inherit_cpuset(files.parent(directory), file)
        cgroup.write(directory, file, value)
    return value


def _restore(place: tuple[str, str], lines: list[str]) -> None:
    """Writes what a file showed, an empty one as an empty line; what failed before is told, and not what fails here."""
    try:
        cgroup.write_each(*place, lines or ["\n"])
    except cgroup.Refused:
        return


def _enable_controllers(mount: str, directory: str) -> None:
    """Hands every controller down from the root to the parent of `directory`.

    A cgroup with processes of its own refuses (EBUSY): then the container has no files of that controller, and
    a limit that needs them says so.
    """
    place = mount
    for name in directory[len(mount) :].strip("/").split("/"):
        wanted = files.read(f"{place}/cgroup.controllers").split()
        present = files.read(f"{place}/cgroup.subtree_control").split()
        for controller in wanted:
            if controller not in present:
                try:
                    files.write(f"{place}/cgroup.subtree_control", f"+{controller.decode()}")
                except OSError as error:
                    if error.errno not in (cgroup.EBUSY, cgroup.EOPNOTSUPP, cgroup.ENOENT, EPERM, EACCES):
                        raise Internal(f"enable {controller.decode()} in {place}: {files.why(error)}") from error
        place = f"{place}/{name}"
        if place != directory:
            files.make_directories(place)
