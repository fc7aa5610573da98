"""BPF programs with a name that the kernel has; what keeps one is a pin, a link or a descriptor."""

from __future__ import annotations

from support import bpfprograms
from support.leaks.facts import Fact, Facts


def read() -> Facts:
    """One fact per name; those of devices on cgroup v2 have none, and go with their cgroups."""
    facts = Facts()
    for name in filter(None, bpfprograms.names()):
        facts.add(Fact("bpf program", "the kernel", name))
    return facts
