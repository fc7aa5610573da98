"""Health checks of a whole engine: they go on without cortend, and what is done about an unhealthy container."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import images, peers
from support.engine import CortenEngine
from support.process import wait_for as until

IMAGE = images.BUSYBOX_REF
FAST = ("--health-interval", "200ms", "--health-retries", "1")


def inspect(engine: CortenEngine, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(engine.docker("inspect", name, check=True).stdout)[0]
    return found


def run(engine: CortenEngine, name: str, check: str, script: str, *options: str) -> None:
    """Starts a container with a check."""
    arguments = ("run", "-d", "--name", name, "--health-cmd", check, *FAST, *options, IMAGE, "sh", "-c", script)
    done = engine.corten(*arguments)
    assert done.returncode == 0, done.stderr


def health(engine: CortenEngine, name: str) -> dict[str, Any]:
    found: dict[str, Any] = inspect(engine, name)["State"]["Health"]
    return found


def status(engine: CortenEngine, name: str) -> str:
    found: str = health(engine, name)["Status"]
    return found


def events(engine: CortenEngine, name: str, template: str) -> list[str]:
    """A line for each of a container's events."""
    arguments = ("--since", "600s", "--until", "0s", "--filter", f"container={inspect(engine, name)['Id']}")
    return engine.docker("events", *arguments, "--format", template, check=True).stdout.splitlines()


def actions(engine: CortenEngine, name: str) -> list[str]:
    """Actions of a container's events."""
    return events(engine, name, "{{.Action}}")


def test_checks_and_what_follows_from_them_go_on_without_cortend(make_engine: Callable[..., CortenEngine]) -> None:
    engine = make_engine(config={"runtimes": {"runc": {"path": str(peers.binary("runc"))}}})
    engine.docker("load", "-i", str(images.busybox()), check=True)
    shared = engine.folder / "shared"
    shared.mkdir()
    bind = ("-v", f"{shared}:/shared")
    check = "test -e /shared/marker && echo there | tee -a /shared/seen.$HOSTNAME"
    for runtime in ("corten", "runc"):
        run(engine, runtime, check, "exec sleep 600", "--runtime", runtime, "--hostname", runtime, *bind)
    run(engine, "brief", "true", "until test -e /shared/end; do sleep 0.1; done", *bind)
    for action, policy in (("kill", "no"), ("stop", "unless-stopped")):
        options = ("--health-on-failure", action, "--restart", policy, "--stop-signal", "USR1", *bind)
        run(engine, action, "test ! -e /shared/bad", "trap 'exit 7' USR1; while true; do sleep 0.1; done", *options)
    for name, wanted in (("corten", "unhealthy"), ("runc", "unhealthy"), ("brief", "healthy"), ("stop", "healthy")):
        until(lambda: status(engine, name) == wanted, f"{name} is {wanted}")  # noqa: B023  # called at once
    ends = [
        engine.exec_root / "tasks/moby" / inspect(engine, name)["Id"] / "exit" for name in ("brief", "kill", "stop")
    ]
    engine.kill9()
    for name in ("marker", "end", "bad"):
        (shared / name).touch()
    until(lambda: all(path.exists() for path in ends), "the ends")
    seen = [shared / f"seen.{runtime}" for runtime in ("corten", "runc")]
    until(lambda: all(path.exists() and path.read_text().count("there") > 1 for path in seen), "probes")
    back_ns = time.time_ns()
    engine.start()
    # At once, as a rule; a shim that took its time to answer is adopted a little later, and tells the same.
    until(
        lambda: all("health_status: healthy" in actions(engine, one) for one in ("corten", "runc")), "what was missed"
    )
    kept = {runtime: events(engine, runtime, "{{.TimeNano}} {{.Action}}") for runtime in ("corten", "runc")}
    for runtime in ("corten", "runc"):
        found = health(engine, runtime)
        assert (found["Status"], found["FailingStreak"], found["Log"][-1]["Output"]) == ("healthy", 0, "there\n")
        rows = [(action, int(at)) for at, action in (line.split(" ", 1) for line in kept[runtime])]
        told = [(action, at) for action, at in rows if action.startswith("health_status")]
        assert ("health_status: healthy", True) in [(action, at < back_ns) for action, at in told]
        assert all(one[0] != other[0] for one, other in itertools.pairwise(told)), "what was told before is told once"
        seen_too = {f"exec_create: /bin/sh -c {check}", f"exec_start: /bin/sh -c {check}", "exec_die"}
        assert seen_too <= {action for action, _ in rows}
    state = inspect(engine, "brief")["State"]
    assert (state["Status"], state["Health"]["Status"]) == ("exited", "unhealthy")
    for action, code in (("kill", 137), ("stop", 7)):
        state = inspect(engine, action)["State"]
        assert (state["Status"], state["ExitCode"], state["Error"]) == ("exited", code, "unhealthy")
        verdict = inspect(engine, action)["Corten"]["Verdict"]
        assert [kill["By"]["By"] for kill in verdict["Kills"]] == ["health check"], verdict
    assert "health check" in inspect(engine, "kill")["Corten"]["Verdict"]["Sentence"]


