"""What can be seen of containers while they run: stats, events, top, prune, ps."""

from __future__ import annotations

import re
import time
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


@check("stats --no-stream", Act(STATS, "GET", "500 Internal Server Error"), is_slow=True)
def stats_once(side: Side) -> Json:
    sleeper(side, *LIMITS)
    return [sample(side, stream="0"), sample(side, stream="0")]


@check("stats, one-shot", Query("one-shot", STATS))
def stats_at_once(side: Side) -> Json:
    sleeper(side, *LIMITS)
    return sample(side, stream="0", **{"one-shot": "1"})


@check("stats, one-shot and a stream", Act(STATS, "GET", "500 Internal Server Error"), is_slow=True)
def stats_at_once_and_on(side: Side) -> Json:
    sleeper(side)
    return sample(side, **{"one-shot": "1"})


@check("stats of a container without an interface", Act(STATS, "GET", "500 Internal Server Error"), is_slow=True)
def stats_alone(side: Side) -> Json:
    sleeper(side, *OWN, "--network", "none")
    sleeper(side, *OWN, "--network", "host", name="host")
    return [sample(side, stream="0", **{"one-shot": "1"}), sample(side, "host", stream="0", **{"one-shot": "1"})]


@check("stats of a container in another's network", Body("HostConfig.NetworkMode"), is_slow=True)
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


@check("stats of docker CLI", Act(STATS, "GET", "500 Internal Server Error"), is_slow=True)
def stats_cli(side: Side) -> Json:
    sleeper(side, *LIMITS)
    side.docker("create", "--name", "new", IMAGE, "true")
    columns = "{{.Container}} {{.Name}} {{.PIDs}} {{.CPUPerc}}"
    return [
        side.docker("stats", "--no-stream", "--format", columns),
        side.docker("stats", "--no-stream", "--all", "--format", columns),
        side.docker("stats", "--no-stream", "--format", columns, "box", "nope"),
    ]


# Events.

EVENTS = "/events"
FORM = "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}"


def past(side: Side, *options: str) -> Json:
    """The events of a container's life, an exec, and a name of an image, as docker prints them."""
    start = f"{time.time():.6f}"
    side.docker("run", "-d", "--name", "box", "--label", "a=b", IMAGE, "sleep", "600")
    side.docker("exec", "box", "true")
    side.docker("tag", IMAGE, "registry.example:5000/see:1")
    side.docker("rmi", "registry.example:5000/see:1")
    side.docker("rm", "-f", "box")
    side.until(lambda: "destroy" in side.docker("events", "--since", start, "--until", f"{time.time():.6f}")["stdout"])
    return side.docker("events", "--since", start, "--until", f"{time.time():.6f}", "--format", FORM, *options)


def short(side: Side, *options: str) -> Json:
    """The same, with `{id}` in the options for the container's id, which ends after it was created."""
    start = f"{time.time():.6f}"
    made = side.docker("create", "--name", "box", IMAGE, "true")["stdout"].strip()
    side.docker("start", "-a", "box")
    side.until(lambda: "die" in side.docker("events", "--since", start, "--until", f"{time.time():.6f}")["stdout"])
    words = [word.replace("{id}", made) for word in options]
    return side.docker("events", "--since", start, "--until", f"{time.time():.6f}", "--format", FORM, *words)


@check("events --filter container=ID", Query("filters.container", EVENTS))
def events_of_id(side: Side) -> Json:
    return [short(side, "--filter", "container={id}"), side.docker("rm", "box")["status"]]


@check("events --filter container=beginning of a name", Query("filters.container", EVENTS))
def events_of_name(side: Side) -> Json:
    return [past(side, "--filter", "container=bo"), past(side, "--filter", "container=bridge")]


@check("events --filter event=beginning", Query("filters.event", EVENTS))
def events_of_action(side: Side) -> Json:
    return [
        past(side, "--filter", "event=exec_create", "--filter", "event=st"),
        past(side, "--filter", "event=exec_die", "--filter", "event=st"),
    ]


@check("events --filter image, names", Query("filters.image", EVENTS))
def events_of_image(side: Side) -> Json:
    return [
        past(side, "--filter", "image=registry.example:5000/see"),
        past(side, "--filter", "image=registry.example"),
        past(side, "--filter", f"image={IMAGE.partition(':')[0]}", "--filter", "type=container"),
    ]


