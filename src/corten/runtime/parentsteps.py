"""What this side of a launch does while the other waits: one byte on a pipe each, in the order of the plan's waits."""

from __future__ import annotations

import posix

from corten.launch.context import LISTENER
from corten.launch.ops import Wait, WaitByte
from corten.runtime import hooks, managers
from corten.runtime.state import CREATING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from corten.launch.ops import Plan
    from corten.runtime.launching import Creation
    from corten.runtime.prepare import Prepared


class ParentStep:
    """Work between two steps of the plan.

    slot    the plan's input on which it waits for one byte, written when `run` has returned
    run     gets the creation and the pid of whoever waits
    early   the launcher itself waits, before there is a process of the container
    waits   False: nobody says that he waits, `run` comes as soon as there is a process, or, if `early`, a launcher
    """

    __slots__ = ("early", "run", "slot", "waits")

    def __init__(
        self, slot: str, run: Callable[[Creation, int], None], *, early: bool = False, waits: bool = True
    ) -> None:
        self.slot = slot
        self.run = run
        self.early = early
        self.waits = waits

    def open(self) -> tuple[int, int]:
        """The slot's descriptor and this side's: a pipe, unless there is more to say than one byte."""
        return posix.pipe()


class PatientStep(ParentStep):
    """A step that moves what the kernel takes along with the init: who waits goes on waiting when this side is killed.

    So `delete` finds it, and takes back what would be lost.
    """

    __slots__ = ()

    def open(self) -> tuple[int, int]:
        """A pipe that is never at its end: who reads may write to it as well (pipe(7))."""
        read, write = posix.pipe()
        try:
            return posix.open(f"/proc/self/fd/{read}", posix.O_RDWR | posix.O_CLOEXEC), write
        finally:
            posix.close(read)


class Change:
    """Something that a step did to the machine: taken back when the creation fails, else left as it is."""

    __slots__ = ()

    def undo(self) -> list[str]:
        """Takes it back, while the container's namespaces are there; a sentence for each thing that had to stay."""
        return []

    def settle(self) -> None:
        """The container exists."""


def steps_of(prepared: Prepared) -> tuple[ParentStep, ...]:
    """The steps of one creation, in order."""
    steps = []
    if "unit" in prepared.plan.inputs:
        steps.append(ParentStep("unit", start_unit, early=True, waits=False))
    if "idmaps" in prepared.plan.inputs:
        from corten.runtime import idmaps

        steps.append(ParentStep("idmaps", idmaps.run))
    if "record" in prepared.plan.inputs:
        steps.append(ParentStep("record", settle))
    if "hooks" in prepared.plan.inputs:
        kind = PatientStep if prepared.config.linux.net_devices else ParentStep
        early = _waits(prepared.plan)["hooks"] < prepared.plan.clone_index()
        steps.append(kind("hooks", furnish, early=early))
    if LISTENER in prepared.plan.inputs:
        from corten.runtime import listener  # for the few with an agent

        steps.append(listener.Step(prepared.plan))
    if len(steps) > 1:
        waits = _waits(prepared.plan)
        steps.sort(key=lambda step: waits.get(step.slot, len(prepared.plan.ops)))
    return tuple(steps)


def _waits(plan: Plan) -> dict[str, int]:
    """Where the plan waits for a slot's byte."""
    return {op.slot: i for i, op in enumerate(plan.ops) if isinstance(op, Wait | WaitByte)}


def start_unit(making: Creation, launcher_pid: int) -> None:
    """The cgroup's unit, whose first process is the launcher."""
    making.trace.phase("cgroup")
    managers.of(making.state).start_unit(making, launcher_pid)
    making.trace.phase("launch")


def settle(making: Creation, pid: int) -> None:
    """The limit of processes, which had to leave room for the launcher; the init is on record."""
    managers.of(making.state).settle(making)


def furnish(making: Creation, pid: int) -> None:
    """Network devices, the class of resource control, the hooks of the runtime's namespaces."""
    linux = making.prepared.config.linux
    if linux.net_devices:
        from corten.runtime import netdevices

        netdevices.run(making, pid)
    if linux.intel_rdt is not None:
        from corten.runtime import rdt

        rdt.run(making, pid)
    run_hooks(making, pid)


def run_hooks(making: Creation, pid: int) -> None:
    """The hooks of the runtime's namespaces, prestart and createRuntime; raises the first failure in runc's words."""
    config = making.prepared.config
    if not (config.hooks.prestart or config.hooks.create_runtime):
        return
    making.trace.phase("hooks")
    rows = hooks.to_objs((*config.hooks.prestart, *config.hooks.create_runtime))
    making.hooks_ran = True
    hooks.run_all(rows, making.state.oci(CREATING), making.options.bundle, making.host.parent.abort_fd)
    making.trace.phase("launch")
