"""`docker exec`, top, and what is written: logs and events."""

from __future__ import annotations

import time
from typing import Any

from clients.checks_life import sleeper
from clients.compare import IMAGE, Side, check
from support.stripdoor import Act, Body, Query

Json = Any

CREATE = "/containers/*/exec"
START = "/exec/*/start"


# Exec.


@check("exec", Body("Cmd", CREATE))
def executed(side: Side) -> Json:
    sleeper(side)
    return side.docker("exec", "box", "sh", "-c", "echo out; echo err >&2; exit 5")


@check("exec -e", Body("Env", CREATE))
def exec_environment(side: Side) -> Json:
    sleeper(side, "-e", "A=container", "-e", "B=container")
    return side.docker("exec", "-e", "A=exec", "box", "sh", "-c", "env | sort")


@check("exec -w", Body("WorkingDir", CREATE))
def exec_directory(side: Side) -> Json:
    sleeper(side)
    return side.docker("exec", "-w", "/var/tmp", "box", "pwd")


@check("exec -u", Body("User", CREATE))
def exec_user(side: Side) -> Json:
    sleeper(side)
    return side.docker("exec", "-u", "user", "box", "sh", "-c", "id; grep ^Cap /proc/self/status")


@check("exec -u UID:GROUP", Body("User", CREATE))
def exec_user_and_group(side: Side) -> Json:
    sleeper(side)
    return side.docker("exec", "-u", "1234:audio", "box", "id")


@check("exec -u of somebody unknown", Body("User", CREATE))
def exec_unknown_user(side: Side) -> Json:
    sleeper(side)
    return side.docker("exec", "-u", "nobody-here", "box", "id")


@check("exec -i", Body("AttachStdin", CREATE))
def exec_stdin(side: Side) -> Json:
    sleeper(side)
    return side.docker("exec", "-i", "box", "sh", "-c", "cat; echo end", stdin="in\n")


@check("exec -t", Body("Tty", CREATE))
def exec_terminal(side: Side) -> Json:
    sleeper(side)
    return side.docker("exec", "-t", "box", "sh", "-c", "test -t 1 && echo tty")


@check("exec -d", Body("Detach", START))
def exec_detached(side: Side) -> Json:
    sleeper(side)
    script = "for i in $(seq 80); do test -e /go && break; sleep 0.1; done; touch /x"
    answer = side.api("POST", "/containers/box/exec", {"Cmd": ["sh", "-c", script], "AttachStdout": True})
    started = side.api("POST", f"/exec/{answer['body']['Id']}/start", {"Detach": True})
    goes_on = side.api("GET", f"/exec/{answer['body']['Id']}/json")["body"]["Running"]
    side.docker("exec", "box", "touch", "/go")
    side.until(lambda: side.docker("exec", "box", "ls", "/x")["status"] == 0)
    return [started, goes_on, side.docker("exec", "box", "ls", "/x")]


@check("exec --privileged", Body("Privileged", CREATE))
def exec_privileged(side: Side) -> Json:
    """How many capabilities there are is the machine's; that it is more than the container's is the option's."""
    sleeper(side)
    words = side.docker("exec", "--privileged", "box", "sh", "-c", "grep CapEff /proc/self/status")["stdout"].split()
    return [len(words), int(words[-1], 16).bit_count() > 14] if words else words


@check("exec of a command that is not there", Body("Cmd", CREATE))
def exec_nothing(side: Side) -> Json:
    sleeper(side)
    return side.docker("exec", "box", "nonesuch")


@check("exec of a file that cannot be executed", Body("Cmd", CREATE))
def exec_not_executable(side: Side) -> Json:
    sleeper(side)
    return side.docker("exec", "box", "/etc/passwd")


@check("exec in a stopped container", Act(CREATE, status="201 Created"))
def exec_when_stopped(side: Side) -> Json:
    side.docker("run", "--name", "box", IMAGE, "true")
    return side.docker("exec", "box", "true")


@check("exec without a command", Body("AttachStdout", CREATE))
def exec_without_command(side: Side) -> Json:
    sleeper(side)
    answers = [side.api("POST", "/containers/box/exec", {"Cmd": []})]
    return [*answers, side.docker("exec", "box", "echo", "shown")]


@check("exec of an id that does not exist", Act("/exec/*/start", status="200 OK"))
def exec_unknown(side: Side) -> Json:
    return [side.api("POST", "/exec/nobody/start", {"Detach": True}), side.api("GET", "/exec/nobody/json")]


@check("exec inspect", Body("Env", CREATE))
def exec_inspected(side: Side) -> Json:
    sleeper(side)
    body = {"Cmd": ["sh", "-c", "exit $N"], "Env": ["N=8"], "AttachStdout": True, "User": "user", "WorkingDir": "/tmp"}
    identity = side.api("POST", "/containers/box/exec", body)["body"]["Id"]
    before = side.api("GET", f"/exec/{identity}/json")
    side.api("POST", f"/exec/{identity}/start", {"Detach": True})
    side.until(lambda: side.api("GET", f"/exec/{identity}/json")["body"].get("Running") is False)
    side.until(lambda: side.api("GET", f"/exec/{identity}/json")["body"].get("ExitCode") is not None)
    return [before, side.api("GET", f"/exec/{identity}/json")]


