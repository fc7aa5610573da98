"""One effective configuration: what the client sent, what the image says, what the node's defaults are.

`decide` is pure: what it must know of the host's files (do bind sources exist) it asks `exists`.  Its value holds the
merged Docker objects, which inspect prints, and what was parsed from them, from which config.json is made.  `origins`
says for every field with a value where it is from: "flag" (the request), "image", "daemon.json", the path of the node's
file or "built-in"; where parts of it are from several, all of them, as in "flag, image".
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from corten.core.owners import IdMap
from corten.engine import (
    blockio,
    checks,
    defaults,
    endpointchecks,
    healthcheck,
    logoptions,
    mountspec,
    security,
    storage,
)
from corten.engine.host import Host
from corten.engine.mountspec import MountPoint
from corten.engine.security import Security
from corten.engine.settings import Settings
from corten.engine.signals import parse_signal
from corten.errors import InvalidArgument
from corten.network.defaults import NO_BRIDGE
from corten.network.ports import parse_bindings
from corten.network.values import Network, PortBinding
from corten.runtime import effective as node_words
from corten.runtime.effective import Node
from corten.spec.docker import (
    ContainerConfig,
    ContainerCreateRequest,
    EndpointSettings,
    HostConfig,
    LogConfig,
    Ulimit,
)
from corten.spec.docker_json import nonzero_fields
from corten.spec.image import RunConfig

FLAG: Final = "flag"
IMAGE: Final = "image"
BUILT_IN: Final = "built-in"
UPDATE: Final = "update"  # docker update, as in the runtime's state
SHORT_ID: Final = 12
_U64: Final = (1 << 64) - 1
_I64: Final = (1 << 63) - 1
NODE_KEY: Final = "Corten"
ID_MAP: Final = "HostConfig.IDMappings"  # podman's name; no field of the request

Origins = dict[str, str]


class Asked(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """What a field would be had no policy set it."""

    value: Any
    origin: str


class Lifetime(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """How long each run of a container may last; policy: who says so, `policy FILE:FUNCTION`."""

    seconds: float
    policy: str
    reason: str


class Effective(msgspec.Struct, frozen=True, kw_only=True):
    """What a container is.  Kept in its record; everything at start is computed from it."""

    config: ContainerConfig
    host: HostConfig
    endpoints: dict[str, EndpointSettings] = {}  # what it asks of its networks, by name: that of its mode first
    argv: tuple[str, ...]
    mounts: tuple[MountPoint, ...] = ()
    capabilities: tuple[str, ...] = ()
    security: Security = Security()
    pids_limit: int = defaults.PIDS_LIMIT  # -1: none
    id_map: IdMap | None = None  # of its users, who are the host's own without one
    init: bool = False
    origins: Origins = {}
    names: dict[str, tuple[tuple[str, ...], str]] = {}  # field → what daemon.json says for it now, and its origin
    node: dict[str, list[dict[str, Any]]] = {}  # taken from daemon.json and the node's file, in the runtime's form
    asked: dict[str, Asked] = {}  # by field, of those that policies have set (engine.policyvalues)
    lifetime: Lifetime | None = None

    @property
    def hostname(self) -> str:
        """The name in the container's uts namespace; the domain is not part of it."""
        return self.config.hostname

    @property
    def network(self) -> str:
        """The network mode that counts: with NetworkDisabled there is none, whatever the mode says."""
        return "none" if self.config.network_disabled else self.host.network_mode

    @property
    def asked_networks(self) -> dict[str, EndpointSettings]:
        """What it asks of its networks, by name; none once it was taken off all."""
        if self.host.network_mode.startswith("container:"):
            return {}
        return {"none": EndpointSettings()} if self.config.network_disabled else self.endpoints

    @property
    def is_private_network(self) -> bool:
        """Whether it has a network namespace of its own (also with `none`)."""
        return self.network != "host" and not self.network.startswith("container:")


