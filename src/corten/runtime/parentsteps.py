"""What this side of a launch does while the other waits: one byte on a pipe each, in the order of the plan's waits."""

from __future__ import annotations

import posix

from corten.launch.context import LISTENER
from corten.runtime import hooks
from corten.runtime.state import CREATING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from corten.runtime.launching import Creation
    from corten.runtime.prepare import Prepared


class ParentStep:
    """Work between two steps of the plan.

    slot    the plan's input on which it waits for one byte, written when `run` has returned
    run     gets the creation and the pid of whoever waits
    early   the launcher itself waits, before there is a process of the container
    waits   False: nobody waits, `run` comes as soon as there is a process
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


def steps_of(prepared: Prepared) -> tuple[ParentStep, ...]:
    """The steps of one creation, in order."""
    steps = [ParentStep("hooks", run_hooks)] if "hooks" in prepared.plan.inputs else []
    if LISTENER in prepared.plan.inputs:
        from corten.runtime import listener  # for the few with an agent

        steps.append(listener.Step(prepared.plan))
    return tuple(steps)


def run_hooks(making: Creation, pid: int) -> None:
    """The hooks of the runtime's namespaces, prestart and createRuntime; raises the first failure in runc's words."""
    making.trace.phase("hooks")
    config = making.prepared.config
    rows = hooks.to_objs((*config.hooks.prestart, *config.hooks.create_runtime))
    making.hooks_ran = True
    hooks.run_all(rows, making.state.oci(CREATING), making.options.bundle, making.host.parent.abort_fd)
    making.trace.phase("launch")
