"""The manager by systemd (`--systemd-cgroup`): a container's cgroup is that of a transient scope unit.

    launch   the launcher waits on `unit`; StartTransientUnit makes the scope around it, JobRemoved tells that it is
             there; limits go to the unit and to the files; then the launcher clones the init, in the scope
    update   to the unit (`systemctl daemon-reload` writes its idea again), then to the files
    remove   Stop and ResetFailed of that life of the unit which is the container's, then the directory

The first process of the scope is the launcher, so that there is no other one to wait for.  A scope whose last process
ends is removed by systemd itself: whatever is killed at whatever moment, nothing is left.  Its name is then free for
somebody else, whose unit must not be stopped, nor its processes killed, in the container's stead: the record holds the
invocation id that systemd gave the scope (systemd.exec(5), "$INVOCATION_ID").
"""

from __future__ import annotations

import time

from corten.errors import FailedPrecondition, Internal, InvalidArgument, Unavailable
from corten.launch.facts import is_rootless
from corten.runtime import fast, managers, unitproperties
from corten.runtime.cgroups import Cgroup, CgroupPaths
from corten.sys import dbus, files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.launch.facts import HostFacts
    from corten.runtime.launching import Creation
    from corten.runtime.prepare import Prepared
    from corten.runtime.state import State
    from corten.runtime.unitproperties import Property
    from corten.spec.resources import Resources

DESTINATION, PATH = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
INTERFACE = "org.freedesktop.systemd1.Manager"
UNIT, PROPERTIES = "org.freedesktop.systemd1.Unit", "org.freedesktop.DBus.Properties"
PRIVATE, BUS = "/run/systemd/private", "/run/dbus/system_bus_socket"
MATCH = f"type='signal',sender='{DESTINATION}',interface='{INTERFACE}',member='JobRemoved',path='{PATH}'"
EXISTS, GONE = "org.freedesktop.systemd1.UnitExists", "org.freedesktop.systemd1.NoSuchUnit"
OVER = (GONE, "org.freedesktop.systemd1.NoUnitForInvocationID", "org.freedesktop.DBus.Error.UnknownObject")
REPLACE = "replace"
RUNNING = "/run/systemd/system"  # sd_booted(3)
POLL_S = 0.01
UNSEEN_S = 2.0
NOBODYS = CgroupPaths("v2", {}, "")
NOT_HYBRID = "the systemd cgroup manager needs cgroup v2: use cgroupfs"
NOT_A_USER = "the systemd cgroup manager is for the machine's root: use cgroupfs, with a delegated cgroup for limits"
UNSUPPORTED = "systemd not running on this host, cannot use systemd cgroups manager"  # runc's words