def decide(
    request: ContainerCreateRequest,
    image: RunConfig,
    settings: Settings,
    machine: Host,
    *,
    container_id: str,
    resolve: Mapping[str, str] | None = None,
    exists: Callable[[str], bool] = os.path.exists,
    borrowed: Sequence[MountPoint] = (),
    linked: Sequence[str] = (),
    find_network: Callable[[str], Network | None] = lambda ref: None,
) -> tuple[Effective, list[str]]:
    """The effective configuration and dockerd's warnings.

    `resolve` maps the names in `container:NAME` modes to full ids (unknown ones stay as they are, start fails).
    `find_network` is asked for the network that a name, an id, or its beginning, means.
    `exists` is asked for the sources of `--mount` binds; `borrowed` are the mounts that --volumes-from names.
    Raises InvalidArgument (Internal where dockerd answers 500) with Docker's texts, or naming a field that is
    not supported yet.
    """
    origins: Origins = {path: FLAG for path, _ in fields(request.config, request.host_config)}
    checks.refuse_unsupported(request)
    checks.check_modes(request.config, request.host_config)
    config = merge_image(request.config, image, origins)
    host, warnings = _host_defaults(request.host_config, settings, machine, origins)
    host = _with_ids(host, resolve or {}, linked)
    config = _names(config, host, machine, container_id, origins)
    _check(config, host, request, settings, machine, find_network)
    if host.network_mode == "host" and host.port_bindings:
        warnings.append("Published ports are discarded when using host network mode")
    secure = security.parse_security_opt(
        host.security_opt or (),
        privileged=host.privileged,
        no_new_privileges=settings.no_new_privileges,
        seccomp=settings.seccomp_text,
    )
    node = _node(request.host_config, secure, settings, machine)
    host = _with_masks(host, node, origins)
    effective = Effective(
        config=config,
        host=host,
        endpoints=endpointchecks.endpoints(request, host, find_network),
        argv=command_line(config),
        mounts=mountspec.over_data_root(
            mountspec.parse_all(host, exists, volumes=config.volumes or (), borrowed=borrowed), settings.data_root
        ),
        capabilities=security.capabilities(
            host.cap_add or (), host.cap_drop or (), privileged=host.privileged, known=machine.capabilities
        ),
        security=secure,
        pids_limit=_pids_limit(host, settings, origins),
        id_map=_id_map(host, settings, origins),
        init=(settings.init if host.init is None else host.init) and host.pid_mode == "",
        origins=origins,
        names=_resolver(host, settings),
        node=node,
    )
    return effective, warnings


def _resolver(host: HostConfig, settings: Settings) -> dict[str, tuple[tuple[str, ...], str]]:
    """What daemon.json says of resolv.conf where the request is silent; each start asks it again, as with dockerd."""
    rows = (
        ("HostConfig.Dns", host.dns, settings.dns, "dns"),
        ("HostConfig.DnsOptions", host.dns_options, settings.dns_opts, "dns-opts"),
        ("HostConfig.DnsSearch", host.dns_search, settings.dns_search, "dns-search"),
    )
    return {field: (value, settings.origin(key)) for field, own, value, key in rows if value and not own}


def fields(config: ContainerConfig, host: HostConfig) -> Iterator[tuple[str, Any]]:
    """(path, value) of every field with a value: `HostConfig.Memory`."""
    yield from nonzero_fields(config, "Config")
    yield from nonzero_fields(host, "HostConfig")


def merge_image(config: ContainerConfig, image: RunConfig, origins: Origins) -> ContainerConfig:
    """The client's Config over the image's: runconfig.merge of dockerd.  Fills `origins` for what it takes."""
    change: dict[str, Any] = {}
    if config.working_dir.startswith("/"):
        change["working_dir"] = posixpath.normpath(f"/{config.working_dir.lstrip('/')}")

    def take(attribute: str, path: str, value: Any) -> None:
        if value and not getattr(config, attribute):
            change[attribute] = value
            origins[f"Config.{path}"] = IMAGE

    take("user", "User", image.user)
    take("working_dir", "WorkingDir", image.working_dir)
    take("stop_signal", "StopSignal", image.stop_signal)
    take("exposed_ports", "ExposedPorts", image.exposed_ports)
    if config.exposed_ports and image.exposed_ports:
        origins["Config.ExposedPorts"] = _both(FLAG, IMAGE, set(image.exposed_ports) - set(config.exposed_ports))
        change["exposed_ports"] = {**image.exposed_ports, **config.exposed_ports}
    take("volumes", "Volumes", image.volumes)
    if config.volumes and image.volumes:
        origins["Config.Volumes"] = _both(FLAG, IMAGE, set(image.volumes) - set(config.volumes))
        change["volumes"] = {**image.volumes, **config.volumes}
    if not config.volumes and not image.volumes:
        change["volumes"] = None
    change["healthcheck"], health_fields = healthcheck.merged(config.healthcheck, image.healthcheck)
    origins.update({f"Config.Healthcheck.{field}": IMAGE for field in health_fields})
    change["env"] = _merged_env(config.env, image.env, origins)
    change["labels"] = {**(image.labels or {}), **(config.labels or {})}
    if image.labels:
        more = set(image.labels) - set(config.labels or {})
        origins["Config.Labels"] = _both(FLAG, IMAGE, more) if config.labels else IMAGE
    change |= _merged_command(config, image, origins)
    return replace(config, **change)


