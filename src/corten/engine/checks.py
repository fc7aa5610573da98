"""What a create request may not ask for: dockerd's checks with dockerd's texts, and what Corten does not do yet.

A field at its zero value counts as absent (the CLI sends every field).  `UNSUPPORTED` are those of which any value is
refused; `WITHOUT_EFFECT` those that dockerd keeps and does nothing with on Linux: here too, and the answer says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from corten.engine import defaults, endpointchecks, storage
from corten.engine.host import Host, parse_list
from corten.engine.settings import Settings
from corten.errors import Internal, InvalidArgument
from corten.network.files import HOST_GATEWAY, parse_extra_hosts
from corten.network.values import Network
from corten.spec.address import is_address, mac_address
from corten.spec.docker import ContainerConfig, ContainerCreateRequest, HostConfig, Resources, RestartPolicy
from corten.spec.docker_json import nonzero_fields

UNSUPPORTED: Final = frozenset({"HostConfig.KernelMemory"})  # of API 1.41 and before; later ones leave it out
WITHOUT_EFFECT: Final = {
    "Cgroup": "no engine has it any more",
    "CpuCount": "it is of Windows alone",
    "KernelMemoryTCP": "runtimes ignore limits of the kernel's memory",
    "UsernsMode": "this engine maps no users",
}
NO_PERCENT: Final = "linux does not support CPU percent. Percent discarded."
_EMPTY_KEY: Final = "the empty string is not permitted as an annotation key"
_IPC_MODES: Final = frozenset({"", "private", "shareable", "none", "host"})
_POLICIES: Final = frozenset({"no", "always", "on-failure", "unless-stopped"})


def refuse_unsupported(request: ContainerCreateRequest) -> None:
    """Raises InvalidArgument naming the first field that has a value and is not served."""
    for path, _ in nonzero_fields(request.host_config, "HostConfig"):
        if path in UNSUPPORTED:
            raise _unsupported(path)


def _unsupported(path: str) -> InvalidArgument:
    return InvalidArgument(f"{path} is not supported yet")


def without_effect(host: Resources, *, maps_users: bool = False) -> list[str]:
    """A warning for each field that is kept, and changes nothing; `maps_users`: the node has `userns-remap`."""
    return [
        f"{path} has no effect: {WITHOUT_EFFECT[path]}."
        for path, value in nonzero_fields(host)
        if path in WITHOUT_EFFECT and not (path == "UsernsMode" and (maps_users or value == "host"))
    ]


def check_config(config: ContainerConfig) -> None:
    """Config, after the merge with the image."""
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidArgument(
            f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
        )
    for item in config.env or ():
        if not item.partition("=")[0]:
            raise InvalidArgument(f"invalid environment variable: {item}")


def check_restart_policy(policy: RestartPolicy, *, auto_remove: bool) -> None:
    """HostConfig.RestartPolicy."""
    if not policy.name:  # that of clients before 25.0: whatever stands beside it
        return
    if auto_remove and policy.name != "no":
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy")
    if policy.name not in _POLICIES:
        raise InvalidArgument(
            f"invalid restart policy: unknown policy '{policy.name}'; use one of 'no', 'always', 'on-failure', "
            "or 'unless-stopped'"
        )
    if policy.maximum_retry_count and policy.name != "on-failure":
        negative = " and cannot be negative" if policy.maximum_retry_count < 0 else ""
        raise InvalidArgument(
            f"invalid restart policy: maximum retry count can only be used with 'on-failure'{negative}"
        )
    if policy.maximum_retry_count < 0:
        raise InvalidArgument("invalid restart policy: maximum retry count cannot be negative")


def check_modes(config: ContainerConfig, host: HostConfig) -> None:
    """Namespaces: what each mode may be, and which options contradict it."""
    network = host.network_mode
    if network.startswith("container:"):
        _check_container_network(config, host)
    if network == "container":
        raise InvalidArgument("Invalid network mode: invalid container format container:<name|id>")
    if network == "host" or network.startswith("container:"):
        if host.links:
            raise InvalidArgument(
                f"conflicting options: {network.partition(':')[0]} type networking can't be used with links"
            )
        if config.mac_address:
            raise InvalidArgument("conflicting options: mac-address and the network mode")
    checks: tuple[tuple[str, str, Iterable[str]], ...] = (
        ("IPC", host.ipc_mode, _IPC_MODES),
        ("PID", host.pid_mode, ("", "host")),
        ("UTS", host.uts_mode, ("", "host")),
        ("cgroup namespace", host.cgroupns_mode, ("", "host", "private")),
    )
    for name, mode, known in checks:
        joins = name in ("IPC", "PID") and mode.startswith("container:") and len(mode) > len("container:")
        if mode not in known and not joins:
            raise InvalidArgument(f"invalid {name} mode: {mode}")
    if host.uts_mode == "host" and config.hostname:
        raise InvalidArgument("conflicting options: hostname and the UTS mode")
    if host.isolation.lower() not in ("", "default"):
        raise Internal(f"Invalid isolation: \"{host.isolation}\" - linux only supports 'default'")


def check_mapped(host: HostConfig, settings: Settings) -> None:
    """What a container in a user namespace may not have, in dockerd's words; and what is not served with one yet."""
    runtime = settings.runtimes.get(host.runtime)
    _raise_first(
        (
            (
                host.privileged,
                "privileged mode is incompatible with user namespaces.  You must run the container in the host "
                "namespace when running privileged mode",
            ),
            (
                host.network_mode == "host",
                "cannot share the host's network namespace when user namespaces are enabled",
            ),
            (host.pid_mode == "host", "cannot share the host PID namespace when user namespaces are enabled"),
            (host.ipc_mode == "host", "cannot share the host IPC namespace when user namespaces are enabled"),
            (
                runtime is not None and runtime.path,
                f"runtime {host.runtime}: user namespaces (userns-remap) are not supported with other runtimes than "
                "the built-in one yet: give --userns=host",
            ),
        )
    )