def test_nothing_is_checked_while_a_container_is_paused(shared_engine: CortenEngine) -> None:
    run(shared_engine, "box", "true", "exec sleep 600")
    until(lambda: status(shared_engine, "box") == "healthy", "healthy")
    shared_engine.docker("pause", "box", check=True)
    before = health(shared_engine, "box")["Log"][-1]
    time.sleep(1)
    assert health(shared_engine, "box")["Log"][-1] == before
    shared_engine.docker("unpause", "box", check=True)
    until(lambda: health(shared_engine, "box")["Log"][-1] != before, "the next probe")
    shared_engine.docker("rm", "-f", "box", check=True)


def test_an_unhealthy_container_is_restarted_when_asked(shared_engine: CortenEngine) -> None:
    script = "test -e /once && touch /ok; touch /once; exec sleep 600"
    run(shared_engine, "box", "test -e /ok", script, "--health-on-failure", "restart", "--stop-timeout", "1")
    until(lambda: inspect(shared_engine, "box")["RestartCount"] == 1, "a restart")
    until(lambda: status(shared_engine, "box") == "healthy", "healthy after the restart")
    until(lambda: "health_status: healthy" in actions(shared_engine, "box"), "the last event")
    seen = actions(shared_engine, "box")
    order = [seen.index(action) for action in ("health_status: unhealthy", "kill", "die", "health_status: healthy")]
    assert order == sorted(order), seen
    shared_engine.docker("rm", "-f", "box", check=True)


def test_an_unknown_action_is_refused(shared_engine: CortenEngine) -> None:
    refused = shared_engine.corten("create", "--health-on-failure", "reboot", IMAGE, "true")
    assert refused.returncode != 0
    assert "unknown action 'reboot'" in refused.stderr


def helpers(engine: CortenEngine) -> set[int]:
    """The processes that launch for the engine's shims."""
    title = f"corten-shim helper {engine.exec_root}".encode()
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if path.read_bytes().startswith(title):
                found.add(int(path.parent.name))
    return found


def test_one_helper_stays_for_the_checks_and_goes_with_the_last(make_engine: Callable[..., CortenEngine]) -> None:
    engine = make_engine()
    engine.docker("load", "-i", str(images.busybox()), check=True)
    run(engine, "box", "true", "exec sleep 600")
    first = helpers(engine)
    engine.kill9()
    time.sleep(1.5)
    assert helpers(engine) == first
    engine.start()
    until(lambda: not helpers(engine) & first, "the end of the first helper")
    assert len(helpers(engine)) == 1
    seen = health(engine, "box")["Log"][-1]
    until(lambda: health(engine, "box")["Log"][-1] != seen, "a probe by the second")
    engine.docker("rm", "-f", "box", check=True)
    run(engine, "brief", "true", "exec sleep 3")
    engine.kill9()
    until(lambda: not helpers(engine), "the end of the helper with that of the last container")


def test_a_check_that_comes_in_years_leaves_its_container_alone(shared_engine: CortenEngine) -> None:
    options = ("--health-interval", "2000000h", "--health-timeout", "2000000h", "--network", "none")
    words = ("run", "-d", "--name", "far", "--health-cmd", "true", *options, IMAGE, "sleep", "1000")
    shared_engine.docker(*words, check=True)
    try:
        assert shared_engine.docker("exec", "far", "echo", "lives", check=True).stdout == "lives\n"
        assert status(shared_engine, "far") == "starting"
        assert inspect(shared_engine, "far")["State"]["Running"]
    finally:
        shared_engine.docker("rm", "-f", "far")


def test_without_a_network_there_is_a_loopback_alone(shared_engine: CortenEngine) -> None:
    """docker-py's network_disabled, which the CLI has no flag for."""
    with contextlib.closing(shared_engine.client()) as client:
        out = client.containers.run(IMAGE, ["ls", "/sys/class/net"], network_disabled=True, remove=True)
    assert out == b"lo\n"
