"""What a configuration must fulfil before it is compiled, with runc's words where users know them.

Rules: runtime-spec config.md and config-linux.md; `sysctl` as in runc's validator.
"""

from __future__ import annotations

from corten.errors import FailedPrecondition, InvalidArgument
from corten.launch.facts import is_rootless
from corten.spec.process import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.launch.context import InitContext
    from corten.launch.facts import HostFacts
    from corten.spec.runtime import Config

# mount_setattr(2) and close_range(2) with CLOEXEC: every plan needs them
OLDEST_KERNEL = (5, 12)

# by the field of `linux.intelRdt` that asks for it
NO_RDT = {
    "l3CacheSchema": "intelRdt.l3CacheSchema is specified in config, but Intel RDT/CAT is not enabled",
    "memBwSchema": "intelRdt.memBwSchema is specified in config, but Intel RDT/MBA is not enabled",
    "": "intelRdt is specified in config, but Intel RDT is not supported or enabled",
}
IPC_SYSCTLS = (
    "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
    "kernel.shmmni", "kernel.shm_rmid_forced",
)  # fmt: skip


def check_config(config: Config, facts: HostFacts, context: InitContext) -> Process:
    """The process to start; raises `InvalidArgument` or `FailedPrecondition` for what cannot be compiled."""
    if facts.kernel < OLDEST_KERNEL:
        raise FailedPrecondition(f"kernel {facts.kernel[0]}.{facts.kernel[1]}: launching needs 5.12 or later")
    if config.process is None:
        raise InvalidArgument("config.json.process: missing")
    if not context.rootfs_fd and not context.rootfs:
        raise InvalidArgument("config.json.root: missing")
    linux = config.linux
    mount = linux.namespace("mount")
    if mount is None:
        raise InvalidArgument("config.json.linux.namespaces: a mount namespace is needed")
    if mount.path:
        # pivot_root(2) changes the root of everybody who is in it: of another container, or of the host
        raise InvalidArgument(
            f"config.json.linux.namespaces: a mount namespace of its own is needed, joining {mount.path} would give"
            " those who are in it this container's root"
        )
    _check_time(config)
    _check_user(config)
    if linux.namespace("uts") is None and (config.hostname or config.domainname):
        raise InvalidArgument("unable to set hostname without a private UTS namespace")
    check_label(config.process.selinux_label or linux.mount_label, facts)
    if config.process.terminal and not context.console:
        raise InvalidArgument("cannot allocate tty if runc will detach without setting console socket")
    if linux.net_devices:
        _check_net_devices(config, facts)
    if linux.intel_rdt is not None and not facts.resctrl:
        raise FailedPrecondition(NO_RDT[linux.intel_rdt.named])
    for name in linux.sysctl:
        _check_sysctl(config, name, context.host_namespaces)
    return _check_process(config.process)


def check_exec(config: Config, process: Process) -> Process:
    """The process with what it leaves to the container's own filled in."""
    own = config.process or Process((), "/")
    user = process.user
    if user.umask is None:
        user = type(user)(user.uid, user.gid, own.user.umask, user.additional_gids)
    return _check_process(
        Process(
            process.args,
            process.cwd,
            env=process.env,
            terminal=process.terminal,
            console_width=process.console_width,
            console_height=process.console_height,
            user=user,
            capabilities=own.capabilities if process.capabilities is None else process.capabilities,
            rlimits=process.rlimits or own.rlimits,
            no_new_privileges=process.no_new_privileges,
            oom_score_adj=own.oom_score_adj if process.oom_score_adj is None else process.oom_score_adj,
            apparmor_profile=process.apparmor_profile or own.apparmor_profile,
            selinux_label=process.selinux_label or own.selinux_label,
            scheduler=process.scheduler or own.scheduler,
            io_priority=own.io_priority if process.io_priority is None else process.io_priority,
            exec_affinity=process.exec_affinity or own.exec_affinity,
        )
    )


