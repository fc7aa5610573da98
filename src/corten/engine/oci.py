"""Effective configuration → OCI config.json, as dockerd writes it.  Pure: what it needs of the host is a value.

Documents: runtime-spec config.md and config-linux.md.  Order of mounts, capabilities and device rules is
dockerd's, so that the two can be compared.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from corten.core.owners import IdMap
from corten.engine import defaults, devices, idmapspec, mountspec, seccomp, security, storage
from corten.engine.effective import Effective, limits
from corten.engine.host import Host
from corten.engine.mountspec import MountPoint
from corten.engine.users import User
from corten.runtime import effective as node_words
from corten.spec.docker import ContainerConfig, ExecConfig, HostConfig

Json = dict[str, Any]

_SHARED: Final = frozenset({"shared", "rshared"})
_SLAVE: Final = frozenset({"slave", "rslave"})
# crun of Debian 12 refuses a bundle whose version does not contain "1.0"; runc 1.1 calls itself 1.0.2-dev.
EXTERNAL_OCI_VERSION: Final = "1.0.2"


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """Where this start happens.  Paths of namespaces: "" makes a new one, `None` joins the host's."""

    machine: Host
    rootfs: str
    cgroup: str
    user: User
    hostname_file: str = ""
    hosts_file: str = ""
    resolv_file: str = ""
    network: str | None = ""
    ipc: str | None = ""
    pid: str | None = ""
    uts: str | None = ""
    userns: str = ""  # of a container whose users are mapped
    shm_source: str = ""  # another container's /dev/shm, or the host's
    init_binary: str = ""
    host_devices: Sequence[Json] = ()  # of --privileged
    mapped_devices: Sequence[Json] = ()
    device_rules: Sequence[Json] = ()
    block_io: Json = {}
    external_runtime: bool = False


def config_json(effective: Effective, at: Surroundings) -> bytes:
    """The text of config.json."""
    return msgspec.json.encode(config(effective, at))


def config(effective: Effective, at: Surroundings) -> Json:
    """config.json as an object; `linux.seccomp` is already text (`msgspec.Raw`)."""
    host = effective.host
    out: Json = {
        "ociVersion": EXTERNAL_OCI_VERSION if at.external_runtime else defaults.OCI_VERSION,
        "process": _process(effective, at),
        "root": {"path": at.rootfs, **({"readonly": True} if host.readonly_rootfs else {})},
    }
    if at.uts is not None:
        out["hostname"] = effective.hostname
    out["mounts"] = _mounts(effective, at)
    out["linux"] = _linux(effective, at)
    if host.annotations:
        out["annotations"] = dict(host.annotations)
    return out


# The process


def _process(effective: Effective, at: Surroundings) -> Json:
    config, host = effective.config, effective.host
    argv = list(effective.argv)
    if effective.init:
        argv = [defaults.INIT_PATH, "--", *argv]
    process: Json = {"user": user_object(at.user), "args": argv}
    if config.tty:
        process["terminal"] = True
        if any(host.console_size):
            process["consoleSize"] = {"height": host.console_size[0], "width": host.console_size[1]}
    process["env"] = environment(config, tty=config.tty)
    process["cwd"] = config.working_dir or "/"
    process["capabilities"] = _capability_sets(effective.capabilities)
    if rlimits := _limits(effective):
        process["rlimits"] = rlimits
    if effective.security.no_new_privileges:
        process["noNewPrivileges"] = True
    if at.machine.apparmor and effective.security.apparmor:
        process["apparmorProfile"] = effective.security.apparmor
    process["oomScoreAdj"] = host.oom_score_adj
    return process


def _limits(effective: Effective) -> list[Json]:
    """The request's limits, then the node's for what it does not name."""
    own = [{"type": name, "hard": hard, "soft": soft} for name, soft, hard in limits(effective.host.ulimits or ())]
    node = effective.node.get("rlimits", ())
    return [*own, *({name: row[name] for name in ("type", "hard", "soft")} for row in node)]


def user_object(user: User) -> Json:
    """`process.user`."""
    return {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)}


def _capability_sets(capabilities: Sequence[str]) -> Json:
    """Bounding, permitted, effective; inheritable and ambient stay empty (CVE-2022-24769)."""
    return {name: list(capabilities) for name in ("bounding", "effective", "permitted")}


def environment(config: ContainerConfig, *, tty: bool, extra: Sequence[str] = ()) -> list[str]:
    """PATH, HOSTNAME and TERM, then the configured ones over them; a word without `=` removes a variable.

    HOME comes from the runtime, which looks it up in the container.
    """
    values = {"PATH": defaults.PATH_ENV, "HOSTNAME": config.hostname}
    if tty:
        values["TERM"] = "xterm"
    for item in (*(config.env or ()), *extra):
        name, equals, value = item.partition("=")
        if equals:
            values[name] = value
        else:
            values.pop(name, None)
    return [f"{name}={value}" for name, value in values.items()]


