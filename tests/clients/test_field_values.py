"""Each field of a create request with many values, and of an update, on dockerd 26.1 and Corten: answers and inspect.

What differs for a reason stands in the tables `KNOWN`, `STARTED_KNOWN` and `UPDATED_KNOWN`; a row that explains nothing
any more fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from clients.compare import IMAGE, Side, difference
from clients.field_values import CREATED, STARTED, UPDATED, Beside, mount
from clients.normal import RULES, Normalizer
from support import process
from support.dockerd import Dockerd
from support.engine import CortenEngine

Json = Any
SHORT = (
    "HostConfig.KernelMemoryTCP",
    "HostConfig.CpuCount",
    "HostConfig.CpuPercent",
    "ArgsEscaped",
    "HostConfig.Cgroup",
)
SHOWN = ("Config", "HostConfig", "Mounts", "Path", "Args")
FILES = (
    *("memory/memory.limit_in_bytes", "memory/memory.memsw.limit_in_bytes", "memory/memory.soft_limit_in_bytes"),
    *("cpu/cpu.shares", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us", "cpuset/cpuset.cpus", "cpuset/cpuset.mems"),
    *("pids/pids.max", "memory/memory.swappiness", "memory/memory.oom_control", "cpu/cpu.rt_period_us"),
)


@dataclass(frozen=True)
class Known:
    """A difference that stays: of a field (or row of updates), with one value (as JSON, `*` for all), below a place."""

    field: str
    value: str
    place: str
    why: str


SAYS_SO = "dockerd takes it and changes nothing; Corten does the same, and says so"
EARLIER = "dockerd takes it, and the start fails (a signal: the stop); here the create is refused"
ITSELF = "the words are the runtime's, and the launcher names its step"
NO_LIMIT = "dockerd leaves the kernel's limit as it was, and takes -1 for less than any memory"
NOT_TOGETHER = "refused by its words, not by the kernel's answer or not at all"
OF_KERNEL = "dockerd notes it, and the kernel hears of it at the next start"
KNOWN: tuple[Known, ...] = (
    *(
        Known(f"HostConfig.{name}", "*", ".create.warnings", SAYS_SO)
        for name in ("KernelMemoryTCP", "CpuCount", "Cgroup", "UsernsMode")
    ),
    *(Known("StopSignal", f'"{signal}"', "", EARLIER) for signal in ("99", "-1", "65")),
    *(Known("HostConfig.CpuShares", value, "", EARLIER) for value in ("-1", "1", "262145")),
    *(Known("HostConfig.Dns", value, "", EARLIER) for value in ('["x"]', '[""]', '["10.0.0"]')),
    *(
        Known("HostConfig.PortBindings", value, "", EARLIER)
        for value in (
            '{"80/icmp": [{}]}',
            '{"80/tcp": [{"HostIp": "x", "HostPort": "80"}]}',
            '{"": [{"HostPort": "1"}]}',
        )
    ),
    Known("HostConfig.IpcMode", '"container:"', "", EARLIER),
    Known(
        "HostConfig.Mounts",
        json.dumps(mount(BindOptions={"ReadOnlyForceRecursive": True})),
        "",
        "a mount that is not read-only cannot be so recursively: dockerd takes no notice",
    ),
    Known("HostConfig.PidsLimit", "-1", ".inspect", "Corten has a limit by default: none stays told apart from it"),
    Known("HostConfig.PidsLimit", "-5", ".inspect", "the same"),
    Known("Volumes", '{"v": {}}', ".inspect.Mounts[0].Destination", "told as the place that it is"),
)
STARTED_KNOWN: tuple[Known, ...] = (
    *(
        Known(f"HostConfig.{name}", "*", ".create.warnings", SAYS_SO)
        for name in ("KernelMemoryTCP", "CpuCount", "Cgroup", "UsernsMode")
    ),
    Known("Hostname", json.dumps("x" * 65), ".start.body.message", ITSELF),
    Known("HostConfig.Sysctls", '{"net.ipv4.nonesuch": "1"}', ".start.body.message", ITSELF),
    Known("User", '"-1"', ".start.status", "what is wrong in a request is 400, also at the start"),
    Known("WorkingDir", '"/etc/passwd"', "", "dockerd makes the directory at create, Corten at the start"),
)
UPDATED_KNOWN: tuple[Known, ...] = (
    *(Known(name, "*", "", SAYS_SO) for name in ("KernelMemoryTCP", "CpuCount", "MemorySwappiness", "OomKillDisable")),
    Known("not updated", "*", "", SAYS_SO),
    *(Known(name, "*", "", NO_LIMIT) for name in ("no swap limit", "no swap limit, then one")),
    *(Known(name, "*", "", NO_LIMIT) for name in ("no swap limit, then more memory", "MemorySwap")),
    *(Known(name, "*", "", NOT_TOGETHER) for name in ("swap below memory", "reservation above memory", "CpuShares")),
    *(Known(name, "*", "", NOT_TOGETHER) for name in ("real time above its period", "CpuRealtimePeriod")),
    Known("real time", "*", "", OF_KERNEL),
    Known("PidsLimit", "*", '.{"PidsLimit": 9223372036854775807}', ITSELF),
)


def put(body: dict[str, Any], path: str, value: Json) -> None:
    *above, last = path.split(".")
    for part in above:
        body = body.setdefault(part, {})
    body[last] = value


def request(field: str, value: Json) -> Json:
    """A create request with it."""
    body: dict[str, Any] = {"Image": IMAGE, "Cmd": ["true"]}
    others = value.others if isinstance(value, Beside) else ()
    for path, item in ((field, value.value if isinstance(value, Beside) else value), *others):
        put(body, path, item)
    return body


def created(side: Side, field: str, value: Json, *, is_started: bool = False) -> Json:
    """What the engine answers, says of the container, and does with it."""
    answer = side.api("POST", "/containers/create", request(field, value))
    if answer["status"] != 201:
        return {"create": answer}
    made = answer["body"]["Id"]
    try:
        out: Json = {"create": {"status": 201, "warnings": answer["body"]["Warnings"]}}
        if is_started:
            out["start"] = side.api("POST", f"/containers/{made}/start")
            out["wait"] = side.api("POST", f"/containers/{made}/wait") if out["start"]["status"] == 204 else None
        whole = side.api("GET", f"/containers/{made}/json")["body"]
        return out | {"inspect": {key: whole.get(key) for key in SHOWN}}
    finally:
        side.api("DELETE", f"/containers/{made}", force="1", v="1")


@pytest.fixture(scope="module")
def both(dockerd: Dockerd, shared_engine: CortenEngine) -> Iterator[Callable[[Callable[[Side], Json]], list[str]]]:
    """Plays something on both and says where they differ."""
    sides = [Side(one.socket, one.folder, tuple(one.netns.enter)) for one in (dockerd, shared_engine)]
    normal = Normalizer(RULES)
    with ThreadPoolExecutor(2) as threads:

        def play(what: Callable[[Side], Json]) -> list[str]:
            seen = list(threads.map(what, sides))
            shown = [normal(one, side.folder) for one, side in zip(seen, sides, strict=True)]
            return difference(*shown)

        yield play
    for side in sides:
        side.clear()
        process.remove_cgroups(side.parent)


def unexplained(known: Sequence[Known], value: Json, lines: list[str], used: set[Known]) -> list[str]:
    """The differences for which no row stands; the rows of the others are added to `used`."""
    text = json.dumps(value)
    left = []
    for line in lines:
        rows = [row for row in known if row.value in (text, "*") and line.startswith(row.place)]
        used.update(rows)
        if not rows:
            left.append(f"{text}: {line}")
    return left


def compared(both: Any, table: Sequence[Known], field: str, values: Sequence[Json]) -> None:
    """Fails with what no row explains, and with the rows that explain nothing any more."""
    known = [row for row in table if row.field == field]
    is_started = table is STARTED_KNOWN
    found: list[str] = []
    used: set[Known] = set()
    for value in values:
        lines = both(lambda side, value=value: created(side, field, value, is_started=is_started))
        found += unexplained(known, worth(value), lines, used)
    assert not found, "\n".join(found)
    assert used == set(known), "a row explains nothing any more"


def worth(value: Json) -> Json:
    return [value.value, dict(value.others)] if isinstance(value, Beside) else value


@pytest.mark.parametrize(
    "field", [field if field in SHORT else pytest.param(field, marks=pytest.mark.slow) for field in CREATED]
)
def test_values_of_a_field_are_taken_and_refused_as_by_dockerd(both: Any, field: str) -> None:
    compared(both, KNOWN, field, CREATED[field])


@pytest.mark.slow
@pytest.mark.parametrize("field", STARTED)
def test_values_of_a_field_start_as_with_dockerd(both: Any, field: str) -> None:
    compared(both, STARTED_KNOWN, field, STARTED[field])


def updates(side: Side, wanted: Sequence[Json]) -> Json:
    """Each update of one running container: the answer, inspect, the kernel's files."""
    side.docker("run", "-d", "--name", "changing", "-m", "64m", "--pids-limit", "500", IMAGE, "sleep", "1000")
    script = f"cd /sys/fs/cgroup; for f in {' '.join(FILES)}; do echo $f $(cat $f); done"
    seen = []
    try:
        for body in wanted:
            answer = side.api("POST", "/containers/changing/update", body)
            host = side.api("GET", "/containers/changing/json")["body"]["HostConfig"]
            kernel = side.docker("exec", "changing", "sh", "-c", script)["stdout"].splitlines()
            seen.append({"answer": answer, "inspect": host, "kernel": dict(line.split(" ", 1) for line in kernel)})
    finally:
        side.docker("rm", "-f", "changing")
    return seen


def kept(state: Json, before: Json) -> Json:
    """What one update changed, so that a difference is told where it begins."""
    return {
        "answer": state["answer"],
        **{
            part: {key: value for key, value in state[part].items() if value != before.get(part, {}).get(key)}
            for part in ("inspect", "kernel")
        },
    }


def steps(side: Side, wanted: Sequence[Json]) -> Json:
    seen = updates(side, wanted)
    return {
        json.dumps(body).replace(".", ""): kept(state, before)
        for body, state, before in zip(wanted, seen, [{"inspect": {}, "kernel": {}}, *seen], strict=False)
    }


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", UPDATED)
def test_updates_of_a_running_container_do_what_they_do_beneath_dockerd(both: Any, name: str) -> None:
    used: set[Known] = set()
    known = [row for row in UPDATED_KNOWN if row.field == name]
    found = unexplained(known, "", both(lambda side: steps(side, UPDATED[name])), used)
    assert not found, "\n".join(found)
    assert used == set(known), "a row explains nothing any more"
