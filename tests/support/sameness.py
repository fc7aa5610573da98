"""What a container shows of itself, in a form in which two runtimes can be compared value by value.

`LOOK` is a shell script for the container: mountinfo, status, limits and other files of /proc of the shell itself,
its descriptors, its namespaces, /dev, and every file of every cgroup.  `parse` makes a Look of what it printed: what
differs between two runs of one runtime (ids of mounts, counters, sizes in memory) is left out or named anew, nothing
else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

MARK = "@@"
OTHERS = ("oom_score_adj", "personality", "timerslack_ns", "coredump_filter")
MAPS = ("uid_map", "gid_map", "setgroups", "cgroup")
LOOK = f"""\
show() {{ echo "{MARK} $1"; shift; "$@" 2>&1; }}
for part in mountinfo status limits {" ".join((*OTHERS, *MAPS))}; do show $part cat /proc/$$/$part; done
show fd ls -l /proc/$$/fd
show ns ls -l /proc/$$/ns
show dev ls -lR /dev
show environment env
show umask umask
cd /sys/fs/cgroup 2>/dev/null && show cgroups grep -rsH '' .
echo '{MARK} end'
"""

# Counters and members of a cgroup: what moves while nothing is set.
MOVING = re.compile(
    r"(tasks|cgroup\.procs|cgroup\.threads|cgroup\.stat|cpu\.stat.*|cpuacct\..*|.*\.pressure|pids\.(current|peak|events.*)"
    r"|memory(\.kmem|\.memsw|\.kmem\.tcp)?\.(max_)?usage_in_bytes|memory\.(stat|numa_stat|current|peak|events.*)"
    r"|memory\.kmem\.slabinfo|blkio\..*_(bytes|serviced|time|queued|merged)(_recursive)?|io\.stat)"
)
# What a status says of the moment, and not of what the process may do.
MOMENT = re.compile(r"Vm.*|Rss.*|State|.*_ctxt_switches|Name")
SINGLE = ("devtmpfs", "cgroup", "cgroup2")
LAYERS = re.compile(r"\b(lowerdir|upperdir|workdir)=[^,]*")


class Incomplete(Exception):
    """The container did not come to the end of the look."""


@dataclass(frozen=True, slots=True)
class Look:
    """Section: key: value.  Keys are mount points, names of fields, of files, of nodes."""

    sections: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Difference:
    """One key that two looks show differently; a value is None where the key is missing."""

    section: str
    key: str
    theirs: str | None
    ours: str | None

    def __str__(self) -> str:
        return f"{self.section} {self.key}:\n    theirs {self.theirs}\n    ours   {self.ours}"


@dataclass(frozen=True, slots=True)
class Known:
    """A difference that docs/runtime-compatibility.md explains in the row `row`; the patterns match whole texts."""

    row: str
    section: str
    key: str
    theirs: str
    ours: str

    def covers(self, found: Difference) -> bool:
        """Whether `found` is the difference that is meant."""
        texts = ((self.key, found.key), (self.theirs, str(found.theirs)), (self.ours, str(found.ours)))
        return self.section == found.section and all(re.fullmatch(pattern, text) for pattern, text in texts)


def differences(theirs: Look, ours: Look) -> list[Difference]:
    """Everything that `ours` shows in another way than `theirs`."""
    found = []
    for section in sorted({*theirs.sections, *ours.sections}):
        left, right = theirs.sections.get(section, {}), ours.sections.get(section, {})
        for key in sorted({*left, *right}):
            if left.get(key) != right.get(key):
                found.append(Difference(section, key, left.get(key), right.get(key)))
    return found


def unexplained(found: Iterable[Difference], known: Sequence[Known]) -> list[str]:
    """The differences that no row explains, as text."""
    return [str(one) for one in found if not any(row.covers(one) for row in known)]


def rows_seen(found: Iterable[Difference], known: Sequence[Known]) -> set[str]:
    """The rows of `known` of which `found` has an instance."""
    return {row.row for one in found for row in known if row.covers(one)}


def parse(text: str, words: Mapping[str, str]) -> Look:
    """The look that `LOOK` printed; `words` replaces what names one container alone, such as its id."""
    parts: dict[str, list[str]] = {}
    lines: list[str] = []  # what comes before the look
    for line in text.replace("\r", "").splitlines():
        if line.startswith(MARK):
            lines = parts.setdefault(line.removeprefix(MARK).strip(), [])
        else:
            lines.append(_replaced(line, words))
    if "end" not in parts:
        raise Incomplete(f"the look is not complete: {text[-500:]}")
    return Look({name: READERS.get(name, _whole)(lines) for name, lines in parts.items() if name != "end"})


def _replaced(line: str, words: Mapping[str, str]) -> str:
    for word, name in words.items():
        line = line.replace(word, name)
    return line


def _whole(lines: Sequence[str]) -> dict[str, str]:
    return {"": "\n".join(sorted(lines))}


def _mounts(lines: Sequence[str]) -> dict[str, str]:
    """mount point: the mount below which it lies, file system, root in it, options, propagation (proc(5), mountinfo).

    A file system without a device is named after the first mount point at which it is, unless there is only one.
    """
    rows = [line.split(" ") for line in lines]
    points = {row[0]: row[4] for row in rows}
    names: dict[str, str] = {}
    found: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: row[4]):
        parent, device, root, point, options = row[1:6]
        end = row.index("-")
        kind, source, own = row[end + 1 : end + 4]
        has_number = not device.startswith("0:") or kind in SINGLE
        where = device if has_number else names.setdefault(device, f"that of {point}")
        propagation = " ".join(sorted(field.partition(":")[0] for field in row[6:end])) or "private"
        text = f"{kind} {source} ({where}) {root} below {points.get(parent, 'nothing')}: {options}; {propagation}; "
        while point in found:
            point += " again"
        found[point] = text + LAYERS.sub(r"\1", own).replace(",uuid=on", "")
    return found


def _status(lines: Sequence[str]) -> dict[str, str]:
    """The fields of proc(5), status, with the process's own pid called `self`."""
    fields = dict(line.split(":", 1) for line in lines)
    own = fields["Pid"].strip()
    found = {}
    for name, value in fields.items():
        if not MOMENT.fullmatch(name):
            is_pid = name.endswith("id") and name not in {"Uid", "Gid"}
            found[name] = " ".join("self" if is_pid and word == own else word for word in value.split())
    if found["PPid"] != "0":  # a process of the host
        found["PPid"] = "other"
    found["SigQ"] = found["SigQ"].partition("/")[2]  # signals that are queued, of how many
    return found


