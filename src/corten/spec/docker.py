"""The bodies of Docker API requests as frozen values.

Sources: Docker Engine API description v1.51 (`ContainerConfig`, `HostConfig`, `Resources`,
`NetworkingConfig`, `EndpointSettings`, `Mount`, `ExecConfig`, `ExecStartConfig`, ContainerUpdate);
decoding rules are those of Go's encoding/json, with which dockerd reads them: keys match in any case, null
means "not given", unknown keys are ignored (here their names are kept, so that none is ignored in
silence), numbers are integers of 64 bits.

`None` and an empty list differ where Go's nil and empty slice differ: `Entrypoint: []` resets the image's
entry point, `MaskedPaths: []` masks nothing, and inspect shows what was sent.  Parsing is in
`spec.docker_parse`.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

__all__ = [
    "IPAM",
    "BindOptions",
    "ContainerConfig",
    "ContainerCreateRequest",
    "ContainerUpdateRequest",
    "DeviceMapping",
    "DeviceRequest",
    "DriverConfig",
    "EndpointIPAMConfig",
    "EndpointSettings",
    "ExecConfig",
    "ExecStartConfig",
    "HealthConfig",
    "HostConfig",
    "IPAMConfig",
    "ImageOptions",
    "LogConfig",
    "Mount",
    "NetworkConnectRequest",
    "NetworkCreateRequest",
    "NetworkDisconnectRequest",
    "NetworkingConfig",
    "PortBinding",
    "PortsRequest",
    "Resources",
    "RestartPolicy",
    "ThrottleDevice",
    "TmpfsOptions",
    "Ulimit",
    "VolumeCreateRequest",
    "VolumeOptions",
    "WeightDevice",
]

# Spellings that are not the plain CamelCase of the attribute's name.
_SPELLING = {
    "blkio_device_read_iops": "BlkioDeviceReadIOps",
    "blkio_device_write_iops": "BlkioDeviceWriteIOps",
    "container_id_file": "ContainerIDFile",
    "device_ids": "DeviceIDs",
    "dns_names": "DNSNames",
    "endpoint_id": "EndpointID",
    "global_ipv6_address": "GlobalIPv6Address",
    "global_ipv6_prefix_len": "GlobalIPv6PrefixLen",
    "io_maximum_bandwidth": "IOMaximumBandwidth",
    "io_maximum_iops": "IOMaximumIOps",
    "ip_address": "IPAddress",
    "enable_ipv4": "EnableIPv4",
    "enable_ipv6": "EnableIPv6",
    "ip_prefix_len": "IPPrefixLen",
    "ip_range": "IPRange",
    "ipam": "IPAM",
    "ipam_config": "IPAMConfig",
    "ipv4_address": "IPv4Address",
    "ipv6_address": "IPv6Address",
    "ipv6_gateway": "IPv6Gateway",
    "kernel_memory_tcp": "KernelMemoryTCP",
    "link_local_ips": "LinkLocalIPs",
    "network_id": "NetworkID",
    "uts_mode": "UTSMode",
}


def docker_name(attribute: str) -> str:
    """Docker's spelling of an attribute: `cpu_shares` is `CpuShares`, `uts_mode` is `UTSMode`."""
    return _SPELLING.get(attribute) or "".join(word.capitalize() for word in attribute.split("_"))


Int64 = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Uint16 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
Uint32 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
Strings = list[str] | None
StringMap = dict[str, str] | None
ConsoleSize = tuple[Uint32, Uint32]  # rows, columns


class _Value(msgspec.Struct, frozen=True, kw_only=True, rename=docker_name):
    """Base: frozen, keyword-only, fields spelled as Docker spells them."""


class HealthConfig(_Value, frozen=True):
    """A health check; durations in ns."""

    test: Strings = None
    interval: Int64 = 0
    timeout: Int64 = 0
    start_period: Int64 = 0
    start_interval: Int64 = 0
    retries: Int64 = 0


