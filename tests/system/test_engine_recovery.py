"""Ends of cortend and of shims: what goes on, what is told, what is removed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from corten.core.shims import TIMEOUT_S
from corten.daemon.config import KEYS
from support import images, peers, process
from support.engine import CortenEngine
from support.process import is_alive
from support.process import wait_for as until

from .test_engine import IMAGE, inspect, remains


def shim_of(engine: CortenEngine, name: str) -> int:
    """The pid of a container's shim."""
    ident = inspect(engine, name)["Id"]
    return oldest(f"corten-shim moby/{ident}")


def oldest(pattern: str) -> int:
    """The first process with this command line; what it has forked bears the same for a moment."""
    done = subprocess.run(["pgrep", "-o", "-f", "--", pattern], check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout)


def state(engine: CortenEngine, name: str) -> dict[str, Any]:
    found: dict[str, Any] = inspect(engine, name)["State"]
    return found


def test_containers_outlive_cortend_and_their_exits_are_replayed(engine: CortenEngine) -> None:
    engine.docker("run", "-d", "--name", "goes-on", "-p", "8080:80", IMAGE, "sleep", "100", check=True)
    ends = ("sh", "-c", 'trap "exit 5" USR1; echo ready; while :; do sleep 0.01; done')
    engine.docker("run", "-d", "--name", "ends", IMAGE, *ends, check=True)
    engine.docker("run", "-d", "--rm", "--name", "vanishes", IMAGE, *ends, check=True)
    pid = state(engine, "goes-on")["Pid"]
    ending = {inspect(engine, name)["Id"]: state(engine, name)["Pid"] for name in ("ends", "vanishes")}
    for ident in ending:
        until(lambda: engine.docker("logs", ident).stdout == "ready\n", "its trap")  # noqa: B023
    engine.kill9()
    for ident, init in ending.items():
        os.kill(init, signal.SIGUSR1)
        until((engine.exec_root / "tasks" / "moby" / ident / "exit").exists, "its exit record")
    engine.start()
    assert state(engine, "goes-on")["Pid"] == pid
    assert inspect(engine, "goes-on")["NetworkSettings"]["Ports"] == {
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}]
    }
    assert (state(engine, "ends")["Status"], state(engine, "ends")["ExitCode"]) == ("exited", 5)
    until(lambda: engine.docker("inspect", "vanishes").returncode == 1, "the removal of what removes itself")
    assert engine.docker("exec", "goes-on", "echo", "ok", check=True).stdout == "ok\n"
    engine.docker("rm", "-f", "goes-on", "ends", check=True)
    until(lambda: not remains(engine), "remains after adoption")


def test_a_lost_shim_is_a_verdict_and_every_byte_of_output_stays(engine: CortenEngine) -> None:
    script = "i=0; while true; do i=$((i+1)); echo line $i; done"
    engine.docker("run", "-d", "--name", "speaks", IMAGE, "sh", "-c", script, check=True)
    engine.docker("run", "-d", "--name", "other", IMAGE, "sleep", "100", check=True)
    until(lambda: engine.docker("logs", "--tail", "1", "speaks").stdout, "output")
    os.kill(shim_of(engine, "speaks"), signal.SIGKILL)
    until(lambda: state(engine, "speaks")["Status"] == "exited", "the end of a container without its shim")
    assert (state(engine, "speaks")["ExitCode"], state(engine, "speaks")["Error"]) == (137, "shim lost")
    lines = engine.docker("logs", "speaks", check=True).stdout.splitlines()
    assert lines == [f"line {number}" for number in range(1, len(lines) + 1)] or lines[:-1] == [
        f"line {number}" for number in range(1, len(lines))
    ]
    assert state(engine, "other")["Running"]


def test_a_shim_lost_while_nobody_was_there_is_a_verdict_too(engine: CortenEngine) -> None:
    engine.docker("run", "-d", "--name", "gone", IMAGE, "sleep", "100", check=True)
    shim = shim_of(engine, "gone")
    engine.kill9()
    os.kill(shim, signal.SIGKILL)
    until(lambda: not is_alive(shim), "the death of the shim")
    engine.start()
    assert (state(engine, "gone")["ExitCode"], state(engine, "gone")["Error"]) == (137, "shim lost")
    engine.docker("rm", "gone", check=True)
    until(lambda: not remains(engine), "remains of a lost container")