def exec_process(base: Json, config: ContainerConfig, request: ExecConfig, user: User) -> Json:
    """The process of `docker exec`: the container's own (`base`), with what the request changes."""
    process = {**base, "user": user_object(user), "args": list(request.cmd or ())}
    process["env"] = environment(config, tty=request.tty, extra=request.env or ())
    process["cwd"] = request.working_dir or config.working_dir or "/"
    process.pop("terminal", None)
    process.pop("consoleSize", None)
    if request.tty:
        process["terminal"] = True
        if request.console_size and any(request.console_size):
            process["consoleSize"] = {"height": request.console_size[0], "width": request.console_size[1]}
    return process


def privileged_process(process: Json, machine: Host) -> Json:
    """The same with every capability: `docker exec --privileged`."""
    everything = security.capabilities((), (), privileged=True, known=machine.capabilities)
    return {**process, "capabilities": _capability_sets(everything)}


# Mounts


def _mounts(effective: Effective, at: Surroundings) -> list[Json]:
    points = _sorted(effective, at)
    taken = {point.target for point in points}
    out = [
        _default_mount(entry, effective.host)
        for entry in defaults.MOUNTS
        if not _is_replaced(entry[0], taken, effective, at)
    ]
    if effective.host.readonly_rootfs:
        for mount in out:
            if mount["destination"] not in defaults.WRITABLE_WITH_READONLY_ROOT and "ro" not in mount["options"]:
                mount["options"].append("ro")
    if effective.host.privileged:
        for mount in out:
            if mount["destination"] == "/sys" or mount["type"] == "cgroup":
                mount["options"] = [option for option in mount["options"] if option != "ro"]
    out += [_tmpfs(point) if point.kind == "tmpfs" else _bind(point, effective.id_map) for point in points]
    if effective.init:
        out.append(
            {
                "destination": defaults.INIT_PATH,
                "type": "bind",
                "source": at.init_binary,
                "options": ["bind", "ro"],
            }
        )
    return out


def _is_replaced(target: str, taken: set[str], effective: Effective, at: Surroundings) -> bool:
    if target in taken or (target.startswith("/dev/") and "/dev" in taken):
        return True
    return target == "/dev/shm" and (effective.host.ipc_mode == "none" or bool(at.shm_source))


def _default_mount(entry: tuple[str, str, str, tuple[str, ...]], host: HostConfig) -> Json:
    target, kind, source, options = entry
    mount: Json = {"destination": target, "type": kind, "source": source, "options": list(options)}
    if target == "/dev/shm":
        mount["options"].append(f"size={host.shm_size}")
    return mount


def _sorted(effective: Effective, at: Surroundings) -> list[MountPoint]:
    """The user's mounts and the engine's files, shallow targets first."""
    points = list(effective.mounts)
    taken = {point.target for point in points}
    own = (
        ("/etc/resolv.conf", at.resolv_file),
        ("/etc/hostname", at.hostname_file),
        ("/etc/hosts", at.hosts_file),
        ("/dev/shm", at.shm_source),
    )
    for target, source in own:
        if source and target not in taken:
            read_only = effective.host.readonly_rootfs and target != "/dev/shm"
            points.append(
                MountPoint(kind="bind", source=source, target=target, propagation="rprivate", read_only=read_only)
            )
    return sorted(points, key=lambda point: point.target.count("/"))


def _tmpfs(point: MountPoint) -> Json:
    return {
        "destination": point.target,
        "type": "tmpfs",
        "source": "tmpfs",
        "options": mountspec.tmpfs_options(point.data),
    }


def _bind(point: MountPoint, id_map: IdMap | None) -> Json:
    options = ["bind" if point.non_recursive else "rbind"]
    if point.read_only:
        options.append("ro" if point.read_only_non_recursive else "rro")
    if point.propagation:
        options.append(point.propagation)
    mount: Json = {"destination": point.target, "type": "bind", "source": point.source, "options": options}
    if point.id_map:
        options.append("idmap" if point.non_recursive else "ridmap")
        mappings = idmapspec.mappings(point.id_map)
        mount |= mappings if id_map is None else id_map.composed(mappings)
    return mount


# linux


def _linux(effective: Effective, at: Surroundings) -> Json:
    host = effective.host
    out: Json = {}
    if effective.id_map is not None:
        out |= effective.id_map.mappings()
    if sysctls := _sysctls(effective, at):
        out["sysctl"] = sysctls
    out["resources"] = _resources(effective, at)
    out["cgroupsPath"] = at.cgroup
    out["namespaces"] = _namespaces(effective, at)
    node_devices = [*at.host_devices, *at.mapped_devices]
    if node_devices:
        out["devices"] = node_devices
    if effective.security.seccomp != security.UNCONFINED:
        out["seccomp"] = _seccomp(effective, at.machine)
    if propagation := _root_propagation(effective.mounts):
        out["rootfsPropagation"] = propagation
    if host.masked_paths:
        out["maskedPaths"] = list(host.masked_paths)
    if host.readonly_paths:
        out["readonlyPaths"] = list(host.readonly_paths)
    return out


