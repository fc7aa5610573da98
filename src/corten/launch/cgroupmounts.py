"""The cgroups that a container sees: mounts of the types `cgroup` and `cgroup2` (runtime-spec config.md, "Mounts").

v1: a tmpfs with a directory for each hierarchy, into which the container's own cgroup is bound; with links for the
controllers that share one, as on the host.  v2: a cgroup2 of its own, or the host's where it may not mount one.
"""

from __future__ import annotations

from corten.launch.facts import is_rootless
from corten.launch.mountops import (
    DIRECTORY,
    GUARDED,
    MOUNT_ATTR_RDONLY,
    MS_PRIVATE,
    FsMount,
    MountSetattr,
    MoveMount,
    OpenTree,
    Symlink,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.launch.builder import Builder
    from corten.launch.context import InitContext
    from corten.launch.filesystem import Entry


def is_v1(b: Builder, entry: Entry) -> bool:
    """The entry is for the hierarchies of cgroup v1."""
    return entry.mount.type == "cgroup" and b.facts.cgroup_mode != "v2"


def is_v2(b: Builder, entry: Entry) -> bool:
    """The entry is for cgroup2, which `cgroup` means as well where there is nothing else."""
    return entry.mount.type == "cgroup2" or (entry.mount.type == "cgroup" and b.facts.cgroup_mode == "v2")


def are_below(b: Builder, path: str) -> bool:
    """The host has cgroups at a path, absolute and without `..`, or below it."""
    above = f"{path.rstrip('/')}/"
    points = (*b.facts.cgroup_v1.values(), b.facts.cgroup_v2_mount)
    return any(f"{point}/".startswith(above) for point in points if point)


def settle_v2(b: Builder, context: InitContext, entry: Entry, *, in_userns: bool) -> None:
    """What the entry becomes: a user namespace may mount cgroup2 only with a cgroup namespace of its own.

    Else it gets the host's; and an ordinary user's container without a cgroup of its own sees, but does not write, that
    of whoever started the runtime.
    """
    if entry.options.is_bind:
        return
    if in_userns and b.config.linux.namespace("cgroup") is None:
        entry.options.is_bind = entry.options.recursive = True
        entry.source = b.facts.cgroup_v2_mount
    elif is_rootless(b.facts) and not context.cgroup_v2_dir:
        entry.options.attr_set |= MOUNT_ATTR_RDONLY


def open_v1(b: Builder, context: InitContext, entry: Entry) -> None:
    """Each cgroup as a detached mount, before any namespace is entered; what is not the container's own, read-only."""
    for controllers, path in _seen(context).items():
        slot = b.opened(f"{entry.slot}.{controllers}")
        attrs = entry.options.attr_set | (0 if controllers in context.cgroup_paths else MOUNT_ATTR_RDONLY)
        b.add(OpenTree(slot, path, 0, entry.destination), MountSetattr(slot, attrs, 0, MS_PRIVATE, 0))


def mount_v1(b: Builder, context: InitContext, entry: Entry, *, root: str) -> None:
    """The tmpfs and what `open_v1` has opened in it, beneath the slot `root`."""
    attrs = entry.options.attr_set & ~MOUNT_ATTR_RDONLY | GUARDED  # of the tmpfs, whatever is asked for: as runc
    slot = b.opened(entry.slot)
    b.add(
        FsMount(slot, "tmpfs", ("source=tmpfs", "mode=755"), attrs, on=entry.destination),
        MoveMount(entry.slot, root, entry.destination, DIRECTORY, "tmpfs"),
    )
    for controllers, path in _seen(context).items():
        name = b.facts.cgroup_v1.get(controllers, "").rpartition("/")[2] or controllers.removeprefix("name=")
        place = f"{entry.destination}/{name}"
        b.add(MoveMount(f"{entry.slot}.{controllers}", root, place, DIRECTORY, path))
        if "," in controllers and name == controllers:
            for controller in controllers.split(","):
                b.add(Symlink(root, f"{entry.destination}/{controller}", name))


def _seen(context: InitContext) -> dict[str, str]:
    """The v1 cgroups that a container sees: its own, and what stands for those it has not got."""
    return {**context.cgroup_views, **context.cgroup_paths}