def _merged_env(own: Sequence[str] | None, image: Sequence[str] | None, origins: Origins) -> list[str] | None:
    """The client's first, then the image's whose name it does not have."""
    if not image:
        return list(own) if own is not None else None
    if not own:
        origins["Config.Env"] = IMAGE
        return list(image)
    names = {item.partition("=")[0] for item in own}
    more = [item for item in image if item.partition("=")[0] not in names]
    origins["Config.Env"] = _both(FLAG, IMAGE, more)
    return [*own, *more]


def _both(first: str, second: str, of_second: Collection[str]) -> str:
    """The origin of a value whose parts are from both, unless nothing of the second is left."""
    return f"{first}, {second}" if of_second else first


def _merged_command(config: ContainerConfig, image: RunConfig, origins: Origins) -> dict[str, Any]:
    """`Entrypoint: null` takes the image's, and its Cmd when there is none; `[""]` and `[]` reset it."""
    cmd, entrypoint = config.cmd, config.entrypoint
    if not entrypoint:
        if not cmd and image.cmd:
            cmd = image.cmd
            origins["Config.Cmd"] = IMAGE
        if entrypoint is None and image.entrypoint:
            entrypoint = image.entrypoint
            origins["Config.Entrypoint"] = IMAGE
    if entrypoint == [""]:
        entrypoint = None
    if not entrypoint and not cmd:
        raise InvalidArgument("no command specified")
    return {"cmd": cmd, "entrypoint": entrypoint}


def command_line(config: ContainerConfig) -> tuple[str, ...]:
    """Entry point and command as one argv."""
    return (*(config.entrypoint or ()), *(config.cmd or ()))


def _host_defaults(
    host: HostConfig, settings: Settings, machine: Host, origins: Origins
) -> tuple[HostConfig, list[str]]:
    """HostConfig with the node's defaults in place of zero values: adaptContainerSettings of dockerd."""
    change: dict[str, Any] = {}

    def default(attribute: str, path: str, value: Any, origin: str = BUILT_IN) -> None:
        if not getattr(host, attribute) and value:
            change[attribute] = value
            origins[f"HostConfig.{path}"] = origin

    default("shm_size", "ShmSize", settings.default_shm_size, settings.origin("default-shm-size"))
    default("ipc_mode", "IpcMode", settings.default_ipc_mode, settings.origin("default-ipc-mode"))
    default("cgroup_parent", "CgroupParent", settings.cgroup_parent, settings.origin("cgroup-parent"))
    usual, origin = ("none", settings.origin("bridge")) if settings.bridge == NO_BRIDGE else ("bridge", BUILT_IN)
    default("network_mode", "NetworkMode", usual, origin)
    if all(key.lower() != storage.SIZE for key in host.storage_opt or ()) and settings.storage_opts:
        _default_size(host, settings, change, origins)
    default("cgroupns_mode", "CgroupnsMode", *_cgroupns_mode(host, settings, machine))
    default("runtime", "Runtime", settings.default_runtime, settings.origin("default-runtime"))
    default("memory_swap", "MemorySwap", _twice(host.memory) if host.memory > 0 else 0)
    if host.network_mode == "default" or (host.network_mode == "bridge" and usual != "bridge"):
        change["network_mode"] = usual
        origins["HostConfig.NetworkMode"] = origin
    if host.restart_policy.name == "":
        change["restart_policy"] = replace(host.restart_policy, name="no")
    change["log_config"] = _log_config(host.log_config, settings, origins)
    if host.memory_swappiness == -1:
        change["memory_swappiness"] = None
        origins.pop("HostConfig.MemorySwappiness", None)
    if host.pids_limit is not None and host.pids_limit == 0:
        change["pids_limit"] = None
    if not host.privileged:
        if host.masked_paths is None:
            change["masked_paths"] = list(machine.masked_paths)
        if host.readonly_paths is None:
            change["readonly_paths"] = list(defaults.READONLY_PATHS)
    if host.privileged or host.pid_mode == "host" or host.ipc_mode == "host":
        change["security_opt"] = [*(host.security_opt or ()), "label=disable"]
        origins["HostConfig.SecurityOpt"] = f"{FLAG}, {BUILT_IN}" if host.security_opt else BUILT_IN
    less, warnings = blockio.adapt(host, machine)
    change |= less
    warnings += checks.without_effect(host, maps_users=settings.id_map is not None)
    if host.cpu_percent > 0:
        change["cpu_percent"] = 0
        origins.pop("HostConfig.CpuPercent", None)
        warnings.append(checks.NO_PERCENT)
    warnings += _oom_warnings(host, machine, change)
    return replace(host, **change), warnings


