"""The cgroups of a runtime that may not have any: an ordinary user's, or one inside of a user namespace.

As in runc a cgroup that cannot be made is no error where the bundle names no path for it: the container stays in that
of its creator.  A limit that would need it is one, a device rule is not.
"""

from __future__ import annotations

import posix

from corten.errors import Internal
from corten.runtime.cgroups import Cgroup, CgroupPaths, plan_paths
from corten.runtime.managers import APPLY, SET, Manager
from corten.runtime.own_cgroups import own_directories
from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.launch.facts import HostFacts
    from corten.runtime.cgroup_settings import Setting
    from corten.runtime.prepare import Prepared

FROM_BUNDLE = "config.json"
NO_LIMIT = (-1, "rootless, without a cgroup of its own")


class Rootless(Manager):
    """The manager by files, as far as the user may write them."""

    def paths(self, facts: HostFacts, cgroups_path: str, id: str) -> CgroupPaths:
        """What is named by the bundle; else its place by the runtime's own cgroup, where that can be made."""
        if cgroups_path:
            return plan_paths(facts, cgroups_path, id)
        paths = plan_paths(facts, "", id)
        paths.v1 = {names: directory for names, directory in paths.v1.items() if can_make(directory)}
        if paths.v2 and not can_make(paths.v2):
            paths.v2 = ""
        return paths

    def admit(
        self, paths: CgroupPaths, limit: tuple[int, str], writes: list[Setting]
    ) -> tuple[tuple[int, str], list[Setting]]:
        """No device rules, which only the machine's root may write, and no default limit where there is no cgroup."""
        writes = [setting for setting in writes if setting.controller != "devices"]
        if limit[1] == FROM_BUNDLE or paths.directory("pids"):
            return limit, writes
        return NO_LIMIT, [setting for setting in writes if setting.controller != "pids"]

    def make(self, prepared: Prepared) -> None:
        """Directories and limits."""
        prepared.device_program = b""  # loading one is for the machine's root
        try:
            if prepared.paths.directories():
                Cgroup(prepared.paths).create()
        except OSError as error:
            raise refused(error) from error
        try:
            Cgroup(prepared.paths).apply(prepared.settings)
        except Internal as error:
            raise Internal(f"{SET}: {error}") from error


def views(facts: HostFacts, paths: CgroupPaths) -> dict[str, str]:
    """The v1 cgroups that a container sees in place of its own: those that it is in."""
    if facts.cgroup_mode == "v2":
        return {}
    own = own_directories(facts)
    return {names: directory for names, directory in own.items() if names and names not in paths.v1}


def can_make(directory: str) -> bool:
    """The user may make the directory, or write it if it is there."""
    place = directory
    while not files.exists(place):
        place = files.parent(place)
    return posix.access(place, posix.W_OK, effective_ids=True)


def refused(error: OSError) -> Internal:
    """runc's sentence for a cgroup that is named and cannot be made."""
    return Internal(f"{APPLY}: mkdir {error.filename}: {files.why(error)}")
