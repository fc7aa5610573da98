"""The bodies of Docker API requests, as Go would read and print them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from corten.errors import InvalidArgument
from corten.spec import docker
from corten.spec.docker import (
    ContainerUpdateRequest,
    ExecConfig,
    ExecStartConfig,
    HostConfig,
    PortBinding,
    docker_name,
)
from corten.spec.docker_json import nonzero_fields, to_json
from corten.spec.docker_parse import is_zero, parse_body, parse_create


def create(**fields: Any) -> docker.ContainerCreateRequest:
    return parse_create(json.dumps({"Image": "x", **fields}).encode())


def host(**fields: Any) -> HostConfig:
    return create(HostConfig=fields).host_config


@pytest.mark.parametrize(
    ("attribute", "name"),
    [
        ("cpu_shares", "CpuShares"),
        ("uts_mode", "UTSMode"),
        ("container_id_file", "ContainerIDFile"),
        ("blkio_device_read_iops", "BlkioDeviceReadIOps"),
        ("io_maximum_iops", "IOMaximumIOps"),
        ("global_ipv6_prefix_len", "GlobalIPv6PrefixLen"),
        ("dns_names", "DNSNames"),
        ("host_ip", "HostIp"),
    ],
)
def test_fields_have_dockers_spelling(attribute: str, name: str) -> None:
    assert docker_name(attribute) == name


def test_an_empty_request_is_all_zero() -> None:
    request = create()
    assert list(nonzero_fields(request.config)) == [("Image", "x")]
    assert list(nonzero_fields(request.host_config)) == []
    assert request.unknown == ()


def test_keys_match_in_any_case_and_the_last_one_wins() -> None:
    request = parse_create(b'{"image": "a", "IMAGE": "b", "hostconfig": {"MEMORY": 5, "utsmode": "host"}}')
    assert (request.config.image, request.host_config.memory, request.host_config.uts_mode) == ("b", 5, "host")


def test_null_is_absent() -> None:
    request = create(Env=None, HostConfig={"Memory": None, "RestartPolicy": None, "Init": None})
    assert request == create(HostConfig={})
    assert create(HostConfig=None, NetworkingConfig=None) == create()


def test_null_inside_collections_is_the_zero_value() -> None:
    request = create(
        Env=["a=b", None],
        Labels={"a": None},
        ExposedPorts={"80/tcp": None},
        HostConfig={"PortBindings": {"80/tcp": None, "81/tcp": [None]}},
        NetworkingConfig={"EndpointsConfig": {"bridge": None}},
    )
    assert request.config.env == ["a=b", ""]
    assert request.config.labels == {"a": ""}
    assert request.config.exposed_ports == {"80/tcp": {}}
    assert request.host_config.port_bindings == {"80/tcp": None, "81/tcp": [PortBinding()]}
    assert request.networking_config.endpoints_config == {"bridge": docker.EndpointSettings()}


@pytest.mark.parametrize("name", ["Cmd", "Entrypoint", "Shell"])
def test_a_command_may_be_one_string(name: str) -> None:
    config = create(**{name: "sh -c x"}).config
    assert getattr(config, name.lower()) == ["sh -c x"]
    assert getattr(create(**{name: []}).config, name.lower()) == []
    assert getattr(create(**{name: None}).config, name.lower()) is None


def test_capabilities_may_be_one_string() -> None:
    assert host(CapAdd="ALL").cap_add == ["ALL"]


@pytest.mark.parametrize(("given", "size"), [([24, 80], (24, 80)), ([24], (24, 0)), ([], (0, 0)), ([1, 2, 3], (1, 2))])
def test_a_console_size_is_a_go_array(given: list[int], size: tuple[int, int]) -> None:
    assert host(ConsoleSize=given).console_size == size
    assert parse_body(json.dumps({"ConsoleSize": given}).encode(), ExecConfig)[0].console_size == size


def test_unknown_keys_with_a_value_are_known_by_path() -> None:
    request = create(
        Frob=1,
        Zero=0,
        Empty={"a": [], "b": ""},
        HostConfig={"Frob": True, "Mounts": [{"Type": "bind", "BindOptions": {"Frob": "x"}}]},
        NetworkingConfig={"EndpointsConfig": {"net": {"Frob": [1]}}},
    )
    assert request.unknown == (
        "Frob",
        "HostConfig.Frob",
        "HostConfig.Mounts[0].BindOptions.Frob",
        "NetworkingConfig.EndpointsConfig[net].Frob",
    )


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "invalid JSON: got EOF while reading request body"),
        (b" \n", "invalid JSON: got EOF while reading request body"),
        (b'{"Image": ', "invalid JSON: unexpected EOF"),
        (b'{"Image": x}', "invalid JSON: invalid character 'x' looking for beginning of value"),
        (b"{x}", "invalid JSON: invalid character 'x' looking for beginning of object key string"),
        (b'{"a": 1 x}', "invalid JSON: invalid character 'x' after object key:value pair"),
        (b'{"Image": "x"} {}', "unexpected content after JSON"),
        (b"[1]", "invalid JSON: json: cannot unmarshal array into Go value of type container.CreateRequest"),
        (b"null", "config cannot be empty in order to create a container"),
        (b'{"HostConfig": {"Memory": 5}}', "config cannot be empty in order to create a container"),
        (b'{"a":' * 20000, "invalid JSON: exceeded max depth"),
    ],
)
def test_bodies_that_are_no_request(body: bytes, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_create(body)
    assert caught.value.text == text


@pytest.mark.parametrize(
    ("fields", "got", "path", "type_name"),
    [
        ({"Image": 1}, "number", "Image", "string"),
        ({"Tty": "yes"}, "string", "Tty", "bool"),
        ({"Env": "A=b"}, "string", "Env", "[]string"),
        ({"Env": [1]}, "number", "Env", "string"),
        ({"Cmd": {}}, "object", "Cmd", "string"),
        ({"Labels": ["a"]}, "array", "Labels", "map[string]string"),
        ({"Volumes": {"/v": "x"}}, "string", "Volumes", "struct {}"),
        ({"StopTimeout": "3"}, "string", "StopTimeout", "int"),
        ({"HostConfig": []}, "array", "HostConfig", "container.HostConfig"),
        ({"HostConfig": {"Memory": "1g"}}, "string", "HostConfig.Memory", "int64"),
        ({"HostConfig": {"Memory": 1.5}}, "number 1.5", "HostConfig.Memory", "int64"),
        ({"HostConfig": {"Memory": 1 << 63}}, "number 9223372036854775808", "HostConfig.Memory", "int64"),
        ({"HostConfig": {"BlkioWeight": 70000}}, "number 70000", "HostConfig.BlkioWeight", "uint16"),
        ({"HostConfig": {"Ulimits": [{}, {"Soft": 0.5}]}}, "number 0.5", "HostConfig.Ulimits.Soft", "int64"),
        ({"HostConfig": {"Ulimits": [{"Soft": "1"}]}}, "string", "HostConfig.Ulimits.Soft", "int64"),
        ({"HostConfig": {"LogConfig": {"Config": {"a": 1}}}}, "number", "HostConfig.LogConfig.Config", "string"),
        ({"NetworkingConfig": "x"}, "string", "NetworkingConfig", "network.NetworkingConfig"),
    ],
)
def test_wrong_types_are_told_as_go_tells_them(fields: dict[str, Any], got: str, path: str, type_name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        create(**fields)
    assert caught.value.text == (
        f"invalid JSON: json: cannot unmarshal {got} into Go struct field CreateRequest.{path} of type {type_name}"
    )


def test_bodies_of_exec_and_update() -> None:
    value, unknown = parse_body(b'{"Cmd": ["x"], "Privileged": true, "Odd": 1}', ExecConfig)
    assert (value.cmd, value.privileged, unknown) == (["x"], True, ("Odd",))
    assert parse_body(b'{"Detach": true}', ExecStartConfig)[0] == ExecStartConfig(detach=True)
    update = parse_body(b'{"CpuShares": 2, "RestartPolicy": {"Name": "no"}}', ContainerUpdateRequest)[0]
    assert (update.cpu_shares, update.restart_policy.name) == (2, "no")
    with pytest.raises(InvalidArgument, match=r"ExecOptions\.Cmd of type \[\]string"):
        parse_body(b'{"Cmd": "x"}', ExecConfig)


def test_printing_keeps_what_was_sent() -> None:
    sent = {"Dns": [], "CapAdd": None, "Binds": ["/a:/b"], "Mounts": [{"Type": "tmpfs", "Target": "/t"}]}
    printed = to_json(host(**sent))
    assert {name: printed[name] for name in sent} == sent


def test_printing_leaves_out_what_go_leaves_out() -> None:
    printed = to_json(HostConfig())
    assert not {"Annotations", "Tmpfs", "Sysctls", "Mounts", "Init", "Runtime", "KernelMemory"} & set(printed)
    assert printed["PidsLimit"] is None
    assert printed["RestartPolicy"] == {"Name": "", "MaximumRetryCount": 0}
    assert to_json(host(Init=False))["Init"] is False
    config = to_json(create(StopTimeout=0).config)
    assert config["StopTimeout"] == 0
    assert config["Cmd"] is None
    assert "ExposedPorts" not in config
    assert "Shell" not in config


def test_printing_and_parsing_are_inverse() -> None:
    body = {
        "Image": "x", "Cmd": ["a"], "Entrypoint": [], "ExposedPorts": {"1/udp": {}}, "StopTimeout": 3,
        "Healthcheck": {"Test": ["NONE"], "Interval": 5},
        "HostConfig": {
            "Memory": 1, "Ulimits": [{"Name": "nofile", "Hard": 2, "Soft": 1}], "ConsoleSize": [1, 2],
            "PortBindings": {"1/udp": [{"HostIp": "", "HostPort": "5"}]}, "PidsLimit": -1, "Init": False,
        },
    }  # fmt: skip
    request = parse_create(json.dumps(body).encode())
    printed = {**to_json(request.config), "HostConfig": to_json(request.host_config)}
    assert parse_create(json.dumps(printed).encode()) == request


def test_nonzero_fields_are_walked_with_their_paths() -> None:
    found = dict(nonzero_fields(host(Memory=5, RestartPolicy={"Name": "always"}, Dns=[], Init=False), "HostConfig"))
    assert found == {"HostConfig.Memory": 5, "HostConfig.RestartPolicy.Name": "always"}


@pytest.mark.parametrize("value", [None, False, 0, "", [], {}, {"a": None}, [0, ""]])
def test_what_counts_as_zero(value: object) -> None:
    assert is_zero(value)
    assert not is_zero([value, 1])


def test_requests_survive_the_database() -> None:
    request = create(Cmd=["x"], HostConfig={"Memory": 5, "ConsoleSize": [1, 2]})
    assert msgspec.json.decode(msgspec.json.encode(request), type=docker.ContainerCreateRequest) == request


def test_an_unknown_key_of_any_depth_is_read() -> None:
    deep = b'{"Image": "x", "Foo": ' + b"[" * 900 + b"%d" + b"]" * 900 + b"}"
    assert parse_create(deep % 1).unknown == ("Foo",)
    assert parse_create(deep % 0).unknown == ()