@check("exec start twice", Act(START, status="200 OK"))
def exec_twice(side: Side) -> Json:
    sleeper(side)
    identity = side.api("POST", "/containers/box/exec", {"Cmd": ["true"]})["body"]["Id"]
    first = side.api("POST", f"/exec/{identity}/start", {"Detach": True})
    side.until(lambda: side.api("GET", f"/exec/{identity}/json")["body"]["Running"] is False)
    side.until(lambda: side.api("GET", f"/exec/{identity}/json")["body"]["ExitCode"] is not None)
    return [first, side.api("POST", f"/exec/{identity}/start", {"Detach": True})]


@check("exec start with ConsoleSize", Body("ConsoleSize", START))
def exec_console(side: Side) -> Json:
    sleeper(side)
    identity = side.api("POST", "/containers/box/exec", {"Cmd": ["stty", "size"], "Tty": True, "AttachStdout": True})
    body = {"Tty": True, "ConsoleSize": [24, 81]}
    return side.api("POST", f"/exec/{identity['body']['Id']}/start", body)


# Top.


@check("top", Act("/containers/*/top", "GET", "500 Internal Server Error"))
def top(side: Side) -> Json:
    sleeper(side)
    rows = side.docker("top", "box")["stdout"].splitlines()
    return [rows[0].split(), [row.split()[-2:] for row in rows[1:]]]


@check("top with options of ps", Query("ps_args", "/containers/*/top"))
def top_with_options(side: Side) -> Json:
    sleeper(side)
    return [line.split() for line in side.docker("top", "box", "-o", "pid,comm,args")["stdout"].splitlines()][:1]


@check("top of a stopped container", Act("/containers/*/top", "GET", "200 OK"))
def top_when_stopped(side: Side) -> Json:
    side.docker("run", "--name", "box", IMAGE, "true")
    return side.docker("top", "box")


# Logs.

LINES = "for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; sleep 0.01; done"


def writer(side: Side, *options: str) -> None:
    """A container that wrote ten lines and ended."""
    side.docker("run", "--name", "box", *options, IMAGE, "sh", "-c", LINES)


@check("logs", Query("stderr", "/containers/*/logs"))
def logged(side: Side) -> Json:
    writer(side)
    return side.docker("logs", "box")


@check("logs --tail", Query("tail", "/containers/*/logs"))
def logged_tail(side: Side) -> Json:
    writer(side, "-t")
    return [side.docker("logs", "--tail", count, "box") for count in ("2", "0", "all")]


@check("logs -t", Query("timestamps", "/containers/*/logs"))
def logged_with_times(side: Side) -> Json:
    writer(side)
    return side.docker("logs", "-t", "box")["stdout"]


@check("logs --since", Query("since", "/containers/*/logs"))
def logged_since(side: Side) -> Json:
    return side.docker("logs", "--since", between_two_lines(side), "box")


@check("logs --until", Query("until", "/containers/*/logs"))
def logged_until(side: Side) -> Json:
    return side.docker("logs", "--until", between_two_lines(side), "box")


GOING = "while [ ! -e /go ]; do sleep 0.05; done"


def between_two_lines(side: Side) -> str:
    """Lets a container write two lines, the second when the first is in the log: a moment between them."""
    side.docker("run", "-d", "--name", "box", IMAGE, "sh", "-c", f"echo early; {GOING}; echo late")
    side.until(lambda: "early" in side.docker("logs", "box")["stdout"])
    side.docker("exec", "box", "touch", "/go")
    side.docker("wait", "box")
    first, last = (nanoseconds(line.split()[0]) for line in side.docker("logs", "-t", "box")["stdout"].splitlines())
    middle = (first + last) // 2
    return f"{middle // 10**9}.{middle % 10**9:09d}"


