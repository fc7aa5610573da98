"""Policies on a real engine: what they set, refuse and end, what is left when they fail, and who may write them."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clients.api import Api
from corten.engine.policies import LIMIT_S
from support import images, paths
from support.engine import CortenEngine
from support.process import wait_for

IMAGE = images.BUSYBOX_REF
HEAD = "from corten.policy import create, Refused\nimport os, time\n"
POLICIES = f"""{HEAD}
@create
def limits(c):
    if c.host["PidsLimit"] > 50 or c.host["PidsLimit"] < 0:
        return {{"PidsLimit": 50}}

@create
def privileged(c):
    if c.host["Privileged"]:
        raise Refused("no --privileged\\nhere")

@create
def odd(c):
    match c.labels.get("odd"):
        case "raises":
            raise ValueError("a secret\\nof two lines")
        case "nonsense":
            return {{"Image": "other"}}
        case "wrong":
            return {{"Memory": 7}}
        case "hangs":
            while True:
                try:
                    time.sleep(60)
                except BaseException:
                    pass
        case "dies":
            os._exit(0)
        case "local ports":
            bindings = [one for of in (c.host["PortBindings"] or {{}}).values() for one in of]
            if any(one["HostIp"] != "127.0.0.1" for one in bindings):
                raise Refused("ports of 127.0.0.1 alone")

@create
def jobs(c):
    if "seconds" in c.labels:
        return {{"Lifetime": float(c.labels["seconds"]), "LifetimeReason": "jobs end"}}
