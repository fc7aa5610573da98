"""API versions: which are served, and what differs between them.

The engine speaks 1.51.  A request of an older version has the fields that its version did not know cleared or
refused, and an answer has what came later taken away and what was dropped put back, as dockerd does it.
Sources: Engine API version history 1.40–1.51; the description of 1.51.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from msgspec.structs import replace

from corten.docker.engine_api import Json
from corten.errors import InvalidArgument
from corten.spec.docker import BindOptions, ContainerCreateRequest, EndpointSettings, Mount

Version = tuple[int, int]

MIN_VERSION: Version = (1, 40)
MAX_VERSION: Version = (1, 51)

_PREFIX = re.compile(r"/v([0-9.]+)(/.*)")
MAC_WARNING = (
    "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead."
)


def version_text(version: Version) -> str:
    """`(1, 51)` as "1.51"."""
    return f"{version[0]}.{version[1]}"


def version_of(text: str) -> Version:
    """ "1.44" as `(1, 44)`; "" is the oldest that is served."""
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if text else MIN_VERSION


def split_version(path: str) -> tuple[str, str]:
    """The version in a path, or "", and the path without it: `/v1.44/info` is ("1.44", "/info")."""
    found = _PREFIX.match(path)
    return (found[1], found[2]) if found else ("", path)


def negotiate(text: str, oldest: Version = MIN_VERSION) -> Version:
    """The version to answer in; "" is the newest; `oldest` the node's.  Raises InvalidArgument in dockerd's words."""
    if not text:
        return MAX_VERSION
    # a number of many digits is only too new: int() refuses 4300 of them
    asked = tuple(int(part[:9] or 0) for part in text.split("."))
    if asked < oldest:
        raise InvalidArgument(
            f"client version {text} is too old. Minimum supported API version is {version_text(oldest)}, "
            "please upgrade your client to a newer version"
        )
    if asked > MAX_VERSION:
        raise InvalidArgument(
            f"client version {text} is too new. Maximum supported API version is {version_text(MAX_VERSION)}"
        )
    return (asked[0], asked[1])


# Requests


def adapt_create(
    request: ContainerCreateRequest, version: Version, *, is_cgroup2: bool
) -> tuple[ContainerCreateRequest, list[str]]:
    """The request as version 1.51 would have said it, and warnings for the answer.  Raises InvalidArgument."""
    mounts = request.host_config.mounts
    if mounts is not None:
        adapted = [_adapt_mount(mount, version) for mount in mounts]
        request = replace(request, host_config=replace(request.host_config, mounts=adapted))
    changes = dict(_host_changes(request, version, is_cgroup2))
    if changes:
        request = replace(request, host_config=replace(request.host_config, **changes))
    health = request.config.healthcheck
    if version < (1, 44) and health is not None:
        config = replace(request.config, healthcheck=replace(health, start_interval=0))
        request = replace(request, config=config)
    return _adapt_endpoints(replace(request, api_version=version), version)


def _host_changes(request: ContainerCreateRequest, version: Version, is_cgroup2: bool) -> Iterator[tuple[str, Any]]:
    host = request.host_config
    if version < (1, 41) and not is_cgroup2 and not host.cgroupns_mode:
        yield "cgroupns_mode", "host"
    if version < (1, 42) and host.console_size != (0, 0):
        yield "console_size", (0, 0)
    if version >= (1, 42) and host.kernel_memory:
        yield "kernel_memory", 0
    if version < (1, 43) and host.annotations:
        yield "annotations", None


# (option, its mount type)
_TYPED_OPTIONS = (("volume_options", "volume"), ("bind_options", "bind"), ("tmpfs_options", "tmpfs"))
_OPTION_NAMES = {"volume_options": "VolumeOptions", "bind_options": "BindOptions", "tmpfs_options": "TmpfsOptions"}


def _adapt_mount(mount: Mount, version: Version) -> Mount:
    bind, volume, tmpfs = mount.bind_options, mount.volume_options, mount.tmpfs_options
    _refuse_younger(
        version,
        [
            ((1, 44), bind is not None and bind.read_only_force_recursive, "BindOptions.ReadOnlyForceRecursive needs"),
            ((1, 45), volume is not None and bool(volume.subpath), "VolumeOptions.Subpath needs"),
            ((1, 46), tmpfs is not None and bool(tmpfs.options), "TmpfsOptions.Options needs"),
            ((1, 48), mount.type == "image", 'Mount type "Image" needs'),
        ],
    )
    for option, kind in _TYPED_OPTIONS:
        if getattr(mount, option) is None or mount.type == kind:
            continue
        if version >= (1, 42):
            raise InvalidArgument(f'{_OPTION_NAMES[option]} must not be specified on mount type "{mount.type}"')
        if option != "bind_options":
            mount = replace(mount, **{option: None})
    if version < (1, 42) and mount.bind_options is not None:
        mount = replace(mount, bind_options=replace(mount.bind_options, create_mountpoint=False))
    if version < (1, 44) and mount.type == "bind" and mount.read_only:
        options = mount.bind_options or BindOptions()
        mount = replace(mount, bind_options=replace(options, read_only_non_recursive=True))
    return mount


def _refuse_younger(version: Version, rules: list[tuple[Version, bool, str]]) -> None:
    for since, is_used, text in rules:
        if is_used and version < since:
            raise InvalidArgument(f"{text} API v{version_text(since)} or newer")


def _adapt_endpoints(request: ContainerCreateRequest, version: Version) -> tuple[ContainerCreateRequest, list[str]]:
    """Several networks since 1.44; the MAC address moved from the container to its endpoint in 1.44."""
    endpoints = dict(request.networking_config.endpoints_config or {})
    if version < (1, 44) and len(endpoints) > 1:
        names = ", ".join(endpoints)
        raise InvalidArgument(f"Container cannot be created with multiple network endpoints: {names}")
    mac = request.config.mac_address
    if version < (1, 44) and not mac:
        endpoints = {name: replace(endpoint, mac_address="") for name, endpoint in endpoints.items()}
    if version < (1, 48):
        endpoints = {name: replace(endpoint, gw_priority=0) for name, endpoint in endpoints.items()}
    warnings = []
    if mac:
        endpoints = _move_mac(request, endpoints, mac, version)
        if version >= (1, 44):
            request = replace(request, config=replace(request.config, mac_address=""))
            warnings.append(MAC_WARNING)
    if endpoints or request.networking_config.endpoints_config is not None:
        networking = replace(request.networking_config, endpoints_config=endpoints)
        request = replace(request, networking_config=networking)
    return request, warnings


def _move_mac(
    request: ContainerCreateRequest, endpoints: dict[str, EndpointSettings], mac: str, version: Version
) -> dict[str, EndpointSettings]:
    mode = request.host_config.network_mode
    if mode in ("none", "host") or mode.startswith("container:"):
        if version < (1, 44):
            raise InvalidArgument("conflicting options: mac-address and the network mode")
        return endpoints
    name = "bridge" if mode in ("", "default") else mode
    if version < (1, 44) and endpoints:
        name = next(iter(endpoints))
    elif endpoints and name not in endpoints:
        raise InvalidArgument(
            "unable to migrate container-wide MAC address to a specific network: "
            "HostConfig.NetworkMode must match the identity of a network in NetworkSettings.Networks"
        )
    endpoint = endpoints.get(name, EndpointSettings())
    if version >= (1, 44) and endpoint.mac_address not in ("", mac):
        raise InvalidArgument(
            "the container-wide MAC address must match the endpoint-specific MAC address for the main network, "
            "or be left empty"
        )
    return {**endpoints, name: replace(endpoint, mac_address=mac)}


# Answers.  Each rule is (the first version that does not need it, what is done before that version).

Rule = tuple[Version, Callable[[Json], None]]


def adapt_answer(answer: Json, rules: tuple[Rule, ...], version: Version) -> Json:
    """The answer, changed in place for an older version."""
    for until, change in rules:
        if version < until:
            change(answer)
    return answer


def _without(*names: str) -> Callable[[Json], None]:
    def change(answer: Json) -> None:
        for name in names:
            answer.pop(name, None)

    return change


def _drop_annotations(answer: Json) -> None:
    answer.get("HostConfig", {}).pop("Annotations", None)


def _without_dns_names(answer: Json) -> None:
    for endpoint in _endpoints(answer).values():
        endpoint.pop("DNSNames", None)


def _without_gw_priority(answer: Json) -> None:
    for endpoint in _endpoints(answer).values():
        endpoint.pop("GwPriority", None)


def _aliases_with_own_names(answer: Json) -> None:
    own = (answer["Id"][:12], answer.get("Config", {}).get("Hostname") or answer["Id"][:12])
    for name, endpoint in _endpoints(answer).items():
        if name not in ("bridge", "host", "none"):
            names = [*(endpoint.get("Aliases") or []), *own]
            endpoint["Aliases"] = list(dict.fromkeys(names))


def _endpoints(answer: Json) -> Json:
    networks: Json = (answer.get("NetworkSettings") or {}).get("Networks") or {}
    return networks


INSPECT_RULES: tuple[Rule, ...] = (
    ((1, 48), _without("ImageManifestDescriptor")),
    ((1, 48), _without_gw_priority),
    ((1, 45), _aliases_with_own_names),
    ((1, 44), _without_dns_names),
    ((1, 43), _drop_annotations),
)
LIST_RULES: tuple[Rule, ...] = (
    ((1, 48), _without("ImageManifestDescriptor")),
    ((1, 48), _without_gw_priority),
    ((1, 46), _drop_annotations),
)


def _virtual_size(answer: Json) -> None:
    answer["VirtualSize"] = answer.get("Size", 0)


def _unknown_containers(answer: Json) -> None:
    answer["Containers"] = -1


def _named_none(answer: Json) -> None:
    answer["RepoTags"] = answer.get("RepoTags") or ["<none>:<none>"]
    answer["RepoDigests"] = answer.get("RepoDigests") or ["<none>@<none>"]


IMAGE_LIST_RULES: tuple[Rule, ...] = (
    ((1, 51), _unknown_containers),
    ((1, 48), _without("Descriptor")),
    ((1, 47), _without("Manifests")),
    ((1, 44), _virtual_size),
    ((1, 43), _named_none),
)

LEGACY_KEY = "Legacy"  # in the engine's answer: what only old versions say; never sent
# Of a container's configuration, and never of an image's; printed at their zero value up to 1.49.
_RUNTIME_FIELDS: Json = {
    "Hostname": "", "Domainname": "", "AttachStdin": False, "AttachStdout": False, "AttachStderr": False,
    "Tty": False, "OpenStdin": False, "StdinOnce": False, "Image": "",
}  # fmt: skip


def _config_like_a_container(answer: Json) -> None:
    of_container = answer.get(LEGACY_KEY, {}).get("Config", {})
    answer["Config"] = {**_RUNTIME_FIELDS, **of_container, **(answer.get("Config") or {})}


def _container_of_image(answer: Json) -> None:
    legacy = answer.get(LEGACY_KEY, {})
    answer["Container"] = legacy.get("Container", "")
    empty = {"Env": None, "Cmd": None, "Volumes": None, "WorkingDir": "", "Entrypoint": None, "OnBuild": None}
    answer["ContainerConfig"] = {**_RUNTIME_FIELDS, "User": "", **empty, "Labels": None}
    answer["ContainerConfig"] |= legacy.get("ContainerConfig", {})


def _created_always(answer: Json) -> None:
    answer.setdefault("Created", "0001-01-01T00:00:00Z")


IMAGE_INSPECT_RULES: tuple[Rule, ...] = (
    ((1, 50), _config_like_a_container),
    ((1, 48), _without("Descriptor", "Manifests")),
    ((1, 45), _container_of_image),
    ((1, 44), _virtual_size),
    ((1, 44), _created_always),
)


def _runtimes_without_status(answer: Json) -> None:
    for runtime in (answer.get("Runtimes") or {}).values():
        runtime.pop("status", None)


def _bridge_nf(answer: Json) -> None:
    answer.setdefault("BridgeNfIptables", False)
    answer.setdefault("BridgeNfIp6tables", False)


def _expected_commits(answer: Json) -> None:
    for name in ("ContainerdCommit", "RuncCommit", "InitCommit"):
        commit = answer.get(name)
        if commit:
            commit.setdefault("Expected", commit.get("ID", ""))
    registry = answer.get("RegistryConfig")
    if registry is not None:
        registry.setdefault("AllowNondistributableArtifactsCIDRs", None)
        registry.setdefault("AllowNondistributableArtifactsHostnames", None)


INFO_RULES: tuple[Rule, ...] = (
    ((1, 50), _without("DiscoveredDevices")),
    ((1, 50), _bridge_nf),
    ((1, 49), _without("FirewallBackend")),
    ((1, 49), _expected_commits),
    ((1, 46), _without("Containerd")),
    ((1, 44), _without("CDISpecDirs")),
    ((1, 44), _runtimes_without_status),
    ((1, 41), _without("CgroupVersion", "DefaultAddressPools")),
)


NETWORK_RULES: tuple[Rule, ...] = (((1, 47), _without("EnableIPv4")),)


def _builder_size(answer: Json) -> None:
    answer["BuilderSize"] = 0


DISK_USAGE_RULES: tuple[Rule, ...] = (((1, 51), _without("ContentSize")), ((1, 42), _builder_size))