@check("events --filter label, scope, network, daemon", Query("filters.label", EVENTS))
def events_of_label(side: Side) -> Json:
    return [
        past(side, "--filter", "label=a=b", "--filter", "event=create"),
        past(side, "--filter", "label=a=c", "--filter", "event=create"),
        past(side, "--filter", "network=bridge", "--filter", "scope=local"),
        past(side, "--filter", "scope=nonesuch"),
        past(side, "--filter", "volume=x"),
    ]


@check("events as they come", Query("filters.event", EVENTS))
def events_live(side: Side) -> Json:
    with side.beside("events", "--filter", "event=create", "--format", FORM) as seen:
        side.until(lambda: side.api("GET", "/info")["body"]["NEventsListener"] > 0)
        side.docker("create", "--name", "one", IMAGE, "true")
        side.docker("rm", "one")
        side.docker("create", "--name", "two", IMAGE, "true")
        side.until(lambda: "two" in seen.printed()[0])
        return seen.printed()


# Top.


def ran(side: Side, *options: str) -> Json:
    """`docker top`, digits, blanks and what `--forest` draws of the host made the same."""
    done = side.docker("top", "box", *options)
    texts = [re.sub(r"[ |]+", " ", re.sub(r"\d+", "N", done[key])) for key in ("stdout", "stderr")]
    return [done["status"], *texts]


@check("top with odd options of ps", Query("ps_args", "/containers/*/top"))
def top_of(side: Side) -> Json:
    side.docker("run", "-d", "--name", "box", IMAGE, "sh", "-c", "sleep 600 & sleep 601")
    side.until(lambda: side.docker("top", "box")["stdout"].count("sleep") == 2)
    forms = ("-o pid,comm", "-eo user,pid,args", "aux", "-ef --forest", "-o pid= -o comm=", "-o comm", "--nonsense")
    odd = ("-o pid,nonsense", "-eo pid=PID,comm=PID", "-o comm=PIDX", "-o pid=PIDX", "-p 1", "-q 1", "-h", "f", "-C sh")
    return [ran(side, *form.split(" ")) for form in (*forms, *odd)]


@check("top of what does not run", Act("/containers/*/top", "GET", "204 No Content"))
def top_of_none(side: Side) -> Json:
    side.docker("create", "--name", "box", IMAGE, "true")
    return [side.docker("top", "box"), side.docker("top", "nope"), side.api("GET", "/containers/box/top", ps_args="'")]


# Prune.

PRUNE = "/containers/prune"


@check("container prune, filters", Query("filters", PRUNE))
def pruned(side: Side) -> Json:
    for name, label in (("one", "a=b"), ("two", "a=c"), ("three", "x=y")):
        side.docker("create", "--name", name, "--label", label, IMAGE, "true")

    def left(*options: str) -> Json:
        words = [word for option in options for word in ("--filter", option)]
        done = side.docker("container", "prune", "-f", *words)
        return [done["status"], done["stderr"], side.docker("ps", "-a", "--format", "{{.Names}}")["stdout"]]

    return [
        left("until=1h"),
        left("until=1h", "until=2h"),
        left("until=nonsense"),
        left("label=a=b"),
        left("label!=x=y"),
        left("nonsense=1"),
        left("label=x", "until=2099-01-01"),
    ]


# Ps.


@check("ps --filter, odd forms", Query("filters", "/containers/json"))
def listed(side: Side) -> Json:
    """A published port is the host's; a value that is false counts."""
    sleeper(side, "-p", "127.0.0.1:8097:80", "--expose", "90", "-v", "see-volume:/d", name="web")
    side.docker("create", "--name", "other", "--network", "none", IMAGE, "true")
    asked = (
        *('{"publish":["80"]}', '{"publish":["8097"]}', '{"publish":["8090-8099/tcp"]}', '{"publish":["8097/udp"]}'),
        *('{"expose":["80"]}', '{"expose":["80-90/tcp"]}', '{"expose":["90-80"]}', '{"name":{"web":false}}'),
        *('{"volume":["see-volume"]}', '{"volume":["/d"]}', '{"volume":["see"]}', '{"network":["none"]}'),
        *('{"health":["none"]}', '{"isolation":["process"]}', '{"is-task":["true"]}', '{"name":[]}', '{"name":"x"}'),
    )
    found = [side.api("GET", "/containers/json", all="1", filters=one) for one in asked]
    side.docker("rm", "-f", "web")
    side.docker("volume", "rm", "see-volume")
    return [one if one["status"] != 200 else sorted(row["Names"][0] for row in one["body"]) for one in found]
