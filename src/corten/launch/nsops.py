"""The steps of a launch plan by which a helper makes a namespace: one that holds a mapping, for id-mapped mounts, and
one in which what the host has set is locked.

On the host's side, before any namespace is entered.  See `corten.launch.ops` for what an op is.
"""

from __future__ import annotations

from corten.launch.ops import Op, errno_text


class MakeUserNamespace(Op):
    """A user namespace with these maps, by a child that ends at once; its descriptor goes to `slot`.

    `proc` is a procfs of the launcher's own pid namespace (user_namespaces(7)).
    """

    __slots__ = ("gid_map", "proc", "slot", "uid_map")
    code, form, order = 65, "ddss", ("slot", "proc", "uid_map", "gid_map")

    def __init__(self, slot: str, proc: str, uid_map: str, gid_map: str) -> None:
        self.slot = slot
        self.proc = proc
        self.uid_map = uid_map
        self.gid_map = gid_map

    def describe(self) -> str:
        maps = [text.strip().replace("\n", ", ") for text in (self.uid_map, self.gid_map)]
        return f"user namespace of uid {maps[0]}; gid {maps[1]} -> {self.slot}"


class LockMounts(Op):
    """The launcher goes to a copy of its mount namespace that belongs to another user namespace, made for this alone.

    The kernel locks there what the host has set: a clone of such a mount keeps ro, nosuid, nodev, noexec and what lies
    below it, whoever is root of the user namespace that it goes to (mount_namespaces(7), "Restrictions").  `proc` is a
    procfs of the launcher's own pid namespace.
    """

    __slots__ = ("proc",)
    code, form, order = 71, "d", ("proc",)

    def __init__(self, proc: str) -> None:
        self.proc = proc

    def describe(self) -> str:
        return "setns to a copy of the mounts in which the host's flags are locked"


class MapMount(Op):
    """mount_setattr(2) MOUNT_ATTR_IDMAP of a detached mount: owners as the user namespace `userns` maps them.

    `path` and `on` are for the sentence: whose mount, and where it will go.
    """

    __slots__ = ("on", "path", "recursive", "slot", "userns")
    code, form, order = 66, "ddn", ("slot", "userns", "recursive")

    def __init__(self, slot: str, userns: str, recursive: int, *, path: str, on: str) -> None:
        self.slot = slot
        self.userns = userns
        self.recursive = recursive
        self.path = path
        self.on = on

    def describe(self) -> str:
        return f"mount_setattr {self.slot} idmap of {self.userns}{' recursive' if self.recursive else ''}"

    def failure(self, errno: int, detail: int) -> str:
        what = f"mount {self.path} on {self.on}: failed to set MOUNT_ATTR_IDMAP on {self.path}: {errno_text(errno)}"
        return f"{what} (maybe the filesystem used doesn't support idmap mounts on this kernel?)"