class ContainerConfig(_Value, frozen=True):
    """What is portable between hosts.  `exposed_ports` and `volumes` are sets, spelled as maps of {}."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, dict[str, Any]] | None = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: Strings = None
    cmd: Strings = None
    healthcheck: HealthConfig | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: dict[str, dict[str, Any]] | None = None
    working_dir: str = ""
    entrypoint: Strings = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: Strings = None
    labels: StringMap = None
    stop_signal: str = ""
    stop_timeout: Int64 | None = None
    shell: Strings = None


class WeightDevice(_Value, frozen=True):
    path: str = ""
    weight: Uint16 = 0


class ThrottleDevice(_Value, frozen=True):
    """A limit for one block device: bytes or operations a second."""

    path: str = ""
    rate: Annotated[int, msgspec.Meta(ge=0)] = 0


class DeviceMapping(_Value, frozen=True):
    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(_Value, frozen=True):
    driver: str = ""
    count: Int64 = 0
    device_ids: Strings = None
    capabilities: list[list[str]] | None = None
    options: StringMap = None


class Ulimit(_Value, frozen=True):
    name: str = ""
    hard: Int64 = 0
    soft: Int64 = 0


class RestartPolicy(_Value, frozen=True):
    name: str = ""
    maximum_retry_count: Int64 = 0


class LogConfig(_Value, frozen=True):
    type: str = ""
    config: StringMap = None


class PortBinding(_Value, frozen=True):
    """Where a container port is published; `host_port` is a number, a range or empty, as text."""

    host_ip: str = ""
    host_port: str = ""


class PortsRequest(_Value, frozen=True):
    """`POST /containers/{id}/corten/ports`: ports to publish, and to publish no more; the latter go first."""

    add: dict[str, list[PortBinding] | None] | None = None
    remove: dict[str, list[PortBinding] | None] | None = None


class BindOptions(_Value, frozen=True):
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False
    id_map: str = ""  # Corten's own: engine.idmapspec


class DriverConfig(_Value, frozen=True):
    name: str = ""
    options: StringMap = None


class VolumeOptions(_Value, frozen=True):
    no_copy: bool = False
    labels: StringMap = None
    subpath: str = ""
    driver_config: DriverConfig | None = None
    id_map: str = ""


class ImageOptions(_Value, frozen=True):
    subpath: str = ""


class TmpfsOptions(_Value, frozen=True):
    size_bytes: Int64 = 0
    mode: Uint32 = 0
    options: list[list[str]] | None = None


class Mount(_Value, frozen=True):
    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    image_options: ImageOptions | None = None
    tmpfs_options: TmpfsOptions | None = None
    cluster_options: dict[str, Any] | None = None


class Resources(_Value, frozen=True):
    """Limits; bytes, µs (`cpu_period`, `cpu_quota`, …) and 10⁻⁹ CPUs (`nano_cpus`)."""

    cpu_shares: Int64 = 0
    memory: Int64 = 0
    nano_cpus: Int64 = 0
    cgroup_parent: str = ""
    blkio_weight: Uint16 = 0
    blkio_weight_device: list[WeightDevice] | None = None
    blkio_device_read_bps: list[ThrottleDevice] | None = None
    blkio_device_write_bps: list[ThrottleDevice] | None = None
    blkio_device_read_iops: list[ThrottleDevice] | None = None
    blkio_device_write_iops: list[ThrottleDevice] | None = None
    cpu_period: Int64 = 0
    cpu_quota: Int64 = 0
    cpu_realtime_period: Int64 = 0
    cpu_realtime_runtime: Int64 = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[DeviceMapping] | None = None
    device_cgroup_rules: Strings = None
    device_requests: list[DeviceRequest] | None = None
    kernel_memory: Int64 = 0
    kernel_memory_tcp: Int64 = 0
    memory_reservation: Int64 = 0
    memory_swap: Int64 = 0
    memory_swappiness: Int64 | None = None
    oom_kill_disable: bool | None = None
    pids_limit: Int64 | None = None
    ulimits: list[Ulimit] | None = None
    cpu_count: Int64 = 0
    cpu_percent: Int64 = 0
    io_maximum_iops: Annotated[int, msgspec.Meta(ge=0)] = 0
    io_maximum_bandwidth: Annotated[int, msgspec.Meta(ge=0)] = 0


class HostConfig(Resources, frozen=True):
    """What depends on the host, and the limits of `Resources`."""

    binds: Strings = None
    container_id_file: str = ""
    log_config: LogConfig = LogConfig()
    network_mode: str = ""
    port_bindings: dict[str, list[PortBinding] | None] | None = None
    restart_policy: RestartPolicy = RestartPolicy()
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: Strings = None
    console_size: ConsoleSize = (0, 0)
    annotations: StringMap = None
    cap_add: Strings = None
    cap_drop: Strings = None
    cgroupns_mode: str = ""
    dns: Strings = None
    dns_options: Strings = None
    dns_search: Strings = None
    extra_hosts: Strings = None
    group_add: Strings = None
    ipc_mode: str = ""
    cgroup: str = ""
    links: Strings = None
    oom_score_adj: Int64 = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: Strings = None
    storage_opt: StringMap = None
    tmpfs: StringMap = None
    uts_mode: str = ""
    userns_mode: str = ""
    shm_size: Int64 = 0
    sysctls: StringMap = None
    runtime: str = ""
    isolation: str = ""
    mounts: list[Mount] | None = None
    masked_paths: Strings = None
    readonly_paths: Strings = None
    init: bool | None = None


class EndpointIPAMConfig(_Value, frozen=True):
    ipv4_address: str = ""
    ipv6_address: str = ""
    link_local_ips: Strings = None


class EndpointSettings(_Value, frozen=True):
    """A container's place in one network; from `network_id` on it is what inspect reports."""

    ipam_config: EndpointIPAMConfig | None = None
    links: Strings = None
    aliases: Strings = None
    mac_address: str = ""
    driver_opts: StringMap = None
    gw_priority: Int64 = 0
    network_id: str = ""
    endpoint_id: str = ""
    gateway: str = ""
    ip_address: str = ""
    ip_prefix_len: Int64 = 0
    ipv6_gateway: str = ""
    global_ipv6_address: str = ""
    global_ipv6_prefix_len: Int64 = 0
    dns_names: Strings = None


