"""Rows of NetworkingConfig and of exec requests."""

from __future__ import annotations

from typing import Any

from clients.fields import EXEC_ROWS, Row, Where, has, refused, reported, seen
from clients.fields_host import CAPS

ENDPOINT = "NetworkingConfig.EndpointsConfig{}"
ADDRESS = {"bridge": {"IPAMConfig": {"IPv4Address": "172.17.0.99"}}}
refused(f"{ENDPOINT}.IPAMConfig.IPv4Address", ADDRESS, "user specified IP address")
refused(
    f"{ENDPOINT}.IPAMConfig.IPv6Address",
    {"bridge": {"IPAMConfig": {"IPv6Address": "fd00::9"}}},
    "user specified IP address",
)
NOT_IN_CONFIG = "nothing in config.json: the link is the engine's"
NETWORK = "NetworkSettings/Networks/bridge"
seen(
    f"{ENDPOINT}.IPAMConfig.LinkLocalIPs",
    {"bridge": {"IPAMConfig": {"LinkLocalIPs": ["169.254.3.4"]}}},
    inspect=(f"{NETWORK}/IPAMConfig/LinkLocalIPs", ["169.254.3.4"]),
    script="ip -o addr show dev eth0",
    expect=has("169.254.3.4/16"),
    why=NOT_IN_CONFIG,
)
seen(
    f"{ENDPOINT}.Links",
    {"bridge": {"Links": ["other:alias"]}},
    inspect=(f"{NETWORK}/Links", ["other:alias"]),
    why="it is a name on networks of the user's own alone",
)
seen(
    f"{ENDPOINT}.MacAddress",
    {"bridge": {"MacAddress": "02:42:ac:11:77:02"}},
    inspect=("NetworkSettings/Networks/bridge/MacAddress", "02:42:ac:11:77:02"),
    script="cat /sys/class/net/eth0/address",
    expect="02:42:ac:11:77:02",
    why="nothing in config.json: the link is the engine's",
)
refused(f"{ENDPOINT}.Aliases", {"bridge": {"Aliases": ["other"]}}, "network-scoped alias")
IFNAME = {"com.docker.network.endpoint.ifname": "wire7"}
seen(
    f"{ENDPOINT}.DriverOpts",
    {"bridge": {"DriverOpts": IFNAME}},
    inspect=(f"{NETWORK}/DriverOpts", IFNAME),
    script="ls /sys/class/net",
    expect=has("wire7"),
    why=NOT_IN_CONFIG,
)
seen(
    f"{ENDPOINT}.GwPriority",
    {"bridge": {"GwPriority": 5}},
    inspect=(f"{NETWORK}/GwPriority", 5),
    why="one network is the gateway whatever its priority",
)
for name, value in (
    ("NetworkID", "ab" * 32),
    ("EndpointID", "cd" * 32),
    ("Gateway", "192.0.2.1"),
    ("IPAddress", "192.0.2.9"),
    ("IPPrefixLen", 9),
    ("IPv6Gateway", "fd00::1"),
    ("GlobalIPv6Address", "fd00::9"),
    ("GlobalIPv6PrefixLen", 63),
    ("DNSNames", ["marble"]),
):
    reported(f"{ENDPOINT}.{name}", {"bridge": {name: value}})

# ExecConfig: no config.json; `inspect` is a path in ExecInspect


def exec_row(field: str, value: Any, script: str, expect: Any, inspect: tuple[Where, Any] | None, **parts: Any) -> None:
    EXEC_ROWS.append(Row(field, value, script=script, expect=expect, inspect=inspect, **parts))


exec_row("AttachStdin", True, "cat", "typed", ("OpenStdin", True))
exec_row("AttachStdout", True, "echo out; echo err >&2", has("out"), ("OpenStdout", True))
exec_row("AttachStderr", True, "echo out; echo err >&2", has("err"), ("OpenStderr", True))
exec_row("ConsoleSize", [33, 99], "stty size", "33 99", None, also={"Tty": True})
exec_row(
    "DetachKeys",
    "ctrl-a",
    "sleep 10",
    "detached",
    ("DetachKeys", bool),
    also={"Tty": True, "AttachStdin": True},
)
exec_row("Tty", True, "test -t 1 && echo terminal", "terminal", ("ProcessConfig/tty", True))
exec_row("Env", ["A=b"], "echo $A", "b", None)
exec_row("Cmd", ["echo", "run"], "", "run", ("ProcessConfig/entrypoint", "echo"))
exec_row("Privileged", True, CAPS, lambda got: got > "CapEff:0000001", ("ProcessConfig/privileged", True))
exec_row("User", "1000:50", "id -u; id -g", "1000\n50", ("ProcessConfig/user", "1000:50"))
exec_row("WorkingDir", "/var/tmp", "pwd", "/var/tmp", None)
