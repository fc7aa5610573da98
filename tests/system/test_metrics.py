"""`metrics-addr`: what a scrape says of the engine and its containers, beside dockerd's names."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest

from support import images
from support.dockerd import DockerClient, Dockerd
from support.engine import CortenEngine
from support.netns import NetNs
from support.process import wait_for

ADDRESS = "127.0.0.1:9323"
OPEN = "application/openmetrics-text"
SAMPLE = re.compile(r'[a-z_:]+(?:\{(?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)*\})? [0-9.e+-]+')


@pytest.fixture(scope="module")
def engine() -> Iterator[CortenEngine]:
    with CortenEngine(args=("--metrics-addr", ADDRESS)) as made:
        made.docker("load", "-i", str(images.busybox()), check=True)
        yield made


def ask(netns: NetNs, *, accept: str = "", path: str = "/metrics", method: str = "GET") -> tuple[str, str]:
    """Head and body of one request inside the engine's network."""
    script = (
        "import http.client, sys\n"
        "c = http.client.HTTPConnection('127.0.0.1', 9323, timeout=60)\n"
        "c.request(sys.argv[1], sys.argv[2], headers={'Accept': sys.argv[3]})\n"
        "r = c.getresponse()\n"
        "print(r.status, r.headers['Content-Type'])\n"
        "sys.stdout.write(r.read().decode())\n"
    )
    done = subprocess.run(
        [*netns.enter, "/usr/bin/python3", "-c", script, method, path, accept or "text/plain"],
        check=True,
        capture_output=True,
        text=True,
        timeout=40,
    )
    head, _, body = done.stdout.partition("\n")
    return head, body


def value(body: str, name: str, *labels: str) -> float:
    """The one sample of this name with these labels."""
    found = [line for line in body.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
    found = [line for line in found if all(label in line for label in labels)]
    assert len(found) == 1, (name, labels, found)
    return float(found[0].rpartition(" ")[2])


def names(body: str) -> set[str]:
    return {re.split(r"[{ ]", line)[0] for line in body.splitlines() if line and not line.startswith("#")}


def test_a_running_container_is_shown_with_its_figures(engine: CortenEngine) -> None:
    options = ("--name", "metered", "-m", "64m", "--cpus", "0.02", "--pids-limit", "50")
    engine.docker("run", "-d", *options, images.BUSYBOX_REF, "sh", "-c", "while :; do :; done", check=True)
    try:
        own = 'name="metered"'

        def is_throttled() -> bool:
            body = ask(engine.netns)[1]
            return own in body and value(body, "container_cpu_cfs_throttled_periods_total", own) > 0

        wait_for(is_throttled, "throttled container")
        body = ask(engine.netns)[1]
        assert value(body, "container_spec_memory_limit_bytes", own) == 64 << 20
        assert value(body, "container_threads_max", own) == 50
        assert value(body, "container_processes", own) == 1
        assert value(body, "container_cpu_usage_seconds_total", own) > 0
        assert 0 < value(body, "container_memory_working_set_bytes", own) < 64 << 20
        assert value(body, "container_network_receive_packets_dropped_total", own, 'interface="eth0"') >= 0
        assert value(body, "container_pressure_cpu_waiting_seconds_total", own) > 0
        assert value(body, "engine_daemon_container_states_containers", 'state="running"') == 1
        assert value(body, "corten_scrape_failed_containers") == 0
    finally:
        engine.docker("rm", "-f", "metered")


@pytest.mark.parametrize("accept", [OPEN, "text/plain"])
def test_each_line_is_one_of_the_format(engine: CortenEngine, accept: str) -> None:
    """A container's name and image cannot break out of a label."""
    engine.docker("run", "-d", "--name", "odd", images.BUSYBOX_REF, "sleep", "600", check=True)
    try:
        head, body = ask(engine.netns, accept=accept)
        assert head.startswith(
            "200 application/openmetrics-text" if accept == OPEN else "200 text/plain; version=0.0.4"
        )
        lines = body.splitlines()
        assert (lines[-1] == "# EOF") is (accept == OPEN)
        for line in lines:
            assert line.startswith(("# HELP ", "# TYPE ")) or line == "# EOF" or SAMPLE.fullmatch(line), line
    finally:
        engine.docker("rm", "-f", "odd")


def test_an_interface_of_any_name_breaks_no_scrape(engine: CortenEngine) -> None:
    rename = r"""ip link set eth0 down; ip link set eth0 name "$(printf 'a\034\377"b')"; echo done; sleep 600"""
    options = ("--name", "renamer", "--cap-add", "NET_ADMIN")
    engine.docker("run", "-d", *options, images.BUSYBOX_REF, "sh", "-c", rename, check=True)
    try:
        wait_for(lambda: "done" in engine.docker("logs", "renamer").stdout, "renamed interface")
        name = 'interface="a\x1c\\\\xff\\"b"'
        wait_for(lambda: name in ask(engine.netns)[1], "scrape with its interface")
        body = ask(engine.netns)[1]
        assert value(body.replace("\x1c", "^"), "corten_scrape_failed_containers") == 0
        assert engine.docker("stats", "--no-stream", "renamer").returncode == 0
    finally:
        engine.docker("rm", "-f", "renamer")


def test_nothing_else_is_served(engine: CortenEngine) -> None:
    assert ask(engine.netns, path="/info")[0].startswith("404")
    assert ask(engine.netns, path="/containers/json")[0].startswith("404")
    assert ask(engine.netns, method="POST")[0].startswith("405")


def test_a_port_that_is_taken_is_told() -> None:
    with CortenEngine(args=("--metrics-addr", ADDRESS)) as first:
        again = [word if word != str(first.data_root) else f"{first.folder}/other" for word in first.argv]
        again = [word.replace(str(first.exec_root), f"{first.folder}/otherx") for word in again]
        again = [word.replace(f"unix://{first.socket}", f"unix://{first.folder}/s2") for word in again]
        argv = [*first.netns.enter, *again]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=30, env=first.environment)
        subprocess.run([*argv, "--destroy"], check=True, capture_output=True, timeout=30, env=first.environment)
        assert done.returncode == 1
        assert f"--metrics-addr {ADDRESS}: " in done.stderr
        assert "address already in use" in done.stderr


def states(side: DockerClient, netns: NetNs) -> tuple[set[str], dict[str, float]]:
    body = ask(netns)[1]
    counts = {
        state: value(body, "engine_daemon_container_states_containers", f'state="{state}"')
        for state in ("running", "paused", "stopped")
    }
    return names(body), counts


@pytest.mark.slow
def test_the_engines_names_are_dockerds(engine: CortenEngine) -> None:
    with Dockerd(args=("--metrics-addr", ADDRESS, "--experimental")) as reference:
        reference.docker("load", "-i", str(images.busybox()), check=True)
        sides: list[tuple[DockerClient, NetNs]] = [(reference, reference.netns), (engine, engine.netns)]
        for side, _ in sides:
            side.docker("run", "-d", "--name", "one", images.BUSYBOX_REF, "sleep", "600", check=True)
            side.docker("create", "--name", "two", images.BUSYBOX_REF, "true", check=True)
        (theirs, expected), (ours, found) = (states(side, netns) for side, netns in sides)
        for side, _ in sides:
            side.docker("rm", "-f", "one", "two")
    assert found == expected == {"running": 1, "paused": 0, "stopped": 1}
    assert {name for name in ours if name.startswith("engine_daemon_")} <= theirs
    assert {name for name in ours if name.startswith("process_")} <= theirs