def _check_container_network(config: ContainerConfig, host: HostConfig) -> None:
    if not host.network_mode.partition(":")[2]:
        raise InvalidArgument("Invalid network mode: invalid container format container:<name|id>")
    conflicts = (
        (config.hostname, "hostname and the network mode"),
        (host.dns, "dns and the network mode"),
        (host.extra_hosts, "custom host-to-IP mapping and the network mode"),
        (host.port_bindings or host.publish_all_ports, "port publishing and the container type network mode"),
        (config.exposed_ports, "port exposing and the container type network mode"),
    )
    for present, text in conflicts:
        if present:
            raise InvalidArgument(f"conflicting options: {text}")


def check_resources(resources: Resources, machine: Host, *, is_update: bool = False) -> None:
    """HostConfig's limits, in dockerd's order and words; of an update what is given, or what comes of it.

    Raises InvalidArgument, and Internal where dockerd answers 500.
    """
    if is_update and (resources.io_maximum_bandwidth or resources.io_maximum_iops):
        raise InvalidArgument("Invalid QoS settings: linux does not support Maximum IO Bandwidth or Maximum IO IOps")
    _check_kernel(resources)
    _check_memory(resources, is_update)
    _check_cpu(resources, machine)
    for text, online, what, title in (
        (resources.cpuset_cpus, machine.cpus, "cpuset cpus", "CPUs"),
        (resources.cpuset_mems, machine.mems, "cpuset mems", "memory nodes"),
    ):
        _check_set(text, online, what, title)


def _check_kernel(limits: Resources) -> None:
    """What Linux has not, and real time."""
    unable = "Invalid QoS settings: linux does not support configuration of maximum"
    rules = (
        (limits.io_maximum_bandwidth, f"{unable} bandwidth"),
        (limits.io_maximum_iops, f"{unable} IOPs"),
        (
            limits.cpu_realtime_period
            and limits.cpu_realtime_runtime
            and limits.cpu_realtime_runtime > limits.cpu_realtime_period,
            "cpu real-time runtime cannot be higher than cpu real-time period",
        ),
    )
    for broken, text in rules:
        if broken:
            raise Internal(text)