"""


class Policed:
    """An engine with a policy file that can be changed."""

    def __init__(self) -> None:
        self.folder = paths.scratch("policies")
        self.folder.chmod(0o755)
        self.file = self.folder / "policies.py"
        self.file.write_text(POLICIES)
        self.file.chmod(0o644)
        self.engine = CortenEngine(config={"policies": [str(self.file)]})
        self.engine.docker("load", "-i", str(images.busybox()), check=True)

    def close(self) -> list[str]:
        """What the engine has left."""
        left = self.engine.destroy()
        self.file.unlink()
        self.folder.rmdir()
        return left

    def named(self, function: str) -> str:
        """As it is told."""
        return f"policy {self.file}:{function}"

    def line(self, text: str) -> int:
        """Where a line of the file begins so."""
        return next(n for n, line in enumerate(self.file.read_text().splitlines(), 1) if line.strip().startswith(text))

    def reload(self, said: str) -> None:
        """SIGHUP, until the log has `said` once more."""
        before = self.engine.log.read_text().count(said)
        os.kill(self.engine.pid, signal.SIGHUP)
        wait_for(lambda: self.engine.log.read_text().count(said) > before, said, 60)

    def inspect(self, name: str) -> Any:
        return json.loads(self.engine.docker("inspect", name, check=True).stdout)[0]

    def ids(self) -> list[str]:
        """All containers, by the API and on disk."""
        named = self.engine.docker("ps", "-aq", "--no-trunc", check=True).stdout.split()
        return sorted({*named, *os.listdir(self.engine.data_root / "containers")})


@pytest.fixture(scope="module")
def policed() -> Iterator[Policed]:
    made = Policed()
    try:
        yield made
    finally:
        left = made.close()
    assert not left


@pytest.fixture
def remove(policed: Policed) -> Iterator[Callable[[str], str]]:
    """Names that are removed at the end."""
    names: list[str] = []

    def note(name: str) -> str:
        names.append(name)
        return name

    yield note
    for name in names:
        policed.engine.docker("rm", "-f", name)


def test_a_value_has_its_policy_as_origin_and_what_was_asked_stays(
    policed: Policed, remove: Callable[[str], str]
) -> None:
    name = remove("limited")
    policed.engine.docker("create", "--pids-limit", "70", "--name", name, IMAGE, check=True)
    found = policed.inspect(name)
    assert found["HostConfig"]["PidsLimit"] == 50
    assert found["Corten"]["Origins"]["HostConfig.PidsLimit"] == policed.named("limits")
    assert found["Corten"]["Asked"] == {"HostConfig.PidsLimit": {"Value": 70, "Origin": "flag"}}
    said = policed.engine.corten("run", "--explain", "--pids-limit", "70", IMAGE, check=True).stdout
    assert f"{policed.named('limits')} (asked: 70, flag)" in said
    policed.engine.docker("rm", name, check=True)
    policed.engine.docker("create", "--pids-limit", "20", "--name", name, IMAGE, check=True)
    assert policed.inspect(name)["Corten"]["Origins"]["HostConfig.PidsLimit"] == "flag"


def test_an_update_cannot_get_round_a_maximum(policed: Policed, remove: Callable[[str], str]) -> None:
    name = remove("updated")
    policed.engine.docker("run", "-d", "--network", "none", "--name", name, IMAGE, "sleep", "1000", check=True)
    for wanted in ("9999", "-1"):
        policed.engine.docker("update", "--pids-limit", wanted, name, check=True)
        found = policed.inspect(name)
        assert found["HostConfig"]["PidsLimit"] == 50
        assert found["Corten"]["Origins"]["HostConfig.PidsLimit"] == policed.named("limits")
        look = "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null"
        limit = policed.engine.docker("exec", name, "sh", "-c", look).stdout
        assert limit == "50\n"
    policed.engine.docker("update", "--pids-limit", "30", name, check=True)
    assert policed.inspect(name)["HostConfig"]["PidsLimit"] == 30


def test_added_ports_are_judged_as_those_of_a_create_are(policed: Policed, remove: Callable[[str], str]) -> None:
    engine, name = policed.engine, remove("local-ports")
    engine.docker("run", "-d", "--name", name, "--label", "odd=local ports", IMAGE, "sleep", "1000", check=True)
    refused = engine.corten("port", "add", name, "8080:80")
    assert f"authorization denied by {policed.named('odd')}: ports of 127.0.0.1 alone" in refused.stderr
    assert engine.docker("port", name, check=True).stdout == ""
    engine.corten("port", "add", name, "127.0.0.1:8080:80", check=True)
    assert engine.docker("port", name, check=True).stdout == "80/tcp -> 127.0.0.1:8080\n"


def test_a_client_and_an_image_choose_no_policy(policed: Policed, remove: Callable[[str], str]) -> None:
    name, engine = remove("hostile"), policed.engine
    hostile = {"Corten.Policies": "[]", "policies": "/tmp/x.py", "policy": "none", "Lifetime": "1"}
    flags = [word for item in hostile.items() for word in ("--label", "=".join(item), "--env", "=".join(item))]
    changes = [word for item in hostile.items() for word in ("--change", "LABEL " + "=".join(item))]
    engine.docker("create", "--name", name, IMAGE, check=True)
    engine.docker("commit", *changes, name, "hostile", check=True)
    engine.docker("rm", name, check=True)
    engine.docker("create", *flags, "--annotation", "policies=none", "--name", name, "hostile", check=True)
    found = policed.inspect(name)
    assert (found["HostConfig"]["PidsLimit"], found["Corten"].get("Lifetime")) == (50, None)
    body = {"Image": IMAGE, "Policies": [], "HostConfig": {"Policies": []}, "Corten": {"Policies": []}}
    status, _ = Api(engine.socket).call("POST", "/containers/create", body)
    assert status in (201, 400, 501)
    for one in engine.docker("ps", "-aq", "--filter", "status=created", check=True).stdout.split():
        assert json.loads(engine.docker("inspect", one).stdout)[0]["HostConfig"]["PidsLimit"] == 50
        engine.docker("rm", one, check=True)
    engine.docker("rmi", "hostile", check=True)


def test_a_refusal_is_one_line_that_names_policy_and_reason(policed: Policed) -> None:
    before = policed.ids()
    done = policed.engine.docker("run", "--rm", "--privileged", IMAGE, "true")
    said = f"docker: Error response from daemon: authorization denied by {policed.named('privileged')}: "
    assert (done.returncode, done.stderr.splitlines()[0]) == (125, f"{said}no --privileged\\nhere.".rstrip("."))
    assert policed.ids() == before


@pytest.mark.parametrize(
    ("odd", "line", "text"),
    [
        ("raises", "raise ValueError", "ValueError: a secret\\nof two lines"),
        ("nonsense", "def odd", "Image is nothing that a policy can set"),
        ("wrong", "", "Minimum memory limit allowed is 6MB"),
        ("dies", "def odd", "no answer: its process was ended"),
        pytest.param("hangs", "time.sleep", f"took longer than {LIMIT_S:g} s", marks=pytest.mark.slow),
    ],
)
def test_a_policy_that_fails_refuses_and_leaves_nothing(policed: Policed, odd: str, line: str, text: str) -> None:
    before = policed.ids()
    done = policed.engine.docker("create", "--name", "odd", "--label", f"odd={odd}", "-v", "/anonymous", IMAGE)
    at = f" failed at line {policed.line(line) - line.startswith('def')}" if line else ""
    assert done.stderr == f"Error response from daemon: {policed.named('odd')}{at}: {text}\n"
    assert done.returncode == 1
    assert policed.ids() == before
    assert not policed.engine.docker("volume", "ls", "-q", check=True).stdout
    policed.engine.docker("create", "--name", "odd", IMAGE, check=True)  # the name is free, and policies are asked
    assert policed.inspect("odd")["HostConfig"]["PidsLimit"] == 50
    policed.engine.docker("rm", "odd", check=True)


@pytest.mark.slow
def test_the_api_answers_while_a_policy_hangs(policed: Policed) -> None:
    hung = threading.Thread(
        target=policed.engine.docker, args=("create", "--label", "odd=hangs", IMAGE), kwargs={"timeout": 60}
    )
    hung.start()
    policed.engine.docker("ps", check=True)
    policed.engine.docker("images", check=True)
    assert hung.is_alive()  # which takes LIMIT_S
    hung.join(60)


def test_a_lifetime_ends_a_run_and_the_verdict_names_the_policy(policed: Policed, remove: Callable[[str], str]) -> None:
    name = remove("job")
    run = ("run", "-d", "--network", "none", "--init", "--restart", "unless-stopped", "--label", "seconds=0.5")
    policed.engine.docker(*run, "--name", name, IMAGE, "sleep", "1000", check=True)
    assert policed.engine.docker("wait", name, check=True).stdout == "143\n"
    found = policed.inspect(name)
    said = f"exited with code 143 after SIGTERM for {policed.named('jobs')}: jobs end"
    assert found["Corten"]["Verdict"]["Sentence"] == said
    assert found["Corten"]["Lifetime"] == {"Seconds": 0.5, "Policy": policed.named("jobs"), "Reason": "jobs end"}
    assert found["State"]["Status"] == "exited"
    assert said in policed.engine.corten("why", name, check=True).stdout
    filters = ("--filter", "event=die", "--filter", f"container={name}", "--since", "0", "--until", "0s")
    asked = ("events", *filters, "--format", "{{json .Actor.Attributes}}")
    wait_for(lambda: said in policed.engine.docker(*asked).stdout, "the event, which comes behind the end of the wait")


def test_a_lifetime_outlives_a_kill_of_cortend_between_the_signal_and_the_end(
    policed: Policed, remove: Callable[[str], str]
) -> None:
    """The init ignores SIGTERM, so the one that is killed had sent it, and the next one must end it."""
    name, engine = remove("deaf"), policed.engine
    script = "trap 'echo got' TERM; while :; do sleep 0.05; done"
    run = ("run", "-d", "--network", "none", "--stop-timeout", "3600", "--label", "seconds=0.5", "--name", name)
    engine.docker(*run, IMAGE, "sh", "-c", script, check=True)
    wait_for(lambda: "got" in engine.docker("logs", name).stdout, "signal", 60)
    engine.kill9()
    engine.start()
    wait_for(lambda: engine.docker("logs", name).stdout.count("got") == 2, "signal of the next cortend", 60)
    engine.docker("kill", name, check=True)
    engine.docker("wait", name, check=True)
    kills = policed.inspect(name)["Corten"]["Verdict"]["Kills"]
    assert [one["By"]["By"] for one in kills] == [policed.named("jobs"), policed.named("jobs"), "client"]


@pytest.mark.slow
def test_what_should_have_ended_without_cortend_ends_at_the_next_start(
    policed: Policed, remove: Callable[[str], str]
) -> None:
    name, engine = remove("late"), policed.engine
    run = ("run", "-d", "--network", "none", "--init", "--label", "seconds=1.5", "--name", name)
    engine.docker(*run, IMAGE, "sleep", "1000", check=True)
    engine.kill9()
    engine.start()
    engine.docker("wait", name)
    assert policed.inspect(name)["Corten"]["Verdict"]["Sentence"].endswith(f"for {policed.named('jobs')}: jobs end")


def test_a_reload_asks_the_new_ones_and_keeps_the_old_ones_when_it_is_refused(policed: Policed) -> None:
    engine = policed.engine

    def limit() -> int:
        engine.docker("create", "--name", "reloaded", IMAGE, check=True)
        try:
            return int(policed.inspect("reloaded")["HostConfig"]["PidsLimit"])
        finally:
            engine.docker("rm", "reloaded", check=True)

    try:
        policed.file.write_text(f"{HEAD}\n@create\ndef limits(c): return {{'PidsLimit': 40}}\n")
        assert limit() == 50  # nobody has asked for it
        policed.reload("Reloaded configuration")
        assert limit() == 40
        policed.file.write_text(f"{HEAD}\n@create\ndef limits(c): return {{'PidsLimit': 30}}\n")
        policed.file.chmod(0o666)
        policed.reload(f"configuration not reloaded: policies (daemon.json): {policed.file}: writable by others")
        assert limit() == 40
        policed.file.chmod(0o644)
        policed.file.write_text("def broken(:\n")
        policed.reload(f"configuration not reloaded: {policed.file}: line 1: SyntaxError")
        assert limit() == 40
    finally:
        policed.file.chmod(0o644)
        policed.file.write_text(POLICIES)
        policed.reload("Reloaded configuration")
    assert limit() == 50


def test_a_reload_while_containers_are_made_loses_none(policed: Policed) -> None:
    results: list[int] = []

    def make(number: int) -> None:
        for turn in range(4):
            name = f"made-{number}-{turn}"
            results.append(policed.engine.docker("create", "--name", name, IMAGE).returncode)
            results.append(policed.engine.docker("rm", name).returncode)

    makers = [threading.Thread(target=make, args=(number,)) for number in range(2)]
    for maker in makers:
        maker.start()
    for _ in range(4):
        policed.reload("Reloaded configuration")
    for maker in makers:
        maker.join(120)
    assert results == [0] * 16
    wait_for(lambda: len(workers(policed)) == 1, "end of those before", 60)


def workers(policed: Policed) -> list[int]:
    """Processes that policies run in."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"corten.policy.worker" in words and str(policed.engine.exec_root).encode() in words:
            found.append(int(pid))
    return found


def test_their_process_may_be_killed(policed: Policed) -> None:
    policed.engine.docker("rm", policed.engine.docker("create", IMAGE, check=True).stdout.strip(), check=True)
    wait_for(lambda: len(workers(policed)) == 1, "the one process", 60)
    (before,) = workers(policed)
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: before not in workers(policed), "its end", 60)
    wait_for(lambda: _refusals(policed) == 0, "an answer", 60)


def _refusals(policed: Policed) -> int:
    """Of a question now: the one that met the end of the process is refused, none after it."""
    done = policed.engine.docker("create", "--name", "again", IMAGE)
    policed.engine.docker("rm", "again")
    return done.returncode


def test_their_process_ends_with_cortend(policed: Policed) -> None:
    policed.engine.docker("create", "--name", "asked", IMAGE, check=True)  # it is started for a question at the latest
    policed.engine.docker("rm", "asked", check=True)
    wait_for(lambda: len(workers(policed)) == 1, "the one process", 60)
    (before,) = workers(policed)
    policed.engine.kill9()
    wait_for(lambda: not workers(policed), "end of the process of policies", 60)
    policed.engine.start()
    assert before not in workers(policed)