def check_label(label: str, facts: HostFacts) -> None:
    """A SELinux label is refused, where the kernel knows none (runc's words) and where it does: none is set yet."""
    if label and not facts.selinux:
        raise InvalidArgument("selinux label is specified in config, but selinux is disabled or not supported")
    if label:
        raise InvalidArgument(f"selinux label {label!r}: not supported yet")


def sysctl_path(name: str) -> str:
    """A sysctl's file beneath /proc: with dots between the parts, or with slashes and then dots inside them."""
    slash, dot = name.find("/"), name.find(".")
    if slash >= 0 and (dot < 0 or slash < dot):
        return f"sys/{name}"
    return "sys/" + name.replace("/", "\0").replace(".", "/").replace("\0", ".")


def _check_user(config: Config) -> None:
    """A user namespace that is made has a root, for both kinds of ids; in the words of runc.

    Without one nobody in it would have the right to mount.
    """
    linux = config.linux
    user = linux.namespace("user")
    if user is None and (linux.uid_mappings or linux.gid_mappings):
        raise InvalidArgument("config.json.linux: id mappings without a user namespace")
    if user is None or user.path:
        return
    if not (linux.uid_mappings and linux.gid_mappings):
        raise InvalidArgument("user namespaces enabled, but no uid or gid mappings found")
    for kind, mappings in (("user", linux.uid_mappings), ("group", linux.gid_mappings)):
        if all(entry.container_id for entry in mappings):
            raise InvalidArgument(f"User namespaces enabled, but no {kind} mapping found.")


def _check_time(config: Config) -> None:
    """Offsets are of a namespace that is made, as runc 1.2 has it."""
    time = config.linux.namespace("time")
    if time is None:
        if config.linux.time_offsets:
            raise InvalidArgument("time namespace offsets specified, but time namespace isn't enabled in the config")
        return
    if time.path and config.linux.time_offsets:
        raise InvalidArgument(
            "time namespace enabled, but both namespace path and time offsets specified -- you may only provide one"
        )


def _check_net_devices(config: Config, facts: HostFacts) -> None:
    if config.linux.namespace("network") is None:
        raise InvalidArgument("unable to move network devices without a private NET namespace")
    if is_rootless(facts):
        raise InvalidArgument("network devices are not supported for rootless containers")


def _check_process(process: Process) -> Process:
    if not process.args:
        raise InvalidArgument("process.args: must not be empty")
    return process


def _check_sysctl(config: Config, name: str, shared: tuple[str, ...]) -> None:
    """`shared`: kinds of namespaces that the configuration joins by path, and that are the runtime's own."""
    dotted = sysctl_path(name)[4:].replace("/", ".")
    if not all(part not in ("", ".", "..") for part in sysctl_path(name).split("/")):
        raise InvalidArgument(f"sysctl {name!r}: not a name")
    linux = config.linux
    if dotted in IPC_SYSCTLS or dotted.startswith("fs.mqueue."):
        if linux.namespace("ipc") is None or "ipc" in shared:
            raise InvalidArgument(f'sysctl "{name}" is not allowed in the hosts ipc namespace')
    elif dotted.startswith("net."):
        if linux.namespace("network") is None or "network" in shared:
            raise InvalidArgument(f'sysctl "{name}" not allowed in host network namespace')
    elif dotted == "kernel.domainname":
        if linux.namespace("uts") is None:
            raise InvalidArgument(f'sysctl "{name}" is not allowed in the hosts UTS namespace')
    elif dotted.startswith("user."):
        if linux.namespace("user") is None:
            raise InvalidArgument(f'sysctl "{name}" is not allowed in the hosts user namespace')
    elif dotted == "kernel.hostname":
        raise InvalidArgument(f'sysctl "{name}" is not allowed as it conflicts with the OCI "hostname" field')
    else:
        raise InvalidArgument(f'sysctl "{name}" is not in a separate kernel namespace')
