"""Every field of a create or exec request: a value that is not the default, and what has to come of it.

A row is one of
  refused   the engine answers with an error that names the field (or says the field in `words`);
  seen      the value shows in inspect, in config.json and in the kernel (or in what the engine does);
  reported  the description calls the field operational data: it is what inspect says, and requests cannot set it.
The same request without the field must look different in config.json and in the kernel: the test compares.
`None` with a reason stands for what a field cannot change by its nature.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

from clients.api import Api
from support.engine import CortenEngine

Json = Any
Where = str | Callable[[Json], Any]


@dataclasses.dataclass(frozen=True)
class Seen:
    """A container that runs with the field, for probes from the outside."""

    api: Api
    engine: CortenEngine
    id: str
    folder: str  # of the test: has a file, and a tmpfs below

    @property
    def inspect(self) -> Json:
        return self.api.ok("GET", f"/containers/{self.id}/json")

    @property
    def pid(self) -> int:
        number: int = self.inspect["State"]["Pid"]
        return number


Look = Callable[[Seen], Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """See the module.  `value` stands at the part of `field` in front of the first [] or {}."""

    field: str
    value: Any
    words: str = ""  # of a refusal
    inspect: tuple[Where, Any] | None = None
    config: tuple[Where, Any] | None = None
    script: str = ""
    look: Look | None = None
    expect: Any = None
    also: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    why: str = ""  # why a part of the proof is missing
    kind: str = "seen"
    keep_command: bool = False  # the row brings its own command
    same_kernel: bool = False  # what is asked for may be the default: `why` says when

    @property
    def name(self) -> str:
        """The field's own name."""
        return re.split(r"[.\[\]{}]+", self.field)[-1]


# Up to 1.41 only; since then ignored, as dockerd does.
GONE = frozenset({"HostConfig.KernelMemory"})
# Not in Debian 12's description, which is of 1.41.
YOUNGER = frozenset(
    {
        "ConsoleSize",
        "Healthcheck.StartInterval",
        "HostConfig.Annotations",
        "HostConfig.Mounts[].BindOptions.CreateMountpoint",
        "HostConfig.Mounts[].BindOptions.ReadOnlyForceRecursive",
        "HostConfig.Mounts[].BindOptions.ReadOnlyNonRecursive",
        "HostConfig.Mounts[].ImageOptions",
        "HostConfig.Mounts[].TmpfsOptions.Options",
        "NetworkingConfig.EndpointsConfig{}.DNSNames",
        "NetworkingConfig.EndpointsConfig{}.GwPriority",
    }
)

ROWS: list[Row] = []
EXEC_ROWS: list[Row] = []


def refused(field: str, value: Any, words: str = "", **also: Any) -> None:
    ROWS.append(Row(field, value, words=words, also=spread(also), kind="refused"))


def reported(field: str, value: Any) -> None:
    ROWS.append(Row(field, value, kind="reported"))


def seen(field: str, value: Any, **parts: Any) -> None:
    """`inspect` defaults to the field itself with the value; config None and no probe need `why`."""
    parts.setdefault("inspect", (_inspect_path(field), value))
    parts["also"] = spread(parts.get("also", {}))
    row = Row(field, value, **parts)
    assert row.why or (row.config and (row.script or row.look)), field
    ROWS.append(row)


def spread(names: Mapping[str, Any]) -> dict[str, Any]:
    """HostConfig_Memory=1 as {"HostConfig.Memory": 1}."""
    return {name.replace("_", "."): value for name, value in names.items()}


def _inspect_path(field: str) -> str:
    path = re.split(r"\[\]|\{\}", field)[0]
    return path.replace(".", "/") if path.startswith("HostConfig") else f"Config/{path}"


def pick(document: Json, where: Where) -> Any:
    """The value at `a/b/0`, None where there is nothing."""
    if callable(where):
        return where(document)
    for part in where.split("/"):
        if isinstance(document, list):
            document = document[int(part)] if int(part) < len(document) else None
        else:
            document = (document or {}).get(part)
    return document


def matches(expected: Any, got: Any) -> bool:
    """Equal, or as the pattern or the predicate says."""
    if isinstance(expected, re.Pattern):
        return isinstance(got, str) and expected.fullmatch(got) is not None
    return bool(expected(got)) if callable(expected) else bool(expected == got)


# Shorthands of the tables.

MIB = 1 << 20
BOX = "corten-test/busybox:1"
OTHER = "corten-test/fields:other"


def cgroup(v1: str, v2: str) -> str:
    """A script that prints a cgroup file, whichever form the machine has."""
    return f"cat /sys/fs/cgroup/{v1} /sys/fs/cgroup/{v2} 2>/dev/null"


def either(*values: str) -> re.Pattern[str]:
    """The value on v1, or on v2."""
    return re.compile("|".join(re.escape(value) for value in values))


def mount_of(target: str) -> Where:
    """The entry of config.json's mounts at a target."""

    def find(config: Json) -> Any:
        found = [mount for mount in config["mounts"] if mount["destination"] == target]
        return found[-1] if found else None

    return find


def mount_options(target: str) -> Where:
    """The options of that entry."""

    def find(config: Json) -> Any:
        return (pick(config, mount_of(target)) or {}).get("options")

    return find


def has(*words: Any) -> Callable[[Any], bool]:
    """Whether all words are in a list or a text."""
    return lambda got: got is not None and all(word in got for word in words)


def lacks(*words: str) -> Callable[[Any], bool]:
    """Whether none is."""
    return lambda got: got is not None and not any(word in got for word in words)


def is_read_only(options: Any) -> bool:
    """Read-only, recursively where the kernel can."""
    return options is not None and not {"ro", "rro"}.isdisjoint(options)


def namespaces(config: Json) -> list[str]:
    """Types of the namespaces that are made or joined."""
    return [item["type"] for item in config["linux"]["namespaces"]]


def env_of(config: Json) -> list[str]:
    env: list[str] = config["process"]["env"]
    return env


def host_ns(name: str) -> str:
    """The test's own namespace, which is the engine's too (but for net)."""
    return os.readlink(f"/proc/self/ns/{name}")


def published(container: Seen) -> str:
    """What a client of the published port 81 reads."""
    bindings = container.inspect["NetworkSettings"]["Ports"].get("81/tcp")
    if not bindings:
        return "not published"
    address = bindings[0]["HostIp"].replace("0.0.0.0", "127.0.0.1") or "127.0.0.1"
    return from_netns(container, address, int(bindings[0]["HostPort"]))


def from_netns(container: Seen, address: str, port: int) -> str:
    """What a TCP client in the engine's network namespace reads."""
    script = (
        "import socket,sys; s=socket.create_connection((sys.argv[1], int(sys.argv[2])), 60); "
        "s.settimeout(60); print(s.recv(100).decode().strip())"
    )
    argv = [*container.engine.netns.enter, "/usr/bin/python3", "-c", script, address, str(port)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=150)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


SERVE = {"Cmd": ["sh", "-c", "echo --end--; while :; do echo served | nc -l -p 81; done"]}


def resolv(container: Seen) -> list[str]:
    with open(container.inspect["ResolvConfPath"]) as file:
        return file.read().splitlines()