def _sysctls(effective: Effective, at: Surroundings) -> dict[str, str]:
    """Docker's two for a network namespace of the container's own, the domain name, then the user's."""
    out = {}
    if effective.is_private_network:
        out = {name: value for name, value in defaults.SYSCTLS.items() if name in at.machine.sysctls}
        if effective.id_map is not None:  # the kernel takes no range of groups there, and dockerd sets none
            out.pop("net.ipv4.ping_group_range", None)
    if effective.config.domainname and at.uts is not None:
        out["kernel.domainname"] = effective.config.domainname
    return out | (effective.host.sysctls or {})


def _namespaces(effective: Effective, at: Surroundings) -> list[Json]:
    wanted: list[tuple[str, str | None]] = [
        ("mount", ""),
        ("network", at.network),
        ("uts", at.uts),
        ("pid", at.pid),
        ("ipc", at.ipc),
        ("cgroup", "" if effective.host.cgroupns_mode == "private" else None),
        ("user", at.userns if effective.id_map is not None else None),
    ]
    return [{"type": kind, **({"path": path} if path else {})} for kind, path in wanted if path is not None]


def _seccomp(effective: Effective, machine: Host) -> msgspec.Raw:
    host = seccomp.Host(machine.machine, machine.kernel, frozenset(effective.capabilities))
    if not effective.security.seccomp:
        rules = [*node_words.rules(effective.node)]
        if storage.is_confined(effective.host.storage_opt, effective.mounts):
            rules += [rule for rule in storage.RULES if all("ioctl" not in one["names"] for one in rules)]
        return msgspec.Raw(seccomp.resolved_default(host, msgspec.json.encode(rules) if rules else b""))
    profile = seccomp.parse_profile(effective.security.seccomp)
    return msgspec.Raw(msgspec.json.encode(seccomp.resolve(profile, host)))


def _root_propagation(points: Sequence[MountPoint]) -> str:
    """A shared bind needs a shared root, a slave one a slave root."""
    chosen = {point.propagation for point in points if point.kind == "bind"}
    if chosen & _SHARED:
        return "shared"
    return "rslave" if chosen & _SLAVE else ""


def _resources(effective: Effective, at: Surroundings) -> Json:
    rules = [devices.ALLOW_ALL] if effective.host.privileged else [*defaults.DEVICE_RULES, *at.device_rules]
    return {"devices": rules, **resources(effective), **({"blockIO": at.block_io} if at.block_io else {})}


def update_resources(effective: Effective) -> Json:
    """What a runtime is told of a running container after an update: as at a start, and what ends a limit.

    dockerd leaves the kernel's limit of swap as it was with --memory-swap -1, though its inspect says that there is
    none; here both say so.
    """
    out = resources(effective)
    if effective.host.memory_swap < 0:
        out["memory"] = {**out.get("memory", {}), "swap": -1}
    return out


def resources(effective: Effective) -> Json:
    """The limits in `linux.resources`: all that an update may change."""
    host = effective.host
    out: Json = {}
    if memory := _memory(host):
        out["memory"] = memory
    if cpu := cpu_limits(host):
        out["cpu"] = cpu
    if host.blkio_weight:
        out["blockIO"] = {"weight": host.blkio_weight}
    out["pids"] = {"limit": effective.pids_limit}
    return out


def _memory(host: HostConfig) -> Json:
    values: Mapping[str, Any] = {
        "limit": host.memory if host.memory > 0 else None,
        "reservation": host.memory_reservation if host.memory_reservation > 0 else None,
        "swap": host.memory_swap if host.memory_swap > 0 else None,
        "swappiness": host.memory_swappiness,
        "disableOOMKiller": host.oom_kill_disable,
    }
    return {key: value for key, value in values.items() if value is not None}


def cpu_limits(host: HostConfig) -> Json:
    """`linux.resources.cpu`; --cpus is a quota of a period of 100 ms."""
    out: Json = {}
    if host.cpu_shares > 0:
        out["shares"] = host.cpu_shares
    if host.nano_cpus > 0:
        out["period"] = defaults.CPU_PERIOD_US
        out["quota"] = host.nano_cpus * defaults.CPU_PERIOD_US // 10**9
    if host.cpu_period:
        out["period"] = host.cpu_period
    if host.cpu_quota:
        out["quota"] = host.cpu_quota
    if host.cpu_realtime_period:
        out["realtimePeriod"] = host.cpu_realtime_period
    if host.cpu_realtime_runtime:
        out["realtimeRuntime"] = host.cpu_realtime_runtime
    if host.cpuset_cpus:
        out["cpus"] = host.cpuset_cpus
    if host.cpuset_mems:
        out["mems"] = host.cpuset_mems
    return out


def cgroup_path(host: HostConfig, default_parent: str, container_id: str) -> str:
    """`/parent/id`; a relative --cgroup-parent lies below the cgroup root, and nothing climbs out of it."""
    parent = host.cgroup_parent or default_parent
    return posixpath.normpath(posixpath.join("/", parent, container_id))