def _limits(lines: Sequence[str]) -> dict[str, str]:
    return {line[:26].strip(): " ".join(line[26:].split()) for line in lines}


def _links(lines: Sequence[str]) -> dict[str, str]:
    """descriptor: its mode and what it leads to, without the number of a pipe or socket."""
    found = {}
    for words in (line.split() for line in lines if " -> " in line):
        found[words[8]] = f"{words[0]} {re.sub(r'[0-9]+', 'N', words[10])}"
    return found


def _namespaces(lines: Sequence[str]) -> dict[str, str]:
    """kind: whether it is the one of this process."""
    found = {}
    for words in (line.split() for line in lines if " -> " in line):
        kind, inode = words[8], words[10]
        found[kind] = "host" if os.readlink(f"/proc/self/ns/{kind}") == inode else "own"
    return found


def _nodes(lines: Sequence[str]) -> dict[str, str]:
    """path below /dev: mode, owner, group, device number or target."""
    found, folder = {}, "/dev"
    for line in lines:
        words = line.split()
        if line.endswith(":"):
            folder = line.removesuffix(":")
        elif words and words[0] != "total":
            name = re.search(r":\d\d (.+)$|  \d{4} (.+)$", line)
            assert name, line
            numbers = " ".join(words[4:6]) if words[0][0] in "cb" else ""
            path, _, target = (name[1] or name[2]).partition(" -> ")
            if not re.fullmatch(r"/dev/pts/\d+", f"{folder}/{path}"):  # of other terminals, as they come and go
                found[f"{folder}/{path}"] = " ".join(filter(None, (words[0], words[2], words[3], numbers, target)))
    return found


def _cgroups(lines: Sequence[str]) -> dict[str, str]:
    """controller/file: its lines in order, but for what moves by itself."""
    found: dict[str, list[str]] = {}
    for line in lines:
        path, _, value = line.removeprefix("./").partition(":")
        if path.count("/") == 1 and not MOVING.fullmatch(path.rpartition("/")[2]):  # what lies deeper is of others
            found.setdefault(path, []).append(value)
    return {path: "|".join(sorted(values)) for path, values in found.items()}


READERS = {
    "mountinfo": _mounts,
    "status": _status,
    "limits": _limits,
    "fd": _links,
    "ns": _namespaces,
    "dev": _nodes,
    "cgroups": _cgroups,
}