def _id_map(host: HostConfig, settings: Settings, origins: Origins) -> IdMap | None:
    """The node's map of users, unless the request says that they are the host's (`--userns host`)."""
    if settings.id_map is None or host.userns_mode == "host":
        return None
    checks.check_mapped(host, settings)
    origins[ID_MAP] = settings.origin("userns-remap")
    return settings.id_map


def _default_size(host: HostConfig, settings: Settings, change: dict[str, Any], origins: Origins) -> None:
    """daemon.json's size of a container that names none."""
    found = storage.default_options(settings.storage_opts)
    if found:
        change["storage_opt"] = {**(host.storage_opt or {}), **found}
        given = [FLAG] if host.storage_opt else []
        origins["HostConfig.StorageOpt"] = ", ".join([*given, settings.origin("storage-opts")])


def _twice(limit: int) -> int:
    """In 64 bits, as Go has it: past them it is negative, and that is no limit."""
    double = 2 * limit
    return double if double <= _I64 else double - (1 << 64)


def _cgroupns_mode(host: HostConfig, settings: Settings, machine: Host) -> tuple[str, str]:
    """Docker's default and its origin: private on cgroup v2, the host's on v1, there always with --privileged."""
    if settings.default_cgroupns_mode and (machine.cgroup_mode == "v2" or not host.privileged):
        return settings.default_cgroupns_mode, settings.origin("default-cgroupns-mode")
    return "private" if machine.cgroup_mode == "v2" else "host", BUILT_IN


def _log_config(given: LogConfig, settings: Settings, origins: Origins) -> LogConfig:
    """The node's driver when none is named; the node's options go with the node's driver, and to others what is of all.

    json-file without a word about rotation gets ours.
    """
    driver = given.type or settings.log_driver
    own, node = given.config or {}, settings.log_opts
    if driver != settings.log_driver:
        node = {key: value for key, value in node.items() if key in logoptions.CACHE}
    elif not given.type:
        origins["HostConfig.LogConfig.Type"] = settings.origin("log-driver")
    merged = {**node, **own}
    ours = {} if driver != "json-file" or logoptions.ROTATION & set(merged) else logoptions.DEFAULT_ROTATION
    parts = [FLAG] if own else []
    parts += [settings.origin("log-opts")] if set(node) - set(own) else []
    parts += [BUILT_IN] if ours else []
    if parts:
        origins["HostConfig.LogConfig.Config"] = ", ".join(parts)
    return LogConfig(type=driver, config={**merged, **ours})


def _oom_warnings(host: HostConfig, machine: Host, change: dict[str, Any]) -> list[str]:
    """OomKillDisable has a meaning on cgroup v1 only."""
    if machine.cgroup_mode == "v2":
        if host.oom_kill_disable is not None:
            change["oom_kill_disable"] = None
        return (
            ["Your kernel does not support OomKillDisable. OomKillDisable discarded."] if host.oom_kill_disable else []
        )
    if host.oom_kill_disable is None:
        change["oom_kill_disable"] = False
    if host.oom_kill_disable and not host.memory:
        return [
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system "
            "running out of resources."
        ]
    return []


def _with_ids(host: HostConfig, resolve: Mapping[str, str], linked: Sequence[str]) -> HostConfig:
    """`container:NAME` as `container:ID`, so that a rename does not break it; links likewise."""
    change: dict[str, Any] = {"links": list(linked)} if linked else {}
    for attribute in ("network_mode", "ipc_mode", "pid_mode"):
        prefix, colon, name = getattr(host, attribute).partition(":")
        if prefix == "container" and colon and name in resolve:
            change[attribute] = f"container:{resolve[name]}"
    return replace(host, **change) if change else host


