"""The plan of an ordinary user, who has no right over anything until he is root in a user namespace of his own.

    launcher   his cgroups, where he has any · clone3 with every new namespace · id maps of the child, if of one id
    child      waits for the maps · its cgroup · root · sources, mounts and all the rest, in its own mount namespace

The rules and their words are runc's (libcontainer/configs/validate/rootless.go): a user namespace is needed, devices
are the host's, groups stay as they are.  With more ids than his own the maps are written by newuidmap(1) and
newgidmap(1), which the command runs while the child waits.

The root of a user namespace has every right over that, and takes the plans of `corten.launch.compile`, with devices by
bind; only a user namespace of the container's own is made in this way, because its maps are written in this way.

Only here the launcher is dumpable: a child that is not could not be given its maps (proc(5)).  Nobody but the user
himself can look at it; the child hides before it mounts anything.
"""

from __future__ import annotations

from corten import errors
from corten.errors import InvalidArgument
from corten.launch import enter
from corten.launch.builder import Builder
from corten.launch.context import LIFE, LISTENER
from corten.launch.filesystem import Filesystem
from corten.launch.furnish import finish_root, furnish, wait_for_hooks, writes_proc
from corten.launch.hooks import hook_ops
from corten.launch.ops import CLONE_NEWIPC, SetDumpable
from corten.launch.tail import add_early, add_end, add_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.launch.context import InitContext
    from corten.launch.facts import HostFacts
    from corten.launch.ops import Plan
    from corten.spec.process import Process
    from corten.spec.runtime import Config, IdMapping


def compile_rootless_init(config: Config, process: Process, facts: HostFacts, context: InitContext) -> Plan:
    """The plan of a container's first process; raises `InvalidArgument`, and `NotImplemented` for some namespaces."""
    if facts.euid:
        check(config, process)
    elif config.linux.namespace("time") or any(row.path for row in config.linux.namespaces if row.type == "pid"):
        raise errors.NotImplemented("user namespaces in a user namespace, with a time or a joined pid namespace")
    b = Builder(config, facts)
    # the child is of another user namespace: its own write, to a descriptor opened before, takes it into its cgroup
    fs = Filesystem(b, context, keep_proc=writes_proc(config, process))
    flags = b.new_flags()
    enter.begin_dumpable(b, process)
    add_early(b, process, exec=False)
    b.add_inputs(context.inputs())
    enter.join_v1(b, context)
    enter.open_v2(b, context, by_write=True)
    enter.join_by_path(b, pid_now=True)
    if context.wait_for_idmaps:
        _clone_unmapped(b, flags & ~CLONE_NEWIPC)
    else:
        enter.clone_mapped(b, flags & ~CLONE_NEWIPC, deny=int(facts.euid != 0))
    enter.begin_child(b, flags)
    enter.become_root_inside(b)
    enter.unshare(b, flags & CLONE_NEWIPC)
    b.add(SetDumpable())
    enter.loopback_up(b, flags)
    b.wait("network")
    fs.open_sources()
    fs.attach_root()
    fs.mount_all(late=False)
    finish_root(fs, process)
    b.wait("record")
    wait_for_hooks(b, context)
    furnish(b, fs, process)
    fs.enter_root()
    b.close_others("tty", "start", LIFE, LISTENER)
    enter.raise_rlimits(b, process)
    add_process(b, process, context, userns=True)
    hooks = hook_ops(config, context, "startContainer", config.hooks.start_container)
    add_end(b, process, context, hooks=hooks)
    return b.plan(context.preserve_fds)


def check(config: Config, process: Process) -> None:
    """Raises `InvalidArgument` in runc's words for what an ordinary user cannot have.

    And `NotImplemented` for a time namespace and for one that is joined by path.
    """
    linux = config.linux
    user = linux.namespace("user")
    if user is None:
        raise InvalidArgument("rootless container requires user namespaces")
    joined = [entry.type for entry in linux.namespaces if entry.path]
    if joined:
        # no right over another's namespace comes with a new user namespace; podman starts the runtime inside of one
        raise errors.NotImplemented(f"rootless containers cannot join a {joined[0]} namespace: run the runtime in it")
    if linux.namespace("time") is not None:
        raise errors.NotImplemented("rootless containers with a time namespace are not supported yet")
    for mount in config.mounts:
        if mount.uid_mappings or "idmap" in mount.options or "ridmap" in mount.options:
            raise InvalidArgument("id-mapped mounts are not supported for rootless containers")
        for word in mount.options:
            name, equals, value = word.partition("=")
            mappings = {"uid": linux.uid_mappings, "gid": linux.gid_mappings}.get(name, ()) if equals else ()
            if mappings and value.isdigit() and not is_mapped(int(value), mappings):
                raise InvalidArgument(
                    f"cannot specify {name}= mount options for unmapped {name} in rootless containers"
                )
    check_user(config, process)


def check_user(config: Config, process: Process) -> None:
    """Raises `InvalidArgument` in runc's words for ids that the maps do not have, and for groups."""
    linux, user = config.linux, process.user
    for name, id, mappings in (("uid", user.uid, linux.uid_mappings), ("gid", user.gid, linux.gid_mappings)):
        if mappings and not is_mapped(id, mappings):
            raise InvalidArgument(
                "unable to start container process: unable to setup user:"
                f" cannot set {name} to unmapped user in user namespace"
            )
    if user.additional_gids:
        raise InvalidArgument(
            "unable to start container process: unable to setup user:"
            " cannot set any additional groups in a rootless container"
        )


def is_mapped(id: int, mappings: tuple[IdMapping, ...]) -> bool:
    """The id exists inside."""
    return any(entry.container_id <= id < entry.container_id + entry.size for entry in mappings)


def maps_by_himself(config: Config, euid: int, egid: int) -> bool:
    """The maps are of nothing but the user's own ids: he may write them without help (user_namespaces(7))."""
    return all(
        len(mappings) == 1 and (mappings[0].host_id, mappings[0].size) == (id, 1)
        for mappings, id in ((config.linux.uid_mappings, euid), (config.linux.gid_mappings, egid))
    )


def _clone_unmapped(b: Builder, flags: int) -> None:
    """The child in its new namespaces, which waits until somebody else has written its id maps."""
    b.close(enter.HOST_PROC)
    enter.clone(b, flags)
    b.wait("idmaps", "id maps")
    b.close("idmaps")
