"""The life of a container: every verb of `docker`, what it does, what it says, its exit status."""

from __future__ import annotations

import time
from concurrent.futures import wait
from typing import Any

from clients.compare import CHECKS, IMAGE, Check, Side, check
from support.stripdoor import Act, Body, Query

Json = Any

STATE = ("State.Status", "State.Running", "State.Paused", "State.ExitCode", "State.OOMKilled", "State.Error")


def sleeper(side: Side, *options: str, name: str = "box") -> Json:
    """Starts a container that ends only when it is killed."""
    return side.docker("run", "-d", "--name", name, *options, IMAGE, "sleep", "600")


def trapper(side: Side, signals: str = "TERM", *options: str) -> Json:
    """Starts a container that says which signal came, and ends with 7."""
    script = f'for s in {signals}; do trap "echo got $s; exit 7" $s; done; echo up; while true; do sleep 0.05; done'
    seen = side.docker("run", "-d", "--name", "box", *options, IMAGE, "sh", "-c", script)
    side.until(lambda: "up" in side.docker("logs", "box")["stdout"])
    return seen


def ended(side: Side, name: str = "box") -> Json:
    """Waits for the end, then log and state."""
    side.until(lambda: side.inspect(name, "State.Running")["State.Running"] is False)
    return {"log": side.docker("logs", name), "state": side.inspect(name, *STATE)}


# Start and stop.


@check("create", Act("/containers/create", status="201 Created"))
def created(side: Side) -> Json:
    seen = side.docker("create", "--name", "box", IMAGE, "echo", "hi")
    return [
        seen["status"],
        len(seen["stdout"]),
        side.inspect("box", *STATE, "State.Pid", "State.StartedAt", "RestartCount"),
    ]


@check("start", Act("/containers/*/start"))
def started(side: Side) -> Json:
    side.docker("create", "--name", "box", IMAGE, "echo", "hi")
    return [side.docker("start", "box"), ended(side)]


