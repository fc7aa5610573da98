"""How containers end and begin again: policies, waits, auto-remove, and the events in between."""

from __future__ import annotations

from typing import Any

from clients.compare import IMAGE, Side, check
from support.stripdoor import Act, Body, Query

Json = Any

STATE = ("State.Status", "State.ExitCode", "State.Error", "RestartCount")


def box_id(side: Side) -> str:
    """The whole id of the container `box`."""
    found: str = side.inspect("box", "Id")["Id"]
    return found


def actions(side: Side, box: str, until: str, count: int = 1) -> list[str]:
    """A container's events, up to the `count`th `until`, with the attributes that tell of an end."""
    template = "{{.Action}} {{.Actor.Attributes.signal}} {{.Actor.Attributes.exitCode}}"
    filters = ("--filter", "type=container", "--filter", f"container={box}", "--format", template)

    def seen() -> list[str]:
        shown: str = side.docker("events", "--since", "600s", "--until", "0s", *filters)["stdout"]
        return [row.replace("<no value>", "-") for row in shown.splitlines()]

    def places() -> list[int]:
        return [index for index, row in enumerate(seen()) if row.split()[0] == until]

    side.until(lambda: len(places()) >= count)
    rows, found = seen(), places()
    return rows[: found[count - 1] + 1] if len(found) >= count else rows


def settles(side: Side, status: str) -> Json:
    """Waits for a status."""
    side.until(lambda: side.inspect("box", "State.Status")["State.Status"] == status)
    return side.inspect("box", *STATE)


def run(side: Side, *options: str, script: str = "exec sleep 600") -> Json:
    return side.docker("run", "-d", "--name", "box", *options, IMAGE, "sh", "-c", script)


@check("restart policy on-failure with a limit", Body("HostConfig.RestartPolicy"), is_slow=True)
def on_failure(side: Side) -> Json:
    run(side, "--restart", "on-failure:2", script="exit 3")
    side.until(lambda: side.inspect("box", "RestartCount")["RestartCount"] == 2)
    return [settles(side, "exited"), actions(side, box_id(side), "die", 3)]


@check("restart policy on-failure after a success", Body("HostConfig.RestartPolicy"), is_slow=True)
def on_success(side: Side) -> Json:
    run(side, "--restart", "on-failure", script="test -e /once && exit 0; touch /once; exit 1")
    side.until(lambda: side.inspect("box", "RestartCount")["RestartCount"] == 1)
    return settles(side, "exited")


@check("stop of a container that waits for its restart", Act("/containers/*/stop"), is_slow=True)
def stop_of_restarting(side: Side) -> Json:
    run(side, "--restart", "always", script="exit 3")
    side.until(lambda: side.inspect("box", "RestartCount")["RestartCount"] >= 4)
    settles(side, "restarting")
    seen = side.docker("stop", "box")
    return [seen, side.inspect("box", "State.Status", "State.ExitCode")]


@check("kill of a container that always runs", Act("/containers/*/kill"), is_slow=True)
def kill_of_always(side: Side) -> Json:
    run(side, "--restart", "always")
    seen = side.docker("kill", "box")
    return [seen, settles(side, "exited"), actions(side, box_id(side), "die")]


@check(
    "kill -s of a container that always runs, by another signal than its own",
    Query("signal", "/containers/*/kill"),
    is_slow=True,
)
def usr1_of_always(side: Side) -> Json:
    run(
        side,
        "--restart",
        "always",
        "--stop-signal",
        "TERM",
        script="trap 'exit 5' USR1; while true; do sleep 0.1; done",
    )
    seen = side.docker("kill", "-s", "USR1", "box")
    side.until(lambda: side.inspect("box", "RestartCount")["RestartCount"] == 1)
    return [seen, settles(side, "running")["RestartCount"]]


@check("start after a stop counts anew", Act("/containers/*/start"), is_slow=True)
def counts_anew(side: Side) -> Json:
    run(side, "--restart", "on-failure:1", script="exit 3")
    side.until(lambda: side.inspect("box", "RestartCount")["RestartCount"] == 1)
    first = settles(side, "exited")
    side.docker("start", "box")
    side.until(lambda: side.inspect("box", "RestartCount")["RestartCount"] == 1)
    return [first, settles(side, "exited"), actions(side, box_id(side), "die", 4)]


@check("restart tells its events in order", Act("/containers/*/restart"), is_slow=True)
def restart_events(side: Side) -> Json:
    run(side)
    side.docker("restart", "-t", "0", "box")
    return actions(side, box_id(side), "restart")