def test_a_hung_shim_is_gone_around(engine: CortenEngine) -> None:
    engine.docker("run", "-d", "--name", "hangs", IMAGE, "sleep", "100", check=True)
    shim = shim_of(engine, "hangs")
    os.kill(shim, signal.SIGSTOP)
    start = time.monotonic()
    assert state(engine, "hangs")["Running"]
    assert engine.docker("ps", "-q").stdout
    assert time.monotonic() - start < TIMEOUT_S, "it waited for an answer of the shim"
    engine.docker("stop", "-t", "1", "hangs", check=True, timeout=30)
    assert state(engine, "hangs")["Status"] == "exited"
    until(lambda: not os.path.exists(f"/proc/{shim}"), "the end of the shim")
    seen = engine.docker("events", "--since", "600s", "--until", "0s", "--format", "{{.Action}}", check=True).stdout
    assert "shim-unresponsive" in seen.split()


def test_a_new_zygote_takes_the_place_of_a_dead_one(engine: CortenEngine) -> None:
    pattern = f"corten-shim --zygote --exec-root {engine.exec_root}"
    os.kill(oldest(pattern), signal.SIGKILL)
    assert engine.docker("run", "--rm", IMAGE, "echo", "ok", check=True).stdout == "ok\n"


def test_policies_hold_over_a_restart_of_the_daemon(engine: CortenEngine) -> None:
    for policy in ("always", "unless-stopped"):
        engine.docker("run", "-d", "--name", policy, "--restart", policy, IMAGE, "sleep", "100", check=True)
        engine.docker("stop", "-t", "0", policy, check=True)
    engine.docker("run", "-d", "--name", "tried", "--restart", "on-failure:1", IMAGE, "false", check=True)
    until(lambda: state(engine, "tried")["Status"] == "exited", "the end of its restarts")
    engine.restart()
    until(lambda: state(engine, "always")["Running"], "a container that always runs")
    assert not state(engine, "unless-stopped")["Running"]
    assert inspect(engine, "tried")["RestartCount"] == 1
    pid = state(engine, "always")["Pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: state(engine, "always")["Pid"] not in (0, pid), "another start: the stop counts no more")
    assert (state(engine, "tried")["Status"], inspect(engine, "tried")["RestartCount"]) == ("exited", 1)


def test_a_deleted_journal_does_not_hide_leftovers(engine: CortenEngine) -> None:
    import sqlite3

    engine.docker("run", "-d", "--name", "stray", IMAGE, "sleep", "100", check=True)
    engine.kill9()
    with sqlite3.connect(engine.data_root / "corten.db") as database:
        for table in ("journal", "containers"):
            database.execute(f"DELETE FROM {table}")
        database.execute("DELETE FROM network_endpoints")
    database.close()
    engine.start()
    assert engine.docker("ps", "-aq", check=True).stdout == ""
    until(lambda: not remains(engine), "remains of a container that no record names")


def test_a_record_that_cannot_be_read_costs_the_container_nothing(engine: CortenEngine) -> None:
    import sqlite3

    engine.docker("volume", "create", "other", check=True)
    script = "echo mine > /mine; cp /mine /v; sleep 100"
    engine.docker("run", "-d", "--name", "kept", "-v", "held:/v", IMAGE, "sh", "-c", script, check=True)
    ident, pid = inspect(engine, "kept")["Id"], state(engine, "kept")["Pid"]
    until(lambda: os.path.exists(f"/proc/{pid}/root/v/mine"), "the container's file")
    engine.kill9()
    with sqlite3.connect(engine.data_root / "corten.db") as database:
        (record,) = database.execute("SELECT engine FROM containers WHERE id = ?", (ident,)).fetchone()
        database.execute("UPDATE containers SET engine = ? WHERE id = ?", (b"{", ident))
    database.close()
    engine.start()
    assert engine.docker("ps", "-aq", check=True).stdout == ""
    engine.docker("volume", "prune", "-af", check=True)
    assert f"volume is in use - [{ident}]" in engine.docker("volume", "rm", "held").stderr
    engine.kill9()
    with sqlite3.connect(engine.data_root / "corten.db") as database:
        database.execute("UPDATE containers SET engine = ? WHERE id = ?", (record, ident))
    database.close()
    engine.start()
    assert state(engine, "kept")["Pid"] == pid
    assert engine.docker("exec", "kept", "cat", "/mine", "/v/mine", check=True).stdout == "mine\nmine\n"
    assert "other" in engine.docker("volume", "prune", "-af", check=True).stdout


def test_a_start_buries_what_a_failed_cleanup_left(engine: CortenEngine) -> None:
    engine.docker("create", "--name", "again", IMAGE, "echo", "ok", check=True)
    left = engine.exec_root / "tasks" / "moby" / inspect(engine, "again")["Id"]
    left.mkdir(parents=True)
    (left / "config.json").write_text("{}")
    assert engine.docker("start", "-a", "again", check=True).stdout == "ok\n"
    until(lambda: not left.exists(), "the end of the task")


def test_a_second_cortend_is_refused_by_name(engine: CortenEngine) -> None:
    done = subprocess.run(engine.argv, check=False, capture_output=True, text=True, env=engine.environment)
    assert done.returncode == 1
    assert (
        done.stderr.splitlines()[-1] == f"cortend: data root {engine.data_root} is in use by cortend (pid {engine.pid})"
    )


def test_destroy_works_alive_dead_and_twice(make_engine: Callable[..., CortenEngine]) -> None:
    from support import images

    engine = make_engine()
    engine.docker("load", "-i", str(images.busybox()), check=True)
    engine.docker("run", "-d", "--cgroup-parent", f"/{engine.folder.name}", IMAGE, "sleep", "100", check=True)
    command = [*engine.netns.enter, *engine.argv, "--destroy"]
    for _ in range(2):
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=engine.environment)
        assert done.returncode == 0, done.stderr
        assert not engine.data_root.exists()
        assert not engine.exec_root.exists()