def nanoseconds(stamp: str) -> int:
    """Since the epoch, of an RFC 3339 time."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    seconds = time.mktime(time.strptime(whole + " UTC", "%Y-%m-%dT%H:%M:%S %Z")) - time.timezone
    return int(seconds) * 10**9 + int(fraction.ljust(9, "0"))


@check("logs -f", Query("follow", "/containers/*/logs"))
def logged_to_the_end(side: Side) -> Json:
    side.docker("run", "-d", "--name", "box", IMAGE, "sh", "-c", f"echo a; {GOING}; echo b")
    side.until(lambda: "a" in side.docker("logs", "box")["stdout"])
    with side.beside("logs", "-f", "box") as client:
        side.until(lambda: bool(client.printed()[0]))
        side.docker("exec", "box", "touch", "/go")
        return client.end()


@check("logs --details", Query("details", "/containers/*/logs"))
def logged_details(side: Side) -> Json:
    side.docker("run", "--name", "box", "--label", "a=b", "--log-opt", "labels=a", IMAGE, "echo", "line")
    return side.docker("logs", "--details", "box")


@check("logs of a terminal", Body("Tty"))
def logged_terminal(side: Side) -> Json:
    side.docker("run", "-t", "--name", "box", IMAGE, "sh", "-c", "echo out; echo err >&2")
    return list(side.raw("GET", "/containers/box/logs", stdout="1", stderr="1")[2])


@check("logs, multiplexed", Query("stdout", "/containers/*/logs"))
def logged_multiplexed(side: Side) -> Json:
    side.docker("run", "--name", "box", IMAGE, "sh", "-c", "echo out; sleep 0.1; echo err >&2; printf end")
    status, headers, data = side.raw("GET", "/containers/box/logs", stdout="1", stderr="1")
    return [status, headers.get("Content-Type"), of_each_stream(data)]


def of_each_stream(data: bytes) -> Json:
    """The bytes of each, by its number: which of two pipes is read first is nobody's promise."""
    found: dict[str, str] = {}
    while data:
        size = int.from_bytes(data[4:8])
        found[str(data[0])] = found.get(str(data[0]), "") + data[8 : 8 + size].decode()
        data = data[8 + size :]
    return found


@check("logs of no stream", Query("timestamps", "/containers/*/logs"))
def logged_nothing(side: Side) -> Json:
    writer(side)
    times = side.raw("GET", "/containers/box/logs", stdout="1", timestamps="1")[2]
    return [side.api("GET", "/containers/box/logs"), len(times)]


# Events.


def happen(side: Side) -> str:
    """Lets things happen to two containers; the second from which on they did."""
    began = f"{time.time():.3f}"
    side.docker("run", "--name", "box", "--label", "kind=a", IMAGE, "true")
    side.docker("run", "-d", "--name", "dee", "--label", "kind=b", IMAGE, "sleep", "60")
    side.docker("exec", "dee", "true")
    side.until(lambda: "exec_die" in side.docker("events", "--since", began, "--until", now())["stdout"])
    side.docker("rename", "dee", "eff")
    side.docker("kill", "eff")
    side.docker("wait", "eff")
    side.docker("rm", "box")
    return began


def events(side: Side, *filters: str) -> Json:
    """What `docker events` prints of that, the network's and volumes' left out unless asked for."""
    began = happen(side)
    words = [word for one in filters for word in ("--filter", one)]
    shown = "{{.Type}} {{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.exitCode}}"
    last = ("--filter", "event=die", "--filter", "container=eff")
    side.until(lambda: "die" in side.docker("events", "--since", began, "--until", now(), *last)["stdout"])
    return side.docker("events", "--since", began, "--until", now(), *words, "--format", shown)["stdout"].splitlines()


def now() -> str:
    """This moment as docker takes it."""
    return f"{time.time():.9f}"


@check("events --filter type=container", Query("filters.type", "/events"))
def events_of_containers(side: Side) -> Json:
    return events(side, "type=container")


@check("events --filter event", Query("filters.event", "/events"))
def events_by_name(side: Side) -> Json:
    return events(side, "type=container", "event=die", "event=start")


@check("events --filter container", Query("filters.container", "/events"))
def events_of_one(side: Side) -> Json:
    return events(side, "type=container", "container=box")


@check("events --filter label", Query("filters.label", "/events"))
def events_by_label(side: Side) -> Json:
    return events(side, "type=container", "label=kind=b")


@check("events --filter image", Query("filters.image", "/events"))
def events_by_image(side: Side) -> Json:
    return events(side, "image=nonesuch")


@check("events --since", Query("since", "/events"))
def events_since(side: Side) -> Json:
    """What happened before that moment is left out."""
    side.docker("create", "--name", "early", IMAGE)
    moment = now()
    side.docker("create", "--name", "late", IMAGE)
    shown = "{{.Action}} {{.Actor.Attributes.name}}"
    return side.docker("events", "--since", moment, "--until", now(), "--format", shown)


@check("events --until", Query("until", "/events"))
def events_until(side: Side) -> Json:
    """Without that moment the stream would not end."""
    began = now()
    side.docker("create", "--name", "early", IMAGE)
    moment = now()
    side.docker("create", "--name", "late", IMAGE)
    return side.docker("events", "--since", began, "--until", moment, "--format", "{{.Actor.Attributes.name}}")


@check("events of images", Query("filters.type", "/events"))
def events_of_images(side: Side) -> Json:
    began = now()
    side.docker("run", "--rm", IMAGE, "true")
    side.docker("tag", IMAGE, "other:1")
    side.docker("rmi", "other:1")
    shown = "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}"
    return side.docker("events", "--since", began, "--until", now(), "--filter", "type=image", "--format", shown)
