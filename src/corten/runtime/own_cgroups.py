"""The cgroups that this process is in, from which a container's path counts when it does not begin with a slash."""

from __future__ import annotations

from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.launch.facts import HostFacts


def parents(facts: HostFacts) -> dict[str, str]:
    """Controller list → the directory below which a container's cgroup is made, as in runc; '' is cgroup2's.

    v1   the process's own
    v2   the one above: one's own has processes, so that no controller could be handed down from it
    """
    found = own_directories(facts)
    if facts.cgroup_v2_mount and found[""] != facts.cgroup_v2_mount:
        found[""] = files.parent(found[""])
    return found


def own_directories(facts: HostFacts) -> dict[str, str]:
    """Controller list → directory of this process's own cgroup; '' is cgroup2's (cgroups(7))."""
    return directories(
        {**facts.cgroup_v1, **({"": facts.cgroup_v2_mount} if facts.cgroup_v2_mount else {})},
        files.read_text("/proc/self/cgroup"),
        files.read_text("/proc/self/mountinfo"),
    )


def directories(mounts: dict[str, str], cgroup: str, mountinfo: str) -> dict[str, str]:
    """The directories by what the two files of /proc say; a mount may show a part of its hierarchy alone."""
    roots = {}
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        roots[fields[4]] = fields[3].rstrip("/")
    own = {}
    for line in cgroup.splitlines():
        _, names, path = line.split(":", 2)
        own[names] = path
    found = {}
    for names, mount in mounts.items():
        root, path = roots.get(mount, ""), own.get(names, "/")
        is_seen = f"{path}/".startswith(f"{root}/") and "/.." not in path  # nor is what lies above a namespace's root
        found[names] = f"{mount}{path[len(root) :] if is_seen else ''}".rstrip("/")
    return found