@pytest.mark.parametrize("keeps_data", [True, False])
def test_destroy_finds_everything_without_a_daemon(make_engine: Callable[..., CortenEngine], keeps_data: bool) -> None:
    from support import images

    engine = make_engine()
    engine.docker("load", "-i", str(images.busybox()), check=True)
    engine.docker("run", "-d", "--network", "none", IMAGE, "sleep", "100", check=True)
    engine.kill9()
    (place,) = process.engines_below(engine.data_root)
    if not keeps_data:
        shutil.rmtree(engine.data_root)
    command = [*engine.netns.enter, *engine.argv, "--destroy"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=engine.environment)
    assert done.returncode == 0, done.stderr
    assert not engine.exec_root.exists()
    assert not process.cgroups_named(place)


@pytest.mark.parametrize("kind", ["--zygote --exec-root", "helper"])
def test_destroy_ends_a_maker_of_containers_that_hangs(make_engine: Callable[..., CortenEngine], kind: str) -> None:
    engine = make_engine()
    hanging = oldest(f"corten-shim {kind} {engine.exec_root}")
    os.kill(hanging, signal.SIGSTOP)
    engine.kill9()
    command = [*engine.netns.enter, *engine.argv, "--destroy"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=engine.environment)
    assert done.returncode == 0, done.stderr
    assert not is_alive(hanging)
    assert not engine.exec_root.exists()


def test_sighup_reloads_and_says_the_whole_configuration(engine: CortenEngine) -> None:
    config = json.loads(engine.config_file.read_text())
    engine.config_file.write_text(json.dumps(config | {"default-pids-limit": 33}))
    os.kill(engine.pid, signal.SIGHUP)
    said = "Reloaded configuration: "
    until(lambda: said in engine.log_tail(), "a reload in the log")
    logged = json.loads(engine.log_tail().partition(said)[2].splitlines()[0])
    in_proxies, of_the_past = {"http-proxy", "https-proxy", "no-proxy"}, {"api-cors-header", "deprecated-key-path"}
    assert set(KEYS) - logged.keys() == in_proxies | of_the_past
    assert (
        logged
        | {
            "data-root": str(engine.data_root),
            "exec-root": str(engine.exec_root),
            "hosts": [engine.host],
            "pidfile": str(engine.pidfile),
            "debug": True,
            "runtimes": {},
            "default-runtime": "corten",
            "default-pids-limit": 33,
            "default-ulimits": {},
            "log-driver": "json-file",
            "log-opts": {},
            "max-concurrent-downloads": 3,
            "max-concurrent-uploads": 5,
            "max-download-attempts": 5,
            "proxies": {},
            "registry-mirrors": [],
            "insecure-registries": [],
            "labels": [],
            "live-restore": True,
        }
        == logged
    )
    done = engine.docker("run", "--rm", IMAGE, "cat", "/sys/fs/cgroup/pids/pids.max", check=True)
    assert done.stdout == "33\n"
    engine.config_file.write_text('{"nonsense": 1}')
    os.kill(engine.pid, signal.SIGHUP)
    until(lambda: "configuration not reloaded" in engine.log_tail(), "a refusal in the log")


