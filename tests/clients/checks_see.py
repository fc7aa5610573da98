"""What can be seen of containers while they run: stats, top, events."""

from __future__ import annotations

from typing import Any

from clients.checks_life import sleeper
from clients.compare import IMAGE, Side, check
from support.stripdoor import Act, Body, Query

Json = Any

STATS = "/containers/*/stats"
OWN = ("--pids-limit", "50")  # Corten has one by default
LIMITS = ("-m", "64m", "--memory-swap", "96m", "--cpus", "0.5", "--pids-limit", "50")


def sample(side: Side, name: str = "box", **query: str) -> Json:
    """One answer, the numbers that differ from moment to moment replaced by their types."""
    answer = side.api("GET", f"/containers/{name}/stats", **query)
    body = answer["body"]
    if answer["status"] != 200:
        return answer
    names = () if "one-shot" in query else ("name", "id")  # which dockerd leaves out there
    seen = {key: body.get(key, "absent") for key in (*names, "num_procs", "storage_stats", "pids_stats")}
    memory = body["memory_stats"]
    seen["memory"] = [memory.get("limit", 0), sorted({*memory} - {"failcnt"}), bool(memory.get("usage"))]
    seen["interfaces"] = {name: sorted(found) for name, found in (body.get("networks") or {"": {}}).items()}
    seen["blkio"] = {name: type(rows).__name__ for name, rows in body["blkio_stats"].items()}
    for key in ("cpu_stats", "precpu_stats"):
        seen[key] = shape(body[key])
    seen["times"] = [body["read"] > "2026", body["preread"] > "2026", body["read"] > body["preread"]]
    return [answer["status"], seen]


def shape(value: Json) -> Json:
    """The keys of objects, and the types of what is in them."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return type(value).__name__


@check("stats --no-stream", Act(STATS, "GET", "500 Internal Server Error"))
def stats_once(side: Side) -> Json:
    sleeper(side, *LIMITS)
    return [sample(side, stream="0"), sample(side, stream="0")]


@check("stats, one-shot", Query("one-shot", STATS))
def stats_at_once(side: Side) -> Json:
    sleeper(side, *LIMITS)
    return sample(side, stream="0", **{"one-shot": "1"})


@check("stats, one-shot and a stream", Act(STATS, "GET", "500 Internal Server Error"))
def stats_at_once_and_on(side: Side) -> Json:
    sleeper(side)
    return sample(side, **{"one-shot": "1"})


@check("stats of a container without an interface", Act(STATS, "GET", "500 Internal Server Error"))
def stats_alone(side: Side) -> Json:
    sleeper(side, *OWN, "--network", "none")
    sleeper(side, *OWN, "--network", "host", name="host")
    return [sample(side, stream="0", **{"one-shot": "1"}), sample(side, "host", stream="0", **{"one-shot": "1"})]


@check("stats of a container in another's network", Body("HostConfig.NetworkMode"))
def stats_shared(side: Side) -> Json:
    sleeper(side)
    sleeper(side, *OWN, "--network", "container:box", name="guest")
    sleeper(side, *OWN, "--network", "none", name="lone")
    sleeper(side, *OWN, "--network", "container:lone", name="lone-guest")
    once = {"stream": "0", "one-shot": "1"}
    return [sample(side, "guest", **once), sample(side, "lone-guest", **once)]


@check("stats of a container that does not run", Act(STATS, "GET", "500 Internal Server Error"))
def stats_stopped(side: Side) -> Json:
    side.docker("create", "--name", "box", IMAGE, "true")
    return [sample(side, stream="0"), sample(side, stream="0", **{"one-shot": "1"}), sample(side, "nope", stream="0")]


@check("stats of docker CLI", Act(STATS, "GET", "500 Internal Server Error"))
def stats_cli(side: Side) -> Json:
    sleeper(side, *LIMITS)
    side.docker("create", "--name", "new", IMAGE, "true")
    columns = "{{.Container}} {{.Name}} {{.PIDs}} {{.CPUPerc}}"
    return [
        side.docker("stats", "--no-stream", "--format", columns),
        side.docker("stats", "--no-stream", "--all", "--format", columns),
        side.docker("stats", "--no-stream", "--format", columns, "box", "nope"),
    ]
