"""A plan while it is made: ops in order, and which descriptors are open where it stands."""

from __future__ import annotations

from corten.launch.ops import CLONE_NEWTIME, CLONE_NEWUSER, Close, Op, Plan, Wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from corten.launch.facts import HostFacts
    from corten.spec.runtime import Config

# configuration's word → clone(2) flag
NAMESPACE_FLAGS = {
    "mount": 0x00020000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "pid": 0x20000000,
    "network": 0x40000000,
    "cgroup": 0x02000000,
    "user": CLONE_NEWUSER,
    "time": CLONE_NEWTIME,
}


class Builder:
    """Collects ops.  `opened` names a descriptor that an op fills; `close_others` gives back what is not named."""

    __slots__ = ("config", "facts", "inputs", "open", "ops")

    def __init__(self, config: Config, facts: HostFacts) -> None:
        self.config = config
        self.facts = facts
        self.ops: list[Op] = []
        self.inputs: list[str] = []
        self.open: list[str] = []

    def add(self, *ops: Op) -> None:
        """Append ops."""
        self.ops.extend(ops)

    def wait(self, slot: str, why: str = "") -> None:
        """Wait for the spawner's byte, where it is to send one; `why` as in `Wait`, the slot's name without a word."""
        if slot in self.open:
            self.ops.append(Wait(slot, why or slot))

    def input(self, slot: str) -> str:
        """A descriptor that the spawner hands in."""
        self.inputs.append(slot)
        self.open.append(slot)
        return slot

    def add_inputs(self, slots: Iterable[str]) -> None:
        """Several of them, in this order."""
        for slot in slots:
            self.input(slot)

    def opened(self, slot: str) -> str:
        """A descriptor that the next op fills."""
        if slot not in self.open:
            self.open.append(slot)
        return slot

    def close(self, *slots: str) -> None:
        """Close what is open of these."""
        found = tuple(slot for slot in self.open if slot in slots)
        if found:
            self.ops.append(Close(found))
            self.open = [slot for slot in self.open if slot not in found]

    def close_others(self, *kept: str) -> None:
        """Close every descriptor of the plan but these."""
        self.close(*[slot for slot in self.open if slot not in kept])

    def new_flags(self) -> int:
        """clone(2) flags of the namespaces that the configuration asks to be made."""
        return self._flags(False)

    def joined_flags(self) -> int:
        """clone(2) flags of the namespaces that the configuration names by path."""
        return self._flags(True)

    def plan(self, preserve_fds: int) -> Plan:
        """The finished plan."""
        return Plan(tuple(self.ops), tuple(self.inputs), preserve_fds)

    def _flags(self, joined: bool) -> int:
        flags = 0
        for entry in self.config.linux.namespaces:
            if bool(entry.path) == joined:
                flags |= NAMESPACE_FLAGS[entry.type]
        return flags