class Session:
    """A conversation with systemd: its private socket, which needs no bus, or the system's bus."""

    __slots__ = ("connection",)

    def __init__(self, private: str = PRIVATE, bus: str = BUS) -> None:
        path = private if files.exists(private) else bus
        try:
            self.connection = dbus.Connection(fast.connect_in_time(path))
        except OSError as error:
            raise Unavailable(f"systemd cgroup manager: {path}: {files.why(error)}") from error
        try:
            self.connection.authenticate()
            if path == bus:
                self.connection.hello()
                self.connection.call(*dbus.BUS, "AddMatch", "s", [MATCH])
                self._call("Subscribe")
        except BaseException:
            self.connection.close()
            raise

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *reason: object) -> None:
        self.connection.close()

    def start(self, unit: str, properties: list[Property]) -> None:
        """Makes a transient unit, and waits until it is there; one that failed before is taken away first."""
        arguments: tuple[object, ...] = (unit, REPLACE, properties, [])
        try:
            job = self._call("StartTransientUnit", "ssa(sv)a(sa(sv))", arguments)
        except dbus.BusError as error:
            if error.name != EXISTS:
                raise
            self.reset_failed(unit)
            job = self._call("StartTransientUnit", "ssa(sv)a(sa(sv))", arguments)
        result = self._finished(job[0])
        if result != "done":
            self.reset_failed(unit)
            raise Internal(f"unable to start unit {unit} (properties {names(properties)}): result {result}")

    def invocation(self, unit: str) -> str:
        """The id of the present life of a unit, in hexadecimal."""
        path = str(self._call("GetUnit", "s", (unit,))[0])
        (variant,) = self.connection.call(DESTINATION, path, PROPERTIES, "Get", "ss", (UNIT, "InvocationID"))
        assert isinstance(variant, tuple)
        return bytes(variant[1]).hex()

    def is_others(self, unit: str, invocation: str) -> bool:
        """Whether a unit is there that is not this life of it."""
        try:
            return self.invocation(unit) != invocation
        except dbus.BusError as error:
            if error.name not in OVER:
                raise
            return False

    def stop(self, invocation: str) -> None:
        """Stops one life of a unit and forgets it; one that is over is fine, whoever has the unit's name by now."""
        try:
            # the path that is answered leads to this invocation or nowhere
            path = str(self._call("GetUnitByInvocationID", "ay", (bytes.fromhex(invocation),))[0])
            self._finished(self.connection.call(DESTINATION, path, UNIT, "Stop", "s", (REPLACE,))[0])
            self.connection.call(DESTINATION, path, UNIT, "ResetFailed")
        except dbus.BusError as error:
            if error.name not in OVER:
                raise

    def stop_empty(self, unit: str) -> None:
        """Stops and forgets a unit in which nobody is; one that is gone is fine."""
        self.reset_failed(unit)
        try:
            invocation = self.invocation(unit)
        except dbus.BusError as error:
            if error.name not in OVER:
                raise
            return
        if invocation:  # an empty one would mean the unit that this process is in
            self.stop(invocation)

    def reset_failed(self, unit: str) -> None:
        """Forgets that a unit failed; one that is gone is fine."""
        try:
            self._call("ResetFailedUnit", "s", (unit,))
        except dbus.BusError as error:
            if error.name != GONE:
                raise

    def set(self, unit: str, properties: list[Property]) -> None:
        """Changes properties until the unit's end."""
        if properties:
            self._call("SetUnitProperties", "sba(sv)", (unit, True, properties))

    def _call(self, member: str, signature: str = "", values: tuple[object, ...] = ()) -> list[object]:
        return list(self.connection.call(DESTINATION, PATH, INTERFACE, member, signature, values))

    def _finished(self, job: object) -> str:
        """How a job ended: JobRemoved(id, job, unit, result)."""

        def wanted(message: dbus.Message) -> bool:
            is_it = message.fields.get(dbus.MEMBER) == "JobRemoved" and message.fields.get(dbus.INTERFACE) == INTERFACE
            return is_it and len(message.body) == 4 and message.body[1] == job

        return str(self.connection.wait_signal(wanted).body[3])


def names(properties: list[Property]) -> str:
    """The properties' names, for an error."""
    return ", ".join(name for name, _ in properties)