class NetworkingConfig(_Value, frozen=True):
    endpoints_config: dict[str, EndpointSettings] | None = None


class ContainerCreateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /containers/create`.

    `unknown` holds the dotted paths of keys with a non-zero value that no field above has
    (`HostConfig.Frobnicate`), in the order of the body.  `api_version` is the one that was asked for.
    """

    config: ContainerConfig
    host_config: HostConfig = HostConfig()
    networking_config: NetworkingConfig = NetworkingConfig()
    unknown: tuple[str, ...] = ()
    api_version: tuple[int, int] = (1, 51)


class ContainerUpdateRequest(Resources, frozen=True):
    """`POST /containers/{id}/update`."""

    restart_policy: RestartPolicy = RestartPolicy()


class IPAMConfig(_Value, frozen=True):
    """One subnet of a network."""

    subnet: str = ""
    ip_range: str = ""
    gateway: str = ""
    auxiliary_addresses: StringMap = None


class IPAM(_Value, frozen=True):
    """How a network's addresses are given."""

    driver: str = ""
    options: StringMap = None
    config: list[IPAMConfig] | None = None


class NetworkCreateRequest(_Value, frozen=True):
    """`POST /networks/create`."""

    name: str = ""
    check_duplicate: bool = False
    driver: str = ""
    scope: str = ""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: dict[str, Any] | None = None
    ipam: IPAM | None = None
    enable_ipv4: bool | None = None
    enable_ipv6: bool | None = None
    options: StringMap = None
    labels: StringMap = None


class NetworkConnectRequest(_Value, frozen=True):
    """`POST /networks/{id}/connect`."""

    container: str = ""
    endpoint_config: EndpointSettings | None = None


class NetworkDisconnectRequest(_Value, frozen=True):
    """`POST /networks/{id}/disconnect`."""

    container: str = ""
    force: bool = False


class VolumeCreateRequest(_Value, frozen=True):
    """`POST /volumes/create`."""

    name: str = ""
    driver: str = ""
    driver_opts: StringMap = None
    labels: StringMap = None
    cluster_volume_spec: dict[str, Any] | None = None


class ExecConfig(_Value, frozen=True):
    """`POST /containers/{id}/exec`."""

    user: str = ""
    privileged: bool = False
    tty: bool = False
    console_size: ConsoleSize | None = None
    attach_stdin: bool = False
    attach_stderr: bool = False
    attach_stdout: bool = False
    detach: bool = False
    detach_keys: str = ""
    env: Strings = None
    working_dir: str = ""
    cmd: Strings = None


class ExecStartConfig(_Value, frozen=True):
    """`POST /exec/{id}/start`."""

    detach: bool = False
    tty: bool = False
    console_size: ConsoleSize | None = None