@check("rm -f tells its events in order", Act("/containers/*", "DELETE"), is_slow=True)
def remove_events(side: Side) -> Json:
    run(side)
    box = box_id(side)
    side.docker("rm", "-f", "box")
    return actions(side, box, "destroy")


@check("run --rm that is killed", Body("HostConfig.AutoRemove"), is_slow=True)
def transient(side: Side) -> Json:
    run(side, "--rm")
    box = box_id(side)
    side.docker("kill", "box")
    side.until(lambda: side.api("GET", f"/containers/{box}/json")["status"] == 404)
    return [side.api("GET", f"/containers/{box}/json")["status"], actions(side, box, "destroy")]


@check("restart of a --rm container", Act("/containers/*/restart"), is_slow=True)
def restart_of_transient(side: Side) -> Json:
    run(side, "--rm")
    seen = side.docker("restart", "-t", "0", "box")
    return [seen, side.inspect("box", *STATE), actions(side, box_id(side), "restart")]


@check(
    "wait for a container that is started again and again",
    Act("/containers/*/wait", status="500 Internal"),
    is_slow=True,
)
def wait_of_restarting(side: Side) -> Json:
    run(side, "--restart", "on-failure:1", script="sleep 1; exit 4")
    return [side.docker("wait", "box"), settles(side, "exited")]


@check("wait of several containers", Act("/containers/*/wait", status="500 Internal"), is_slow=True)
def wait_of_several(side: Side) -> Json:
    run(side, script="exit 2")
    side.docker("run", "-d", "--name", "two", IMAGE, "sh", "-c", "sleep 1; exit 3")
    return side.docker("wait", "box", "nosuch", "two")


@check("stop -t -1 waits for the end", Query("t", "/containers/*/stop"), is_slow=True)
def patient_stop(side: Side) -> Json:
    run(side, "--stop-timeout", "1", script="trap 'sleep 2; exit 9' TERM; while true; do sleep 0.1; done")
    return [side.docker("stop", "-t", "-1", "box"), settles(side, "exited")["State.ExitCode"]]


@check("stop of a paused container", Act("/containers/*/stop"))
def stop_of_paused(side: Side) -> Json:
    run(side)
    side.docker("pause", "box")
    return [side.docker("stop", "-t", "1", "box"), settles(side, "exited"), actions(side, box_id(side), "stop")]


@check("kill of a paused container", Act("/containers/*/kill"), is_slow=True)
def kill_of_paused(side: Side) -> Json:
    run(side)
    side.docker("pause", "box")
    return [side.docker("kill", "box"), settles(side, "exited"), actions(side, box_id(side), "die")]


@check("stop by a real-time signal", Body("StopSignal"), is_slow=True)
def realtime(side: Side) -> Json:
    run(side, "--stop-signal", "RTMIN+3", script="trap 'exit 8' 37; echo up; while true; do sleep 0.1; done")
    side.until(lambda: "up" in side.docker("logs", "box")["stdout"])
    return [side.docker("stop", "box"), settles(side, "exited"), actions(side, box_id(side), "stop")]


@check("rename of a running container", Act("/containers/*/rename"))
def renamed(side: Side) -> Json:
    run(side)
    box = box_id(side)
    seen = side.docker("rename", "box", "other")
    names = side.docker("ps", "--format", "{{.Names}}")
    again = side.docker("run", "-d", "--name", "box", IMAGE, "true")["status"]
    return [seen, names, again, side.inspect("other", "Name"), actions(side, box, "rename")]


@check("rename that cannot be", Act("/containers/*/rename"))
def not_renamed(side: Side) -> Json:
    run(side)
    side.docker("create", "--name", "two", IMAGE)
    words = ("two", "box", "/box", "a b", "-x", "x" * 300)
    return [side.api("POST", "/containers/box/rename", name=word) for word in words]


@check("run --init and a stop", Body("HostConfig.Init"))
def init(side: Side) -> Json:
    run(side, "--init", script="exec sleep 600")
    first = side.docker("exec", "box", "sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline; cat /proc/1/comm")
    return [
        first,
        side.inspect("box", "HostConfig.Init", "Path", "Args"),
        side.docker("stop", "box"),
        settles(side, "exited"),
    ]


@check("kill tells only the init, also without a pid namespace of its own", Body("HostConfig.PidMode"), is_slow=True)
def group(side: Side) -> Json:
    run(side, "--pid", "host", script="sleep 700 & trap 'exit 4' TERM; while true; do sleep 0.1; done")
    return [side.inspect("box", "HostConfig.PidMode"), side.docker("stop", "box"), settles(side, "exited")]