def test_a_runtime_that_a_reload_took_away_is_refused_by_name(make_engine: Callable[..., CortenEngine]) -> None:
    engine = make_engine(config={"runtimes": {"mine": {"path": "/usr/sbin/runc"}}})
    engine.docker("load", "-i", str(images.busybox()), check=True)
    engine.docker("create", "--runtime", "mine", "--name", "left", IMAGE, "true", check=True)
    engine.config_file.write_text("{}")
    os.kill(engine.pid, signal.SIGHUP)
    until(lambda: "mine" not in engine.docker("info", "-f", "{{json .Runtimes}}").stdout, "the reload")
    assert "unknown or invalid runtime name: mine" in engine.docker("start", "left").stderr
    assert state(engine, "left")["Error"] == "unknown or invalid runtime name: mine"
    engine.docker("rm", "left", check=True)


def test_a_damaged_image_keeps_nobody_from_the_containers(engine: CortenEngine) -> None:
    engine.docker("run", "-d", "--name", "goes-on", IMAGE, "sleep", "100", check=True)
    image_id = inspect(engine, "goes-on")["Image"]
    engine.stop()
    (engine.data_root / "content/blobs" / image_id.replace(":", "/")).write_bytes(b"damaged")
    engine.start()
    assert "damaged on disk" in engine.log_tail()
    assert engine.docker("exec", "goes-on", "echo", "ok", check=True).stdout == "ok\n"
    engine.docker("restart", "-t", "0", "goes-on", check=True)
    assert [
        row.split()[0] for row in engine.docker("ps", "--format", "{{.Image}}", check=True).stdout.splitlines()
    ] == [IMAGE]
    engine.docker("rm", "-f", "goes-on", check=True)
    until(lambda: not remains(engine), "remains of the container")


def test_a_damaged_image_hides_no_other_and_is_whole_again_when_loaded(engine: CortenEngine) -> None:
    tar = subprocess.run(["tar", "-C", "/usr/share", "-c", "doc/base-files"], check=True, capture_output=True).stdout
    engine.docker("import", "-", "other:1", stdin=tar, check=True)
    short = engine.docker("images", "-q", IMAGE, check=True).stdout.strip()
    blob = next((engine.data_root / "content/blobs/sha256").glob(f"{short}*"))
    engine.stop()
    blob.write_bytes(b"damaged")
    engine.start()
    listed = [engine.docker("images", "--format", "{{.Repository}}", check=True).stdout for _ in range(3)]
    assert listed == ["other\n"] * 3
    why = f"content sha256:{blob.name}: damaged on disk"
    said = f"image {IMAGE} ({short}) cannot be read: {why}: load it again, or remove it"
    assert engine.log.read_text().count(said) == 1
    for args, status in (("run", IMAGE), 125), (("image", "inspect", IMAGE), 1), (("tag", IMAGE, "x:1"), 1):
        done = engine.docker(*args)
        assert (done.returncode, said in done.stderr) == (status, True), done.stderr
    engine.docker("rmi", "other:1", check=True)
    engine.docker("load", "-i", str(images.busybox()), check=True)
    assert engine.docker("run", "--rm", IMAGE, "echo", "whole", check=True).stdout == "whole\n"
    engine.stop()
    blob.unlink()
    engine.start()
    assert f"Untagged: {IMAGE}" in engine.docker("rmi", IMAGE, check=True).stdout
    assert not list((engine.data_root / "content/blobs/sha256").iterdir())


def test_destroy_ends_many_containers_at_once_and_waits_for_no_helper(make_engine: Callable[..., CortenEngine]) -> None:
    engine = make_engine(config={"runtimes": {"runc": {"path": str(peers.binary("runc"))}}})
    engine.docker("load", "-i", str(images.busybox()), check=True)
    health = ("--health-cmd", "true", "--health-interval", "1s")
    for options in ((), ("--runtime", "runc"), health):
        engine.docker("run", "-d", *options, IMAGE, "sleep", "100", check=True)
    engine.kill9()
    command = [*engine.netns.enter, *engine.argv, "--destroy"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=engine.environment)
    assert done.returncode == 0, done.stderr
    assert "helper does not answer" not in done.stderr
    assert not engine.exec_root.exists()
    assert not subprocess.run(["pgrep", "-f", str(engine.exec_root)], check=False, stdout=subprocess.PIPE).stdout
