"""The differences between corten-runtime and Debian's runc that docs/runtime-compatibility.md explains."""

from __future__ import annotations

from collections.abc import Sequence

from support import sameness
from support.sameness import Difference, Known, Look

# Those that a container shows of itself.  `row` is the first cell of the page's table.
EMPTY = r"tmpfs tmpfs \(that of /(proc|sys)/.*\) / below .*: ro,relatime; (private|master); ro(,uid=\d+,gid=\d+)?"
KNOWN = (
    Known(
        row="group of /dev/mqueue",
        section="dev",
        key="/dev/mqueue",
        theirs="drwxrwxrwt root nogroup",
        ours="drwxrwxrwt root root",
    ),
    Known(row="masked directories", section="mountinfo", key=r"/(proc|sys)/.*", theirs=EMPTY, ours=EMPTY),
    # of the signals that programs of glibc cannot set (32, 33) or Go leaves alone (34); whoever starts the engine may
    Known(
        row="ignored signals",
        section="status",
        key="SigIgn",
        theirs=r"0{7}([1-3][08]|08)[0-9a-f]{7}",
        ours=r"0{9}[0-9a-f]{7}",
    ),
    Known(row="table of descriptors", section="status", key="FDSize", theirs="64|128", ours="64|128|256"),
    Known(row="pids limit", section="cgroups", key=r"pids/pids\.max", theirs="max", ours="500"),
    Known(
        row="views of the cgroups",
        section="mountinfo",
        key=r"/sys/fs/cgroup/.*",
        theirs=r"cgroup (cgroup|systemd) .*; (master|private); .*",
        ours=r"cgroup cgroup .*; private; .*",
    ),
)
# Those that every container beneath dockerd shows.
ALWAYS = frozenset({"masked directories", "pids limit"})

# What a foreground `run` shows besides.
OF_RUN = (
    Known(
        row="stdio of `run`",
        section="fd",
        key="[012]",
        theirs=r"l[r-][w-]x------ pipe:\[N\]",
        ours=r"l[r-][w-]x------ .*",
    ),
)


def compare(theirs: Look, ours: Look, known: Sequence[Known] = KNOWN) -> list[Difference]:
    """The differences, all of which `known` explains: fails for every other one."""
    found = sameness.differences(theirs, ours)
    left = sameness.unexplained(found, known)
    assert not left, "not in docs/runtime-compatibility.md:\n" + "\n".join(left)
    return found
