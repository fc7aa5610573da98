"""Request, image and defaults become one configuration whose values know where they are from."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from corten.engine import effective
from corten.engine.explaining import explain, origins
from corten.engine.host import Host
from corten.engine.settings import Settings
from corten.errors import CortenError, Internal, InvalidArgument
from corten.spec.docker_json import to_json
from corten.spec.docker_parse import parse_create
from corten.spec.image import RunConfig

from .conftest import ID, Decide

IMAGE = RunConfig(
    env=["PATH=/bin", "LANG=C"],
    cmd=["serve"],
    entrypoint=["/entry"],
    user="web",
    working_dir="/srv",
    labels={"a": "image", "b": "image"},
    exposed_ports={"80/tcp": {}},
    stop_signal="SIGQUIT",
)


def test_a_request_without_anything_takes_all_of_the_image(decide: Decide) -> None:
    made = decide(IMAGE, Cmd=None)
    assert made.argv == ("/entry", "serve")
    assert made.config.user == "web"
    assert made.config.working_dir == "/srv"
    assert made.config.stop_signal == "SIGQUIT"
    assert made.origins["Config.Entrypoint"] == "image"


def test_a_command_keeps_the_entry_point_of_the_image(decide: Decide) -> None:
    assert decide(IMAGE, Cmd=["other"]).argv == ("/entry", "other")


def test_an_entry_point_of_ones_own_drops_the_command_of_the_image(decide: Decide) -> None:
    assert decide(IMAGE, Cmd=None, Entrypoint=["/mine"]).argv == ("/mine",)


@pytest.mark.parametrize("reset", [[""], []])
def test_an_empty_entry_point_resets_that_of_the_image(decide: Decide, reset: list[str]) -> None:
    assert decide(IMAGE, Cmd=["x"], Entrypoint=reset).argv == ("x",)


def test_no_command_at_all_is_refused(decide: Decide) -> None:
    with pytest.raises(InvalidArgument, match=r"^no command specified$"):
        decide(Cmd=None)


def test_the_clients_environment_comes_first_and_wins(decide: Decide) -> None:
    assert decide(IMAGE, Env=["LANG=de", "X=1"]).config.env == ["LANG=de", "X=1", "PATH=/bin"]


def test_labels_and_exposed_ports_are_merged(decide: Decide) -> None:
    made = decide(IMAGE, Labels={"a": "flag"}, ExposedPorts={"53/udp": {}})
    assert made.config.labels == {"a": "flag", "b": "image"}
    assert set(made.config.exposed_ports or ()) == {"80/tcp", "53/udp"}


def test_the_hostname_is_the_short_id_or_the_machines(decide: Decide) -> None:
    assert decide().config.hostname == ID[:12]
    assert decide(HostConfig={"NetworkMode": "host"}).config.hostname == "vm"
    assert decide(Hostname="mine").config.hostname == "mine"


def test_defaults_of_the_host_configuration_are_dockers(decide: Decide) -> None:
    host = to_json(decide().host)
    assert host["ShmSize"] == 64 << 20
    assert host["IpcMode"] == "private"
    assert host["CgroupnsMode"] == "host"
    assert host["NetworkMode"] == "bridge"
    assert host["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}
    assert host["LogConfig"] == {
        "Type": "json-file",
        "Config": {"max-size": "20m", "max-file": "5", "compress": "true"},  # dockerd's is {}: no rotation
    }
    assert host["OomKillDisable"] is False
    assert len(host["MaskedPaths"]) == 12


def test_memory_brings_swap_of_twice_the_size(decide: Decide) -> None:
    assert decide(HostConfig={"Memory": 64 << 20}).host.memory_swap == 128 << 20


def test_zero_values_of_the_cli_count_as_absent(decide: Decide) -> None:
    host = decide(HostConfig={"MemorySwappiness": -1, "PidsLimit": 0, "BlkioWeightDevice": [], "Links": []}).host
    assert host.memory_swappiness is None
    assert host.pids_limit is None


def test_the_pids_limit_is_the_nodes_unless_given(decide: Decide) -> None:
    assert decide().pids_limit == 500
    assert decide(HostConfig={"PidsLimit": 7}).pids_limit == 7
    assert decide(HostConfig={"PidsLimit": -1}).pids_limit == -1


def test_privileged_masks_nothing_and_is_unconfined(decide: Decide) -> None:
    made = decide(HostConfig={"Privileged": True})
    assert made.host.masked_paths is None
    assert made.security.seccomp == "unconfined"
    assert made.host.security_opt == ["label=disable"]
    assert "CAP_SYS_ADMIN" in made.capabilities


def test_explain_names_value_and_origin(decide: Decide) -> None:
    rows = {row["field"]: row for row in explain(decide(IMAGE, HostConfig={"Memory": 64 << 20}))}
    assert rows["HostConfig.Memory"] == {"field": "HostConfig.Memory", "value": 64 << 20, "origin": "flag"}
    assert rows["Config.User"]["origin"] == "image"
    assert rows["HostConfig.ShmSize"]["origin"] == "built-in"
    assert rows["HostConfig.PidsLimit"] == {"field": "HostConfig.PidsLimit", "value": 500, "origin": "built-in"}


# Texts and kinds of dockerd 26.1, asked with the same bodies.
REFUSALS: list[tuple[dict[str, Any], type[CortenError], str]] = [
    ({"Memory": 1000}, InvalidArgument, "Minimum memory limit allowed is 6MB"),
    (
        {"Memory": 10_000_000, "MemorySwap": 9_000_000},
        InvalidArgument,
        "Minimum memoryswap limit should be larger than memory limit, see usage",
    ),
    (
        {"MemorySwap": 1 << 30},
        InvalidArgument,
        "You should always set the Memory limit when using Memoryswap limit, see usage",
    ),
    (
        {"NanoCpus": 10**9, "CpuPeriod": 1000},
        InvalidArgument,
        "Conflicting options: Nano CPUs and CPU Period cannot both be set",
    ),
    (
        {"NanoCpus": 9 * 10**9},
        InvalidArgument,
        "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available",
    ),
    ({"CpusetCpus": "9"}, InvalidArgument, "Requested CPUs are not available - requested 9, available: 0-1"),
    ({"CpusetCpus": "x"}, InvalidArgument, "Invalid value x for cpuset cpus: invalid format: x"),
    ({"IpcMode": "foo"}, InvalidArgument, "invalid IPC mode: foo"),
    ({"UTSMode": "foo"}, InvalidArgument, "invalid UTS mode: foo"),
    ({"Isolation": "foo"}, Internal, "Invalid isolation: \"foo\" - linux only supports 'default'"),
    ({"ShmSize": -1}, InvalidArgument, "SHM size can not be less than 0"),
    ({"OomScoreAdj": 2000}, InvalidArgument, "Invalid value 2000, range for oom score adj is [-1000, 1000]"),
    ({"Runtime": "nope"}, InvalidArgument, "unknown or invalid runtime name: nope"),
    (
        {"NetworkMode": "container:"},
        InvalidArgument,
        "Invalid network mode: invalid container format container:<name|id>",
    ),
    (
        {"NetworkMode": "container:a", "Dns": ["1.1.1.1"]},
        InvalidArgument,
        "conflicting options: dns and the network mode",
    ),
    (
        {"AutoRemove": True, "RestartPolicy": {"Name": "always"}},
        InvalidArgument,
        "can't create 'AutoRemove' container with restart policy",
    ),
    (
        {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 1}},
        InvalidArgument,
        "invalid restart policy: maximum retry count can only be used with 'on-failure'",
    ),
    ({"CapAdd": ["FOO"]}, InvalidArgument, 'invalid CapAdd: unknown capability: "CAP_FOO"'),
    ({"SecurityOpt": ["foo"]}, Internal, 'invalid --security-opt 1: "foo"'),
    ({"SecurityOpt": ["foo=bar"]}, Internal, 'invalid --security-opt 2: "foo=bar"'),
    ({"LogConfig": {"Type": "foo"}}, InvalidArgument, 'error looking up logging plugin foo: plugin "foo" not found'),
    (
        {"LogConfig": {"Type": "json-file", "Config": {"foo": "bar"}}},
        InvalidArgument,
        "unknown log opt 'foo' for json-file log driver",
    ),
    ({"ExtraHosts": ["foo"]}, InvalidArgument, 'bad format for add-host: "foo"'),
    ({"ExtraHosts": ["foo=1.2.3.4"]}, InvalidArgument, 'bad format for add-host: "foo=1.2.3.4"'),
    ({"ExtraHosts": ["foo:[::1]"]}, InvalidArgument, 'invalid IP address in add-host: "[::1]"'),
]


@pytest.mark.parametrize(("host", "kind", "text"), REFUSALS, ids=[row[2][:40] for row in REFUSALS])
def test_a_wrong_host_configuration_is_refused_in_dockers_words(
    decide: Decide, host: dict[str, Any], kind: type[CortenError], text: str
) -> None:
    with pytest.raises(kind) as caught:
        decide(HostConfig=host)
    assert caught.value.text == text


@pytest.mark.parametrize(
    ("body", "field"),
    [({"HostConfig": {"KernelMemory": 1}}, "HostConfig.KernelMemory")],
)
def test_what_is_not_supported_yet_is_refused_by_name(decide: Decide, body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decide(**body)
    assert field in caught.value.text
    assert "not supported yet" in caught.value.text


@pytest.mark.parametrize(
    ("host", "warnings"),
    [
        ({"CpuCount": 1}, ["CpuCount has no effect: it is of Windows alone."]),
        ({"KernelMemoryTCP": 1}, ["KernelMemoryTCP has no effect: runtimes ignore limits of the kernel's memory."]),
        ({"Cgroup": "x"}, ["Cgroup has no effect: no engine has it any more."]),
        ({"UsernsMode": "private"}, ["UsernsMode has no effect: this engine maps no users."]),
        ({"UsernsMode": "host", "CpuCount": 0}, []),
    ],
)
def test_what_does_nothing_on_linux_is_kept_and_the_answer_says_so(
    machine: Host, settings: Settings, host: dict[str, Any], warnings: list[str]
) -> None:
    request = parse_create(msgspec.json.encode({"Image": "x", "Cmd": ["true"], "HostConfig": host}))
    made, said = effective.decide(request, RunConfig(), settings, machine, container_id=ID)
    assert said[: len(warnings)] == warnings
    assert (said == []) == (warnings == [])
    shown = to_json(made.host)
    assert {name: shown.get(name, 0) for name in host} == host


def test_without_a_network_there_is_none_whatever_the_mode_says(decide: Decide) -> None:
    for mode in ("", "host", "container:" + "f" * 64, "bridge"):
        host = {"NetworkMode": mode, "PublishAllPorts": not mode.startswith("container")}
        made = decide(NetworkDisabled=True, HostConfig=host, ExposedPorts={} if mode else {"80/tcp": {}})
        assert (made.network, made.is_private_network) == ("none", True)
        assert made.host.network_mode == (mode or "bridge")
        assert effective.port_bindings(made.config, made.host) == ()
    assert decide().network == "bridge"


def test_volumes_of_an_image_are_anonymous_ones_of_the_container(decide: Decide) -> None:
    image = RunConfig(volumes={"/data": {}, "/both": {}})
    made = decide(image, Volumes={"/both": {}, "/own": {}})
    assert sorted(made.config.volumes or ()) == ["/both", "/data", "/own"]
    assert made.origins["Config.Volumes"] == "flag, image"
    assert {(point.target, point.is_anonymous, point.copies) for point in made.mounts} == {
        ("/both", True, True),
        ("/data", True, True),
        ("/own", True, True),
    }
    taken = decide(image, HostConfig={"Binds": ["/tmp:/data", "name:/both"]})
    assert [(point.target, point.kind) for point in taken.mounts] == [("/data", "bind"), ("/both", "volume")]


def test_names_of_joined_containers_become_ids(machine: Host, settings: Settings) -> None:
    request = parse_create(b'{"Image": "x", "Cmd": ["true"], "HostConfig": {"NetworkMode": "container:web"}}')
    made, _ = effective.decide(request, RunConfig(), settings, machine, container_id=ID, resolve={"web": "f" * 64})
    assert made.host.network_mode == "container:" + "f" * 64


def test_inspect_has_the_origin_of_every_value(decide: Decide) -> None:
    found = origins(decide(Env=["A=b"], HostConfig={"Memory": 64 << 20}))
    assert found["HostConfig.Memory"] == "flag"
    assert found["HostConfig.MemorySwap"] == found["HostConfig.NetworkMode"] == "built-in"
    assert found["HostConfig.PidsLimit"] == "built-in"
    assert found["Config.Env"].startswith("flag")