def _check_memory(limits: Resources, is_update: bool) -> None:
    rules = (
        (limits.memory and limits.memory < defaults.MIN_MEMORY, "Minimum memory limit allowed is 6MB"),
        (
            limits.memory > 0 and 0 < limits.memory_swap < limits.memory,
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ),
        (
            limits.memory == 0 and limits.memory_swap > 0 and not is_update,
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ),
        (
            limits.memory_swappiness is not None and not -1 <= limits.memory_swappiness <= 100,
            f"Invalid value: {limits.memory_swappiness}, valid memory swappiness range is 0-100",
        ),
        (0 < limits.memory_reservation < defaults.MIN_MEMORY, "Minimum memory reservation allowed is 6MB"),
        (
            0 < limits.memory < limits.memory_reservation,
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ),
    )
    _raise_first(rules)


def _check_cpu(limits: Resources, machine: Host) -> None:
    count = machine.cpu_count
    rules = (
        (
            limits.nano_cpus > 0 and limits.cpu_period > 0,
            "Conflicting options: Nano CPUs and CPU Period cannot both be set",
        ),
        (
            limits.nano_cpus > 0 and limits.cpu_quota > 0,
            "Conflicting options: Nano CPUs and CPU Quota cannot both be set",
        ),
        (
            not 0 <= limits.nano_cpus <= count * 10**9,
            f"Range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available",
        ),
        (
            limits.cpu_period and not 1000 <= limits.cpu_period <= 1_000_000,
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ),
        (0 < limits.cpu_quota < 1000, "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
        (limits.cpu_shares < 0, "shares: invalid argument"),
        (
            0 < limits.cpu_shares < defaults.MIN_CPU_SHARES,
            f"the minimum allowed cpu-shares is {defaults.MIN_CPU_SHARES}",
        ),
        (
            limits.cpu_shares > defaults.MAX_CPU_SHARES,
            f"the maximum allowed cpu-shares is {defaults.MAX_CPU_SHARES}",
        ),
    )
    _raise_first(rules)


def _raise_first(rules: Iterable[tuple[object, str]]) -> None:
    for broken, text in rules:
        if broken:
            raise InvalidArgument(text)


def _check_set(text: str, online: str, what: str, title: str) -> None:
    if not text:
        return
    try:
        wanted = parse_list(text)
    except ValueError as error:
        raise InvalidArgument(f"Invalid value {text} for {what}: invalid format: {text}") from error
    except OverflowError as error:
        raise InvalidArgument(f"Invalid value {text} for {what}: {error}") from error
    if not wanted <= parse_list(online):
        raise InvalidArgument(f"Requested {title} are not available - requested {text}, available: {online}")


def check_host(host: HostConfig, machine: Host) -> None:
    """The rest of HostConfig."""
    _raise_first(
        (
            ("" in (host.annotations or {}), f"invalid Annotations: {_EMPTY_KEY}"),
            (host.shm_size < 0, "SHM size can not be less than 0"),
            (
                not -1000 <= host.oom_score_adj <= 1000,
                f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]",
            ),
        )
    )
    storage.check_options(host.storage_opt or {}, has_quotas=machine.has_quotas)
    parse_extra_hosts(host.extra_hosts or (), (HOST_GATEWAY,))
    for address in host.dns or ():
        _check_dns(address)


def _check_dns(address: str) -> None:
    if not is_address(address):
        raise InvalidArgument(f'bad nameserver address {address}: ParseAddr("{address}"): unable to parse IP')


def check_network(request: ContainerCreateRequest, find: Callable[[str], Network | None]) -> None:
    """NetworkingConfig in Docker's words; of networks that are not there, or not yet, less can be told."""
    if request.config.mac_address and not mac_address(request.config.mac_address):
        raise InvalidArgument(f"invalid config for network bridge: invalid MAC address {request.config.mac_address}")
    for ref, settings in (request.networking_config.endpoints_config or {}).items():
        name = "bridge" if ref == "default" else ref
        endpointchecks.check_asked(name, find(name), settings)


def check_runtime(name: str, settings: Settings) -> None:
    """HostConfig.Runtime is one of daemon.json's, or the built-in one."""
    if name not in settings.runtimes:
        raise InvalidArgument(f"unknown or invalid runtime name: {name}")
