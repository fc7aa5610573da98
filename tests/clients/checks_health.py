"""Health checks: what a client sets, what it sees of them, and what events tell."""

from __future__ import annotations

from typing import Any

from clients.compare import IMAGE, Side, check
from support.stripdoor import Body

Json = Any

CREATE = "/containers/create"
FAST = ("--health-interval", "200ms", "--health-timeout", "10s")


def watched(side: Side, command: str, *options: str, script: str = "sleep 600") -> Json:
    """Starts a container with a check."""
    return side.docker(
        "run", "-d", "--name", "box", "--health-cmd", command, *FAST, *options, IMAGE, "sh", "-c", script
    )


def status(side: Side) -> str:
    """`State.Health.Status`."""
    found: str = side.inspect("box", "State.Health.Status")["State.Health.Status"]
    return found


def becomes(side: Side, wanted: str) -> Json:
    """Waits for a status: what inspect and ps say then."""
    side.until(lambda: status(side) == wanted)
    health = side.inspect("box", "State.Health")["State.Health"]
    if health == "absent":
        return health
    last = health["Log"][-1] if health["Log"] else {}
    shown = side.docker("ps", "--format", "{{.Status}}", "--filter", "name=box")["stdout"]
    return {
        "status": health["Status"],
        "failing": health["FailingStreak"] > 0,
        "keys": sorted(last),
        "code": last.get("ExitCode"),
        "output": last.get("Output"),
        "ps": shown.partition("(")[2],
        "healthy": side.docker("ps", "-a", "--filter", "health=healthy", "--format", "{{.Names}}"),
        "unhealthy": side.docker("ps", "-a", "--filter", "health=unhealthy", "--format", "{{.Names}}"),
    }


def actions(side: Side, until: str) -> list[str]:
    """What events tell up to the first whose action begins with `until`."""

    box = str(side.inspect("box", "Id")["Id"])

    def seen() -> list[str]:
        filters = ("--filter", "type=container", "--filter", f"container={box}")
        arguments = ("--since", "600s", "--until", "0s", *filters, "--format", "{{.Action}}")
        rows: list[str] = side.docker("events", *arguments)["stdout"].splitlines()
        return rows

    side.until(lambda: any(row.startswith(until) for row in seen()))
    rows = seen()
    last = next((index for index, row in enumerate(rows) if row.startswith(until)), len(rows) - 1)
    return rows[: last + 1]


@check("run --health-cmd", Body("Healthcheck", CREATE))
def healthy(side: Side) -> Json:
    watched(side, "echo fine")
    return [becomes(side, "healthy"), actions(side, "health_status"), side.inspect("box", "Config.Healthcheck")]


@check("run --health-cmd that fails", Body("Healthcheck.Test", CREATE), is_slow=True)
def unhealthy(side: Side) -> Json:
    watched(side, "echo bad >&2; exit 3", "--health-retries", "2")
    return [becomes(side, "unhealthy"), actions(side, "health_status")]


@check("run --health-retries", Body("Healthcheck.Retries", CREATE), is_slow=True)
def retries(side: Side) -> Json:
    watched(side, "false", "--health-retries", "1")
    becomes(side, "unhealthy")
    return actions(side, "health_status")


@check("run --health-timeout", Body("Healthcheck.Timeout", CREATE), is_slow=True)
def timeout(side: Side) -> Json:
    watched(side, "echo begun; sleep 60", "--health-timeout", "1s", "--health-retries", "1")
    return becomes(side, "unhealthy")


@check("run --health-interval", Body("Healthcheck.Interval", CREATE), is_slow=True)
def interval(side: Side) -> Json:
    watched(side, "true")
    return becomes(side, "healthy")


@check("run --health-start-period", Body("Healthcheck.StartPeriod", CREATE), is_slow=True)
def start_period(side: Side) -> Json:
    watched(side, "false", "--health-start-period", "1h", "--health-start-interval", "100ms", "--health-retries", "1")
    side.until(lambda: len(side.inspect("box", "State.Health.Log")["State.Health.Log"] or ()) >= 3)
    return [status(side), side.inspect("box", "State.Health.FailingStreak")]


@check("run --health-start-interval", Body("Healthcheck.StartInterval", CREATE), is_slow=True)
def start_interval(side: Side) -> Json:
    options = ("--health-interval", "1h", "--health-start-period", "1h", "--health-start-interval", "100ms")
    watched(side, "true", *options)
    return becomes(side, "healthy")


@check("health check as CMD, with the container's user and directory", Body("Healthcheck.Test", CREATE), is_slow=True)
def argv_form(side: Side) -> Json:
    body = {
        "Image": IMAGE,
        "Cmd": ["sleep", "600"],
        "User": "1000:100",
        "WorkingDir": "/tmp",
        "Env": ["WORD=said"],
        "Healthcheck": {"Test": ["CMD", "sh", "-c", "id -u; id -g; pwd; echo $WORD"], "Interval": 2 * 10**8},
    }
    side.api("POST", CREATE, body, name="box")
    side.docker("start", "box")
    return becomes(side, "healthy")


@check("health check that cannot be executed", Body("Healthcheck.Test", CREATE), is_slow=True)
def missing_program(side: Side) -> Json:
    health = {"Test": ["CMD", "nosuch", "x"], "Interval": 2 * 10**8, "Retries": 1}
    side.api("POST", CREATE, {"Image": IMAGE, "Cmd": ["sleep", "600"], "Healthcheck": health}, name="box")
    side.docker("start", "box")
    return [becomes(side, "unhealthy"), actions(side, "health_status")]


@check("run --no-healthcheck", Body("Healthcheck", CREATE))
def none_at_all(side: Side) -> Json:
    side.docker("run", "-d", "--name", "box", "--no-healthcheck", IMAGE, "sleep", "600")
    return side.inspect("box", "State.Health", "Config.Healthcheck")


@check("health of an ended container", Body("Healthcheck", CREATE), is_slow=True)
def ended(side: Side) -> Json:
    watched(side, "true")
    becomes(side, "healthy")
    side.docker("stop", "-t", "0", "box")
    stopped = [status(side), len(side.docker("ps", "-aq", "--filter", "health=unhealthy")["stdout"]) > 0]
    side.docker("start", "box")
    return [*stopped, becomes(side, "healthy")["status"]]


@check("health check of an image", Body("Healthcheck", CREATE), is_slow=True)
def of_an_image(side: Side) -> Json:
    changes = ("HEALTHCHECK --interval=200ms --retries=1 CMD test -e /marker && echo there", "CMD sleep 600")
    side.docker("create", "--name", "source", IMAGE, "true")
    side.docker("commit", *(word for change in changes for word in ("--change", change)), "source", "checked:1")
    script = "touch /marker; exec sleep 600"
    side.docker("run", "-d", "--name", "box", "--health-timeout", "7s", "checked:1", "sh", "-c", script)
    return [becomes(side, "healthy"), side.inspect("box", "Config.Healthcheck")]


@check("run --health-interval that is too short", Body("Healthcheck.Interval", CREATE))
def too_short(side: Side) -> Json:
    return [
        side.docker("create", f"--health-{name}", "10us", "--health-cmd", "true", IMAGE, "true")
        for name in ("interval", "timeout", "start-period", "start-interval")
    ]
