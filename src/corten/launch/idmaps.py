"""User namespaces for id-mapped mounts, while a plan is made (runtime-spec config.md, "Mounts", `idmap`)."""

from __future__ import annotations

from corten.errors import InvalidArgument
from corten.launch.enter import IDMAP_SLOTS, host_proc, id_map
from corten.launch.nsops import MakeUserNamespace
from corten.launch.ops import O_NONBLOCK, Open

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.launch.builder import Builder
    from corten.spec.runtime import Mount


def namespace_of(b: Builder, mount: Mount) -> str:
    """The slot of a user namespace with the mappings of a mount: its own, else the container's.

    Mounts with the same mappings share one.  `Filesystem.open_sources` closes them.
    """
    user = b.config.linux.namespace("user")
    uids, gids = mount.uid_mappings, mount.gid_mappings
    if not uids:
        if user is None:
            raise InvalidArgument(
                f"mount {mount.destination}: idmap without mappings needs a container with a user namespace"
            )
        if user.path:
            return _joined(b, user.path)
        uids, gids = b.config.linux.uid_mappings, b.config.linux.gid_mappings
    maps = id_map(uids), id_map(gids)
    made = [op for op in b.ops if isinstance(op, MakeUserNamespace)]
    for op in made:
        if (op.uid_map, op.gid_map) == maps:
            return op.slot
    proc = host_proc(b)
    slot = b.opened(f"{IDMAP_SLOTS}{len(made)}")
    b.add(MakeUserNamespace(slot, proc, *maps))
    return slot


def _joined(b: Builder, path: str) -> str:
    slot = f"{IDMAP_SLOTS}joined"
    if slot not in b.open:
        b.add(Open(b.opened(slot), path, O_NONBLOCK))
    return slot
