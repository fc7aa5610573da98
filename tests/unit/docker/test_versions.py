"""What differs between API versions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from corten.docker.versions import (
    IMAGE_INSPECT_RULES,
    IMAGE_LIST_RULES,
    INFO_RULES,
    INSPECT_RULES,
    LIST_RULES,
    Version,
    adapt_answer,
    adapt_create,
    negotiate,
    split_version,
)
from corten.errors import InvalidArgument
from corten.spec.docker import ContainerCreateRequest
from corten.spec.docker_parse import parse_create


def request(**host: Any) -> ContainerCreateRequest:
    return parse_create(json.dumps({"Image": "x", "HostConfig": host}).encode())


def adapted(version: Version, **host: Any) -> ContainerCreateRequest:
    return adapt_create(request(**host), version, is_cgroup2=False)[0]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1.44/info", ("1.44", "/info")),
        ("/info", ("", "/info")),
        ("/version", ("", "/version")),
        ("/v1/x", ("1", "/x")),
        ("/volumes", ("", "/volumes")),
        ("/v1.44", ("", "/v1.44")),
    ],
)
def test_the_version_is_the_first_part_of_a_path(path: str, expected: tuple[str, str]) -> None:
    assert split_version(path) == expected


@pytest.mark.parametrize(
    ("version", "is_cgroup2", "mode"),
    [((1, 40), False, "host"), ((1, 40), True, ""), ((1, 41), False, "")],
)
def test_old_clients_expect_the_hosts_cgroup_namespace_on_v1(version: Version, is_cgroup2: bool, mode: str) -> None:
    changed, _ = adapt_create(request(), version, is_cgroup2=is_cgroup2)
    assert changed.host_config.cgroupns_mode == mode


def test_fields_younger_than_the_version_are_cleared() -> None:
    host = {"ConsoleSize": [2, 3], "Annotations": {"a": "b"}}
    assert adapted((1, 41), **host).host_config.console_size == (0, 0)
    assert adapted((1, 42), **host).host_config.console_size == (2, 3)
    assert adapted((1, 42), **host).host_config.annotations is None
    assert adapted((1, 43), **host).host_config.annotations == {"a": "b"}


def test_kernel_memory_is_ignored_since_1_42() -> None:
    assert adapted((1, 41), KernelMemory=9).host_config.kernel_memory == 9
    assert adapted((1, 42), KernelMemory=9).host_config.kernel_memory == 0


def mount(**fields: Any) -> dict[str, Any]:
    return {"Type": "bind", "Source": "/s", "Target": "/t", **fields}


@pytest.mark.parametrize(
    ("version", "fields", "message"),
    [
        (
            (1, 43),
            mount(BindOptions={"ReadOnlyForceRecursive": True}),
            "BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer",
        ),
        (
            (1, 44),
            mount(Type="volume", VolumeOptions={"Subpath": "x"}),
            "VolumeOptions.Subpath needs API v1.45 or newer",
        ),
        (
            (1, 45),
            mount(Type="tmpfs", TmpfsOptions={"Options": [["noexec"]]}),
            "TmpfsOptions.Options needs API v1.46 or newer",
        ),
        ((1, 47), mount(Type="image"), 'Mount type "Image" needs API v1.48 or newer'),
        ((1, 51), mount(VolumeOptions={}), 'VolumeOptions must not be specified on mount type "bind"'),
        ((1, 51), mount(TmpfsOptions={}), 'TmpfsOptions must not be specified on mount type "bind"'),
        ((1, 51), mount(Type="tmpfs", BindOptions={}), 'BindOptions must not be specified on mount type "tmpfs"'),
    ],
)
def test_mounts_that_a_version_does_not_allow(version: Version, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        adapted(version, Mounts=[fields])
    assert caught.value.text == message


def test_options_of_another_type_of_mount_were_ignored_before_1_42() -> None:
    mounts = adapted((1, 41), Mounts=[mount(VolumeOptions={"NoCopy": True})]).host_config.mounts
    assert mounts is not None
    assert mounts[0].volume_options is None


def test_a_readonly_bind_was_not_recursive_before_1_44() -> None:
    for version, expected in (((1, 43), True), ((1, 44), None)):
        mounts = adapted(version, Mounts=[mount(ReadOnly=True)]).host_config.mounts
        assert mounts is not None
        options = mounts[0].bind_options
        assert (options.read_only_non_recursive if options else None) is expected


def test_several_endpoints_need_1_44() -> None:
    body = b'{"Image": "x", "NetworkingConfig": {"EndpointsConfig": {"a": {}, "b": {}}}}'
    adapt_create(parse_create(body), (1, 44), is_cgroup2=False)
    with pytest.raises(InvalidArgument, match="multiple network endpoints: a, b"):
        adapt_create(parse_create(body), (1, 43), is_cgroup2=False)


def test_the_mac_address_of_an_endpoint_was_unknown_before_1_44() -> None:
    body = b'{"Image": "x", "NetworkingConfig": {"EndpointsConfig": {"a": {"MacAddress": "m", "GwPriority": 3}}}}'
    changed, _ = adapt_create(parse_create(body), (1, 43), is_cgroup2=False)
    endpoint = (changed.networking_config.endpoints_config or {})["a"]
    assert (endpoint.mac_address, endpoint.gw_priority) == ("", 0)


def test_two_different_mac_addresses_are_refused() -> None:
    body = (
        b'{"Image": "x", "MacAddress": "m", "HostConfig": {"NetworkMode": "a"},'
        b'"NetworkingConfig": {"EndpointsConfig": {"a": {"MacAddress": "n"}}}}'
    )
    with pytest.raises(InvalidArgument, match="must match the endpoint-specific MAC address"):
        adapt_create(parse_create(body), (1, 51), is_cgroup2=False)


def inspected() -> dict[str, Any]:
    networks = {"net": {"Aliases": None, "DNSNames": ["x"]}, "bridge": {"Aliases": None, "DNSNames": None}}
    return {
        "Id": "0123456789abcdef",
        "HostConfig": {"Annotations": {}},
        "NetworkSettings": {"Networks": networks},
        "ImageManifestDescriptor": {},
    }


def test_inspect_of_1_51_is_the_engines() -> None:
    assert adapt_answer(inspected(), INSPECT_RULES, (1, 51)) == inspected()


def test_inspect_of_old_versions() -> None:
    old = adapt_answer(inspected(), INSPECT_RULES, (1, 44))
    assert "ImageManifestDescriptor" not in old
    assert old["NetworkSettings"]["Networks"]["net"] == {"Aliases": ["0123456789ab"], "DNSNames": ["x"]}
    assert old["NetworkSettings"]["Networks"]["bridge"]["Aliases"] is None
    oldest = adapt_answer(inspected(), INSPECT_RULES, (1, 40))
    assert "DNSNames" not in oldest["NetworkSettings"]["Networks"]["net"]
    assert oldest["HostConfig"] == {}


def test_list_shows_annotations_since_1_46() -> None:
    assert adapt_answer({"HostConfig": {"Annotations": {}}}, LIST_RULES, (1, 45)) == {"HostConfig": {}}
    assert adapt_answer({"HostConfig": {"Annotations": {}}}, LIST_RULES, (1, 46))["HostConfig"]


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ((1, 51), {"Size": 7, "Containers": 2, "RepoTags": [], "RepoDigests": []}),
        ((1, 50), {"Size": 7, "Containers": -1, "RepoTags": [], "RepoDigests": []}),
        ((1, 43), {"Size": 7, "Containers": -1, "VirtualSize": 7, "RepoTags": [], "RepoDigests": []}),
        (
            (1, 42),
            {
                "Size": 7,
                "Containers": -1,
                "VirtualSize": 7,
                "RepoTags": ["<none>:<none>"],
                "RepoDigests": ["<none>@<none>"],
            },
        ),
    ],
)
def test_images_of_a_list(version: Version, expected: dict[str, Any]) -> None:
    image = {"Size": 7, "Containers": 2, "RepoTags": [], "RepoDigests": []}
    assert adapt_answer(image, IMAGE_LIST_RULES, version) == expected


def test_inspect_of_an_image() -> None:
    old = adapt_answer({"Size": 7, "Config": {"Cmd": ["x"]}}, IMAGE_INSPECT_RULES, (1, 43))
    assert old["VirtualSize"] == 7
    assert old["Created"] == "0001-01-01T00:00:00Z"
    assert (old["Config"]["Hostname"], old["Config"]["Cmd"], old["Container"]) == ("", ["x"], "")
    assert "Hostname" not in adapt_answer({"Config": {}}, IMAGE_INSPECT_RULES, (1, 50))["Config"]


def test_info_of_old_versions() -> None:
    info = {"DiscoveredDevices": [], "FirewallBackend": {}, "RuncCommit": {"ID": "a"}, "CgroupVersion": "1"}
    old = adapt_answer({**info, "Runtimes": {"runc": {"path": "runc", "status": {}}}}, INFO_RULES, (1, 40))
    assert old == {
        "BridgeNfIptables": False,
        "BridgeNfIp6tables": False,
        "RuncCommit": {"ID": "a", "Expected": "a"},
        "Runtimes": {"runc": {"path": "runc"}},
    }
    assert adapt_answer(dict(info), INFO_RULES, (1, 51)) == info


def test_a_version_of_any_number_of_digits_is_only_too_new() -> None:
    with pytest.raises(InvalidArgument, match="is too new"):
        negotiate("1." + "9" * 5000)