@check("start -a", Act("/containers/*/attach", status="500 Internal Server Error"))
def started_attached(side: Side) -> Json:
    side.docker("create", "--name", "box", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 3")
    return side.docker("start", "-a", "box")


@check("start -ai", Query("stdin", "/containers/*/attach"))
def started_interactive(side: Side) -> Json:
    side.docker("create", "-i", "--name", "box", IMAGE, "head", "-n", "1")
    return side.docker("start", "-ai", "box", stdin="line\n")


@check("start of a running container", Act("/containers/*/start", status="500 Internal Server Error"))
def started_twice(side: Side) -> Json:
    sleeper(side)
    return [side.docker("start", "box"), side.api("POST", "/containers/box/start")["status"]]


@check("stop", Act("/containers/*/stop"))
def stopped(side: Side) -> Json:
    trapper(side)
    return [side.docker("stop", "box"), ended(side)]


@check("stop -t", Query("t", "/containers/*/stop"))
def stopped_after_a_time(side: Side) -> Json:
    """sleep ignores TERM as pid 1: the time decides whether it took one second or ten."""
    sleeper(side)
    began = time.monotonic()
    seen = side.docker("stop", "-t", "1", "box")
    return [seen, time.monotonic() - began < 9, ended(side)]


@check("stop -s", Query("signal", "/containers/*/stop"))
def stopped_with_a_signal(side: Side) -> Json:
    trapper(side, "TERM USR1")
    wrong = [side.api("POST", f"/containers/box/{verb}", signal="FOO") for verb in ("stop", "restart")]
    return [wrong, side.docker("stop", "-s", "USR1", "box"), ended(side)]


@check("stop with the container's own signal", Body("StopSignal"))
def stopped_with_own_signal(side: Side) -> Json:
    trapper(side, "TERM USR2", "--stop-signal", "USR2")
    return [side.docker("stop", "box"), ended(side)]


@check("stop with the container's own time", Body("StopTimeout"))
def stopped_in_own_time(side: Side) -> Json:
    sleeper(side, "--stop-timeout", "1")
    began = time.monotonic()
    return [side.docker("stop", "box"), time.monotonic() - began < 9]


@check("stop of a stopped container", Act("/containers/*/stop", status="500 Internal Server Error"))
def stopped_twice(side: Side) -> Json:
    side.docker("run", "--name", "box", IMAGE, "true")
    return [side.docker("stop", "box"), side.api("POST", "/containers/box/stop")["status"]]


@check("kill", Act("/containers/*/kill"))
def killed(side: Side) -> Json:
    sleeper(side)
    return [side.docker("kill", "box"), ended(side)]


@check("kill -s NAME", Query("signal", "/containers/*/kill"))
def killed_by_name(side: Side) -> Json:
    trapper(side, "HUP")
    return [side.docker("kill", "-s", "SIGHUP", "box"), ended(side)]


@check("kill -s NUMBER", Query("signal", "/containers/*/kill"))
def killed_by_number(side: Side) -> Json:
    trapper(side, "USR1")
    return [side.docker("kill", "-s", "10", "box"), ended(side)]


@check("kill -s of a signal that nobody knows", Query("signal", "/containers/*/kill"))
def killed_by_nonsense(side: Side) -> Json:
    sleeper(side)
    return side.docker("kill", "-s", "NONSENSE", "box")


@check("kill of a stopped container", Act("/containers/*/kill"))
def killed_when_stopped(side: Side) -> Json:
    side.docker("run", "--name", "box", IMAGE, "true")
    return side.docker("kill", "box")


@check("restart", Act("/containers/*/restart"))
def restarted(side: Side) -> Json:
    side.docker("run", "--name", "box", IMAGE, "echo", "again")
    seen = side.docker("restart", "box")
    side.until(lambda: side.docker("logs", "box")["stdout"].count("again") == 2)
    return [seen, ended(side), side.inspect("box", "RestartCount")]


@check("restart -t", Query("t", "/containers/*/restart"))
def restarted_after_a_time(side: Side) -> Json:
    sleeper(side)
    began = time.monotonic()
    return [side.docker("restart", "-t", "0", "box"), time.monotonic() - began < 9, side.inspect("box", *STATE)]


@check("restart -s", Query("signal", "/containers/*/restart"))
def restarted_with_a_signal(side: Side) -> Json:
    trapper(side, "TERM USR1")
    side.docker("restart", "-s", "USR1", "box")
    side.until(lambda: "got" in side.docker("logs", "box")["stdout"])
    return [line for line in side.docker("logs", "box")["stdout"].splitlines() if "got" in line]


@check("pause", Act("/containers/*/pause"))
def paused(side: Side) -> Json:
    sleeper(side)
    return [
        side.docker("pause", "box"),
        side.inspect("box", *STATE),
        side.docker("ps", "--format", "{{.State}} {{.Names}}"),
    ]


@check("unpause", Act("/containers/*/unpause"))
def unpaused(side: Side) -> Json:
    sleeper(side)
    side.docker("pause", "box")
    return [side.docker("unpause", "box"), side.inspect("box", *STATE)]


@check("pause of a paused container", Act("/containers/*/pause"))
def paused_twice(side: Side) -> Json:
    sleeper(side)
    side.docker("pause", "box")
    return [side.docker("pause", "box"), side.docker("exec", "box", "true"), side.docker("stop", "-t", "0", "box")]


@check("unpause of a container that is not paused", Act("/containers/*/unpause"))
def unpaused_twice(side: Side) -> Json:
    sleeper(side)
    return side.docker("unpause", "box")


# Wait, attach, exit codes.


@check("wait", Act("/containers/*/wait", status="500 Internal Server Error"))
def waited(side: Side) -> Json:
    side.docker("run", "-d", "--name", "box", IMAGE, "sh", "-c", "sleep 0.2; exit 9")
    return side.docker("wait", "box")


@check("wait condition=removed", Query("condition", "/containers/*/wait"))
def waited_for_removal(side: Side) -> Json:
    """Of a stopped container, the default condition answers at once; this one only after rm."""
    side.docker("run", "--name", "box", IMAGE, "sh", "-c", "exit 4")
    waiter = side.later("POST", "/containers/box/wait", condition="removed")
    early = bool(wait([waiter], 3).done)
    side.docker("rm", "box")
    return [early, waiter.result(10)]


@check("wait condition=next-exit", Query("condition", "/containers/*/wait"))
def waited_for_the_next(side: Side) -> Json:
    side.docker("run", "--name", "box", IMAGE, "sh", "-c", "test -e /x && exit 5; touch /x; exit 4")
    waiter = side.later("POST", "/containers/box/wait", condition="next-exit")
    side.docker("start", "box")
    return waiter.result(10)


@check("wait with an unknown condition", Query("condition", "/containers/*/wait"))
def waited_for_nonsense(side: Side) -> Json:
    side.docker("run", "--name", "box", IMAGE, "true")
    return side.api("POST", "/containers/box/wait", condition="nonsense")


@check("attach", Act("/containers/*/attach", status="500 Internal Server Error"))
def attached(side: Side) -> Json:
    side.docker("run", "-di", "--name", "box", IMAGE, "sh", "-c", "head -n 1; exit 6")
    return side.speak("through\n", "attach", "box")


@check("attach --no-stdin", Query("stderr", "/containers/*/attach"))
def attached_to_output(side: Side) -> Json:
    script = "while true; do echo out; echo err >&2; sleep 0.05; done"
    side.docker("run", "-d", "--name", "box", IMAGE, "sh", "-c", script)
    with side.beside("attach", "--no-stdin", "box") as client:
        side.until(lambda: all(client.printed()))
        side.docker("kill", "box")
        seen = client.end()
    return [seen["status"], sorted(set(seen["stdout"].splitlines())), sorted(set(seen["stderr"].splitlines()))]


@check("attach to what a stopped container wrote", Query("logs", "/containers/*/attach"))
def attached_when_stopped(side: Side) -> Json:
    side.docker("run", "--name", "box", IMAGE, "echo", "written")
    answer = side.raw("POST", "/containers/box/attach", logs="1", stdout="1")
    return [answer[0], list(answer[2]), side.docker("attach", "box")]


@check("run, exit codes", Body("Cmd"))
def exit_codes(side: Side) -> Json:
    codes = ("exit 0", "exit 42", "exit 255", "kill -TERM $$", "kill -KILL $$", "kill -SEGV $$")
    return [side.docker("run", "--init", "--rm", IMAGE, "sh", "-c", f"sh -c '{code}'")["status"] for code in codes]


@check("run of a command that is not there", Body("Cmd"))
def no_command(side: Side) -> Json:
    return [side.docker("run", "--name", "box", IMAGE, "nonesuch", "arg"), side.inspect("box", *STATE)]


@check("run of a path that is not there", Body("Cmd"))
def no_path(side: Side) -> Json:
    return [side.docker("run", "--name", "box", IMAGE, "/none/such"), side.inspect("box", *STATE)]


@check("run of a file that cannot be executed", Body("Cmd"))
def not_executable(side: Side) -> Json:
    return [side.docker("run", "--name", "box", IMAGE, "/etc/passwd"), side.inspect("box", *STATE)]


@check("run of a directory", Body("Cmd"))
def a_directory(side: Side) -> Json:
    return [side.docker("run", "--name", "box", IMAGE, "/etc"), side.inspect("box", *STATE)]


@check("run out of memory", Body("HostConfig.Memory"))
def out_of_memory(side: Side) -> Json:
    script = "dd if=/dev/zero of=/dev/null bs=64M count=1"
    side.docker("run", "--name", "box", "-m", "16m", "--memory-swap", "16m", IMAGE, "sh", "-c", script)
    side.until(lambda: side.inspect("box", "State.OOMKilled")["State.OOMKilled"] is True)  # told beside the exit
    return side.inspect("box", *STATE)


# Names and removal.


@check("rename", Act("/containers/*/rename"))
def renamed(side: Side) -> Json:
    side.docker("create", "--name", "old", IMAGE)
    return [side.docker("rename", "old", "new"), side.inspect("new", "Name"), side.inspect("old")]


@check("rename to a name that is taken", Query("name", "/containers/*/rename"))
def renamed_to_a_taken_name(side: Side) -> Json:
    side.docker("create", "--name", "one", IMAGE)
    side.docker("create", "--name", "two", IMAGE)
    return side.docker("rename", "one", "two")


@check("create with a name that is taken", Query("name", "/containers/create"))
def name_is_taken(side: Side) -> Json:
    side.docker("create", "--name", "box", IMAGE)
    return side.docker("run", "--name", "box", IMAGE, "true")


@check("create with a name that is no name", Query("name", "/containers/create"))
def bad_name(side: Side) -> Json:
    return side.docker("create", "--name", "a b/c", IMAGE)


@check("rm", Act("/containers/*", "DELETE"))
def removed(side: Side) -> Json:
    side.docker("create", "--name", "box", IMAGE)
    return [side.docker("rm", "box"), side.inspect("box")]


@check("rm -f", Query("force", "/containers/*"))
def removed_by_force(side: Side) -> Json:
    sleeper(side)
    return [side.docker("rm", "-f", "box"), side.inspect("box")]


@check("rm of a running container", Act("/containers/*", "DELETE"))
def not_removed_when_running(side: Side) -> Json:
    sleeper(side)
    return side.docker("rm", "box")


@check("rm of a paused container", Act("/containers/*", "DELETE"))
def not_removed_when_paused(side: Side) -> Json:
    sleeper(side)
    side.docker("pause", "box")
    return [side.docker("rm", "box"), side.docker("rm", "-f", "box"), side.inspect("box")]


@check("container prune", Act("/containers/prune", status="500 Internal Server Error"))
def pruned(side: Side) -> Json:
    side.docker("create", "--name", "idle", IMAGE)
    sleeper(side, name="busy")
    seen = side.docker("container", "prune", "-f")
    return [seen["status"], seen["stdout"].splitlines()[0], side.docker("ps", "-a", "--format", "{{.Names}}")]


@check("container prune --filter label", Query("filters.label", "/containers/prune"))
def pruned_by_label(side: Side) -> Json:
    side.docker("create", "--name", "aaa", "--label", "keep=no", IMAGE)
    side.docker("create", "--name", "bbb", "--label", "keep=yes", IMAGE)
    side.docker("container", "prune", "-f", "--filter", "label=keep=no")
    return side.docker("ps", "-a", "--format", "{{.Names}}")


@check("container prune --filter until", Query("filters.until", "/containers/prune"))
def pruned_by_age(side: Side) -> Json:
    side.docker("create", "--name", "aaa", IMAGE)
    side.docker("container", "prune", "-f", "--filter", "until=1h")
    return side.docker("ps", "-a", "--format", "{{.Names}}")


# A prefix of the id, and a name that does not exist.


@check("inspect by a prefix of the id", Act("/containers/*/json", "GET", "500 Internal Server Error"))
def by_prefix(side: Side) -> Json:
    identity = side.docker("create", "--name", "box", IMAGE)["stdout"].strip()
    return [side.inspect(identity[:12], "Name"), side.inspect(identity[:5], "Name"), side.docker("inspect", "nobody")]


VERBS = {
    **dict.fromkeys(("start", "stop", "restart", "kill", "pause", "unpause", "wait"), "POST"),
    **dict.fromkeys(("logs", "attach", "top", "port"), "GET"),  # attach looks before it leaps
    "rm": "DELETE",
}

for verb, method in VERBS.items():

    def missing(side: Side, verb: str = verb) -> Json:
        return side.docker(verb, "nobody")

    act = Act("/containers/nobody*", method, "500 Internal Server Error")
    CHECKS.append(Check(f"{verb} of a container that does not exist", missing, act))