def _names(
    config: ContainerConfig, host: HostConfig, machine: Host, container_id: str, origins: Origins
) -> ContainerConfig:
    """Config.Hostname: the machine's with the host's network, else the short id."""
    if config.hostname:
        return config
    origins["Config.Hostname"] = BUILT_IN
    name = machine.hostname if host.network_mode == "host" else container_id[:SHORT_ID]
    return replace(config, hostname=name)


def _check(
    config: ContainerConfig,
    host: HostConfig,
    request: ContainerCreateRequest,
    settings: Settings,
    machine: Host,
    find_network: Callable[[str], Network | None],
) -> None:
    checks.check_config(config)
    healthcheck.check(config)
    if config.stop_signal:
        parse_signal(config.stop_signal)
    checks.check_restart_policy(host.restart_policy, auto_remove=host.auto_remove)
    checks.check_resources(host, machine)
    checks.check_host(host, machine)
    checks.check_runtime(host.runtime, settings)
    logoptions.check(host.log_config.type, host.log_config.config or {})
    checks.check_network(request, find_network)
    port_bindings(config, replace(host, network_mode="bridge"))


def port_bindings(config: ContainerConfig, host: HostConfig) -> tuple[PortBinding, ...]:
    """What is to be published, in the order in which ports are taken.  Raises InvalidArgument, NotImplemented."""
    mode = host.network_mode
    if mode in ("host", "none") or mode.startswith("container:") or config.network_disabled:
        return ()
    wanted = {
        key: [(item.host_ip, item.host_port) for item in items or ()] or [("", "")]
        for key, items in (host.port_bindings or {}).items()
    }
    return parse_bindings(config.exposed_ports or {}, wanted, publish_all=host.publish_all_ports)


def _pids_limit(host: HostConfig, settings: Settings, origins: Origins) -> int:
    """The client's when it gave one (-1: none), else the node's; 0 and absent mean the node's."""
    if host.pids_limit is not None and host.pids_limit != 0:
        return host.pids_limit if host.pids_limit > 0 else -1
    origins["HostConfig.PidsLimit"] = settings.origin("default-pids-limit")
    return settings.default_pids_limit


def _node(asked: HostConfig, secure: Security, settings: Settings, machine: Host) -> node_words.Origins:
    """What daemon.json's default-ulimits and then the node's file say where the request is silent.

    A container with masked paths of its own (none, with systempaths=unconfined) or a profile of its own (or none) keeps
    them, a privileged one has neither; of the built-in profile the node may change every call.
    """
    has_masks = asked.privileged or asked.masked_paths is not None
    own = {name for name, _, _ in limits(asked.ulimits or ())}
    daemon = Node(settings.origin("default-ulimits"), rlimits=tuple(limits(settings.default_ulimits.values())))
    first = node_words.taken(daemon, limits=own, masked_paths=None, calls=None)
    rest = node_words.taken(
        settings.node or Node(),
        limits=own | {name for name, _, _ in daemon.rlimits},
        masked_paths=None if has_masks else machine.masked_paths,
        calls=None if secure.seccomp else (),
    )
    rlimits = [*first.get("rlimits", ()), *rest.get("rlimits", ())]
    return {**({"rlimits": rlimits} if rlimits else {}), **{key: rest[key] for key in rest if key != "rlimits"}}


def limits(ulimits: Iterable[Ulimit]) -> list[tuple[str, int, int]]:
    """(RLIMIT_NOFILE, soft, hard) of `nofile` and so on; -1 is no limit, the kernel's greatest number."""
    return [(f"RLIMIT_{item.name.upper()}", item.soft & _U64, item.hard & _U64) for item in ulimits]


def _with_masks(host: HostConfig, node: node_words.Origins, origins: Origins) -> HostConfig:
    """The node's masked paths behind Docker's."""
    paths = node_words.masked(node)
    if not paths:
        return host
    origins["HostConfig.MaskedPaths"] = f"{BUILT_IN}, {node['maskedPaths'][0]['origin']}"
    return replace(host, masked_paths=[*(host.masked_paths or ()), *paths])
