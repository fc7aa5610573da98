"""What the flags of `run` become in the body of ContainerCreate."""

from __future__ import annotations

from typing import Any

import pytest

from corten.cli.mounts import parse_mount, parse_volume
from corten.cli.options import create_request
from corten.cli.ports import parse_ports
from corten.cli.ps import ports_text
from corten.cli.run import run
from corten.cli.units import human_duration, human_size, parse_bytes, parse_duration_ns
from corten.errors import InvalidArgument


def request(*flags: str) -> dict[str, Any]:
    context = run.make_context("run", [*flags, "busybox", "echo", "-n", "x"])
    image, *command = context.params["operands"]
    return create_request(context.params, image, command)


def test_operands_after_the_image_are_the_command() -> None:
    assert request("-d")["Cmd"] == ["echo", "-n", "x"]


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        (["-m", "64m"], "Memory", 67108864),
        (["--memory-swap=-1"], "MemorySwap", -1),
        (["--cpus", "1.5"], "NanoCpus", 1500000000),
        (["--pids-limit", "7"], "PidsLimit", 7),
        (["--cap-add", "NET_ADMIN", "--cap-add=SYS_TIME"], "CapAdd", ["NET_ADMIN", "SYS_TIME"]),
        (["--privileged=true"], "Privileged", True),
        (["--tmpfs", "/run:size=1m,mode=700"], "Tmpfs", {"/run": "size=1m,mode=700"}),
        (["--ulimit", "nofile=10:20"], "Ulimits", [{"Name": "nofile", "Soft": 10, "Hard": 20}]),
        (["--sysctl", "net.core.somaxconn=5"], "Sysctls", {"net.core.somaxconn": "5"}),
        (["--shm-size=1g"], "ShmSize", 1 << 30),
        (["--init"], "Init", True),
        (["--net", "host"], "NetworkMode", "host"),
        (["--restart", "on-failure:3"], "RestartPolicy", {"Name": "on-failure", "MaximumRetryCount": 3}),
        (
            ["--device", "/dev/null:/dev/x:r"],
            "Devices",
            [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r"}],
        ),
    ],
)
def test_flag_becomes_field_of_host_config(flags: list[str], field: str, value: Any) -> None:
    assert request(*flags)["HostConfig"][field] == value


def test_false_boolean_is_absent() -> None:
    assert "Privileged" not in request("--privileged=false")["HostConfig"]


@pytest.mark.parametrize(
    ("detach", "interactive", "expected"),
    [([], ["-i"], (True, True, True)), (["-d"], ["-i"], (False, False, True)), ([], [], (False, True, False))],
)
def test_streams_are_attached_in_the_foreground(
    detach: list[str], interactive: list[str], expected: tuple[bool, bool, bool]
) -> None:
    body = request(*detach, *interactive)
    assert (body["AttachStdin"], body["AttachStdout"], body["OpenStdin"]) == expected


@pytest.mark.parametrize(
    ("spec", "bindings"),
    [
        ("80", {"80/tcp": [{"HostIp": "", "HostPort": ""}]}),
        ("8080:80", {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}),
        ("127.0.0.1:53:53/udp", {"53/udp": [{"HostIp": "127.0.0.1", "HostPort": "53"}]}),
        ("127.0.0.1::80", {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}),
        ("[::1]:80:80", {"80/tcp": [{"HostIp": "::1", "HostPort": "80"}]}),
        (
            "8000-8001:80-81",
            {"80/tcp": [{"HostIp": "", "HostPort": "8000"}], "81/tcp": [{"HostIp": "", "HostPort": "8001"}]},
        ),
        ("8000-8010:80", {"80/tcp": [{"HostIp": "", "HostPort": "8000-8010"}]}),
    ],
)
def test_published_port(spec: str, bindings: dict[str, Any]) -> None:
    assert parse_ports([spec])[1] == bindings


@pytest.mark.parametrize("spec", ["a:80", "80:b", "70000", "80/foo", "1-3:1-2", ":"])
def test_bad_port_is_refused(spec: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_ports([spec])


def test_mount_fields() -> None:
    assert parse_mount("type=bind,src=/a,dst=/b,ro,bind-propagation=rslave") == {
        "Type": "bind",
        "Source": "/a",
        "Target": "/b",
        "ReadOnly": True,
        "BindOptions": {"Propagation": "rslave"},
    }


@pytest.mark.parametrize("text", ["type=bind", "type=bind,src=/a,dst=/b,nonsense=1", "type=tmpfs,dst"])
def test_bad_mount_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_mount(text)


def test_relative_bind_source_is_made_absolute() -> None:
    assert parse_volume("./x:/y:ro").startswith("/")
    assert parse_volume("name:/y") == "name:/y"


@pytest.mark.parametrize(
    ("text", "value"), [("64m", 1 << 26), ("1.5k", 1536), ("10", 10), ("1GiB", 1 << 30), ("2mb", 1 << 21)]
)
def test_sizes_are_binary(text: str, value: int) -> None:
    assert parse_bytes(text) == value


@pytest.mark.parametrize("text", ["", "x", "-5", "5q"])
def test_bad_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid size"):
        parse_bytes(text)


def test_durations_are_go_s() -> None:
    assert parse_duration_ns("1m30.5s") == 90_500_000_000
    assert parse_duration_ns("500ms") == 500_000_000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (150, "2 minutes"),
        (3600, "About an hour"),
        (7200, "2 hours"),
        (3 * 86400, "3 days"),
        (21 * 86400, "3 weeks"),
    ],
)
def test_ages_read_as_docker_s(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(0, "0B"), (999, "999B"), (1437, "1.44kB"), (4_260_000, "4.26MB")])
def test_sizes_read_as_docker_s(size: int, text: str) -> None:
    assert human_size(size) == text


def test_consecutive_ports_are_joined() -> None:
    ports = [{"IP": "0.0.0.0", "PrivatePort": 80 + i, "PublicPort": 8080 + i, "Type": "tcp"} for i in range(3)]
    assert ports_text([*ports, {"PrivatePort": 443, "Type": "tcp"}]) == "0.0.0.0:8080-8082->80-82/tcp, 443/tcp"