class Systemd(managers.Manager):
    """The manager by scopes; `unit` of a container's state is the name."""

    starts_unit = True

    def paths(self, facts: HostFacts, cgroups_path: str, id: str) -> CgroupPaths:
        """The scope's directory, which systemd will make; raises where it is not the machine's init."""
        unit = unitproperties.unit_of(cgroups_path, id)
        if not files.is_directory(RUNNING):
            raise InvalidArgument(UNSUPPORTED)
        if facts.cgroup_mode != "v2":
            raise FailedPrecondition(NOT_HYBRID)
        if is_rootless(facts):
            raise FailedPrecondition(NOT_A_USER)
        directory = facts.cgroup_v2_mount + unit.path
        return CgroupPaths("v2", {}, directory, facts.cgroup_v2_mount)

    def unit(self, cgroups_path: str, id: str) -> str:
        """The name of the scope."""
        return unitproperties.unit_of(cgroups_path, id).name

    def make(self, prepared: Prepared) -> None:
        """Nothing: a scope is made around a process."""

    def start_unit(self, making: Creation, launcher_pid: int) -> None:
        """The scope around the launcher, with its limits; the limit of one process comes with `settle`."""
        prepared, state = making.prepared, making.state
        config, limit = prepared.config, prepared.pids_limit
        unit = unitproperties.unit_of(config.linux.cgroups_path, state.id)
        properties = unitproperties.of_scope(unit, state.id, launcher_pid)
        properties += unitproperties.of_resources(config.linux.resources, 2 if limit == 1 else limit)
        given = unitproperties.of_annotations(config.annotations)
        overridden = {name for name, _ in given}
        properties = [row for row in properties if row[0] not in overridden] + given
        try:
            with Session() as session:
                session.start(unit.name, properties)
                state.invocation = session.invocation(unit.name)
            state.save()  # before the launcher goes on: one without a creator ends, and its scope with it
            self._check_place(prepared.paths, launcher_pid)
        except (Internal, Unavailable) as error:
            if isinstance(error, dbus.BusError) and error.name == EXISTS:
                self._forget(making)
            raise Internal(f"{managers.APPLY}: {error}") from error
        settings = [one for one in prepared.settings if not (limit == 1 and one.choices[0][0] == "pids.max")]
        managers.limit(prepared, settings)

    def settle(self, making: Creation) -> None:
        """The launcher is gone, the init waits: now one process can be the limit."""
        if making.prepared.pids_limit != 1:
            return
        with Session() as session:
            session.set(making.state.unit, [("TasksMax", ("t", 1))])
        managers.limit(making.prepared, [one for one in making.prepared.settings if one.choices[0][0] == "pids.max"])

    def update(self, state: State, resources: Resources) -> None:
        """To the unit, then to the files."""
        group = Cgroup(state.cgroup)
        group.check_usage(resources.memory)
        resources = group.completed(resources)
        properties = unitproperties.of_resources(resources, resources.pids_limit)
        with Session() as session:
            session.set(state.unit, properties)
        super().update(state, resources)

    def group(self, state: State) -> Cgroup:
        """The scope's, or nobody's when that is over and its name another unit's."""
        if not state.unit:
            return Cgroup(state.cgroup)
        with Session() as session:
            return Cgroup(NOBODYS if session.is_others(state.unit, state.invocation) else state.cgroup)

    def remove(self, state: State) -> None:
        """Stops the unit; what systemd leaves of the directory goes as well."""
        if not state.unit:
            return
        with Session() as session:
            if state.invocation:
                session.stop(state.invocation)
            else:
                self._stop_unseen(session, state)
            is_others = session.is_others(state.unit, state.invocation)
        if not is_others:
            Cgroup(state.cgroup).remove()

    def _stop_unseen(self, session: Session, state: State) -> None:
        """Its creator was killed before the record had its invocation.  A launcher without a creator ends; where that
        was too early, systemd keeps the scope.  A unit in which somebody stays is not the container's."""
        group, deadline = Cgroup(state.cgroup), time.monotonic() + UNSEEN_S
        while group.pids():
            if time.monotonic() >= deadline:
                return
            time.sleep(POLL_S)
        session.stop_empty(state.unit)

    def _forget(self, making: Creation) -> None:
        """The unit is somebody else's: whoever undoes this must not touch it."""
        making.state.unit = ""
        making.state.cgroup = making.cgroup.paths = NOBODYS
        making.state.save()

    def _check_place(self, paths: CgroupPaths, pid: int) -> None:
        """systemd put the launcher where the record says; anything else would be limited and killed in its stead."""
        for line in files.read_text(f"/proc/{pid}/cgroup").splitlines():
            if line.startswith("0::") and paths.mount + line[3:] == paths.v2:
                return
        raise Internal(f"systemd made the unit's cgroup elsewhere, not in {paths.v2}")
