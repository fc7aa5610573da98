"""`corten-runtime` as a program: what each verb does to the kernel and the disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support import process, runtimes
from support.runtimes import Runtime

CGROUPS = Path("/sys/fs/cgroup")


# run -------------------------------------------------------------------------------------------------------


def test_run_gives_output_and_exit_status_and_leaves_nothing(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.bundle("sh", "-c", "cat; echo err >&2; exit 7", folder=folder / "bundle")
    done = corten("run", "c", "--bundle", str(bundle.path), stdin=b"in\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "in\n", "err\n")
    assert not bundle.has_cgroup()
    assert list((folder / "root").iterdir()) == []


def test_a_signal_that_ends_the_process_is_128_and_its_number(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.bundle("sh", "-c", "sh -c 'kill -9 $$'; exit $?", folder=folder / "bundle")
    assert corten("run", "c", "-b", str(bundle.path)).returncode == 137


def test_signals_reach_the_process_of_a_run(corten: Runtime, folder: Path) -> None:
    script = "trap 'echo usr1; exit 5' USR1; echo ready; while :; do sleep 0.05; done"
    bundle = runtimes.bundle("sh", "-c", script, folder=folder / "bundle")
    argv = corten.argv("run", "-b", str(bundle.path), "c")
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        run.send_signal(signal.SIGUSR1)
        assert run.stdout.read() == "usr1\n"
        assert run.wait(60) == 5


def test_run_detached_leaves_a_running_container(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    corten.detached("run", "--detach", "--pid-file", str(folder / "pid"), "-b", str(bundle.path), "c")
    found = corten.state("c")
    assert found["status"] == "running"
    assert int((folder / "pid").read_text()) == found["pid"]


def test_run_keeps_what_it_is_told_to_keep(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.bundle("true", folder=folder / "bundle")
    corten("run", "--keep", "-b", str(bundle.path), "c", check=True)
    assert corten.state("c")["status"] == "stopped"
    assert bundle.has_cgroup()


def test_preserved_descriptors_arrive_and_others_do_not(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.bundle("sh", "-c", "cat <&3; ls /proc/self/fd", folder=folder / "bundle")
    reading, writing = os.pipe()
    os.write(writing, b"three\n")
    os.close(writing)
    script = 'exec 3<&"$1" 9</dev/null; shift; exec "$@"'
    done = subprocess.run(
        [
            "bash",
            "-c",
            script,
            "x",
            str(reading),
            *corten.argv("run", "--preserve-fds", "1", "-b", str(bundle.path), "c"),
        ],
        pass_fds=(reading,),
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(reading)
    assert done.stdout.split() == ["three", "0", "1", "2", "3", "4"], done.stderr  # 4 is the listing's own
    refused = corten("run", "--preserve-fds", "1", "-b", str(bundle.path), "d")
    assert "unable to stat preserved-fd 0 (of 1): stat /proc/self/fd/3" in refused.stderr


# create, start, delete -------------------------------------------------------------------------------------


def test_create_waits_with_everything_in_place_and_start_lets_go(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.bundle("sh", "-c", "echo started > /tmp/it; sleep 1000", folder=folder / "bundle")
    bundle.config["root"]["readonly"] = False
    bundle.save()
    corten.detached("create", "--bundle", str(bundle.path), "--pid-file", str(folder / "pid"), "c")
    found = corten.state("c")
    assert found["status"] == "created"
    assert (folder / "pid").read_text() == str(found["pid"])
    assert not (bundle.path / "rootfs/tmp/it").exists()
    corten("start", "c", check=True)
    process.wait_for((bundle.path / "rootfs/tmp/it").exists, "the process to have started")
    assert corten.state("c")["status"] == "running"


def test_a_pid_file_is_never_seen_half_written(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    (folder / "pid").write_text("old and long, so that a rewrite in place would show")
    corten.detached("create", "--bundle", str(bundle.path), "--pid-file", str(folder / "pid"), "c")
    assert (folder / "pid").read_text() == str(corten.state("c")["pid"])
    assert [path.name for path in folder.iterdir() if "pid" in path.name] == ["pid"]


def test_a_failed_create_leaves_nothing(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.bundle("nosuch", folder=folder / "bundle")
    done = corten("create", "--bundle", str(bundle.path), "c")
    assert done.returncode == 1
    assert r"exec: \"nosuch\": executable file not found in $PATH" in done.stderr
    assert not bundle.has_cgroup()
    assert list((folder / "root").iterdir()) == []


def test_the_last_line_of_the_json_log_is_the_error_of_the_user(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.bundle("/nosuch", folder=folder / "bundle")
    log = folder / "log.json"
    corten("--log", str(log), "--log-format", "json", "--debug", "create", "--bundle", str(bundle.path), "c")
    last = json.loads(log.read_text().splitlines()[-1])
    assert last["level"] == "error"
    assert last["msg"] == (
        "corten-runtime create failed: unable to start container process: "
        'exec: "/nosuch": stat /nosuch: no such file or directory'
    )


def test_delete_force_works_from_state_json_alone(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    pid = corten.state("c")["pid"]
    for path in (folder / "root/c").iterdir():
        if path.name != "state.json":
            path.unlink()
    (bundle.path / "config.json").unlink()
    corten("delete", "--force", "c", check=True)
    assert not process.is_alive(pid)
    assert not bundle.has_cgroup()
    assert list((folder / "root").iterdir()) == []


def test_a_create_that_was_killed_is_removed_by_its_record(corten: Runtime, folder: Path) -> None:
    """The record of a create that died after spawning, before it knew the pid."""
    bundle = runtimes.sleeper(folder)
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    pid = corten.state("c")["pid"]
    record = folder / "root/c/state.json"
    content = json.loads(record.read_text())
    assert str(CGROUPS / "pids") + bundle.config["linux"]["cgroupsPath"] in content["objects"]
    record.write_text(json.dumps(content | {"pid": 0, "start_time": 0}))
    assert corten.state("c")["status"] == "creating"
    assert "not stopped: creating" in corten("delete", "c").stderr
    corten("delete", "--force", "c", check=True)
    process.wait_for(lambda: not process.is_alive(pid), "the init to be dead")
    assert not bundle.has_cgroup()


def test_state_json_is_there_before_the_first_cgroup(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    trace = folder / "strace"
    calls = "trace=mkdir,mkdirat,rename,renameat,mknod,mknodat"
    argv = corten.argv("run", "-d", "-b", str(bundle.path), "c")
    with open(os.devnull, "r+b") as null:
        subprocess.run(["strace", "-e", calls, "-o", trace, *argv], check=True, stdin=null, stdout=null, stderr=null)
    lines = trace.read_text().splitlines()
    renamed = next(i for i, line in enumerate(lines) if "rename" in line and 'state.json"' in line)
    made = next(i for i, line in enumerate(lines) if "mkdir" in line and str(CGROUPS) in line)
    assert renamed < made


def test_a_signal_never_reaches_a_recycled_pid(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    corten("kill", "c", "KILL", check=True)
    corten.wait_for("c", "stopped")
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        record = folder / "root/c/state.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"pid": stranger.pid}))
        assert corten.state("c")["status"] == "stopped"
        assert "container not running" in corten("kill", "c", "KILL").stderr
        corten("delete", "--force", "c", check=True)
        assert stranger.poll() is None
        stranger.kill()


def test_a_cgroup_with_processes_of_others_is_refused(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    done = corten("create", "--bundle", str(bundle.path), "d")
    assert "container's cgroup is not empty: 1 process(es) found" in done.stderr
    assert corten.state("c")["status"] == "running"
    assert not (folder / "root/d").exists()


def test_the_machine_is_told_in_one_line_that_it_has_no_systemd(corten: Runtime, folder: Path) -> None:
    if Path("/run/systemd/system").exists():
        pytest.skip("systemd runs on this machine")
    bundle = runtimes.sleeper(folder)
    done = corten("--systemd-cgroup", "create", "--bundle", str(bundle.path), "c")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "expected cgroupsPath to be of format" in done.stderr
    del bundle.config["linux"]["cgroupsPath"]
    bundle.save()
    done = corten("--systemd-cgroup", "create", "--bundle", str(bundle.path), "c")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "systemd not running on this host, cannot use systemd cgroups manager" in done.stderr
    assert corten("--systemd-cgroup", "delete", "--force", "c").returncode == 0


# exec ------------------------------------------------------------------------------------------------------


def test_exec_takes_a_process_file_as_dockerd_writes_it(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    spec: dict[str, Any] = dict(bundle.config["process"], args=["sh", "-c", "echo $A $(pwd) $(id -u); exit 3"])
    spec |= {"env": ["PATH=/bin", "A=x"], "cwd": "/tmp", "user": {"uid": 5, "gid": 6}}
    (folder / "process.json").write_text(json.dumps(spec))
    done = corten("exec", "--process", str(folder / "process.json"), "c")
    assert (done.returncode, done.stdout) == (3, "x /tmp 5\n"), done.stderr


def test_exec_at_the_pids_limit_works(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    bundle.config["linux"]["resources"]["pids"] = {"limit": 1}
    bundle.save()
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    assert bundle.cgroup("pids", "pids.current") == "1"
    done = corten("exec", "c", "echo", "in")
    assert (done.returncode, done.stdout) == (0, "in\n"), done.stderr


def test_exec_into_a_paused_container_spawns_nothing(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    corten("pause", "c", check=True)
    done = corten("exec", "c", "true")
    assert done.returncode == 255
    assert "cannot exec in a paused container (use --ignore-paused to override)" in done.stderr
    assert len(bundle.cgroup("pids", "cgroup.procs").split()) == 1
    corten("resume", "c", check=True)
    corten("exec", "c", "true", check=True)


def test_exec_that_ignores_a_pause_freezes_with_the_container_and_goes_on_with_it(
    corten: Runtime, folder: Path
) -> None:
    bundle = runtimes.sleeper(folder)
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    corten("pause", "c", check=True)
    argv = corten.argv("exec", "--ignore-paused", "c", "echo", "thawed")
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as exec_:
        process.wait_for(lambda: len(bundle.cgroup("freezer", "cgroup.procs").split()) > 1, "process of the exec")
        assert corten.state("c")["status"] == "paused"
        assert exec_.poll() is None
        corten("resume", "c", check=True)
        assert exec_.communicate(timeout=60)[0] == "thawed\n"
        assert exec_.returncode == 0


@pytest.mark.slow  # half a minute
def test_exec_that_ignores_a_pause_which_lasts_is_told_and_leaves_nothing(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    corten("pause", "c", check=True)
    done = corten("exec", "--ignore-paused", "c", "echo", "thawed")
    assert (done.returncode, done.stdout) == (255, "")
    assert "the process was not executed in time" in done.stderr
    corten("resume", "c", check=True)
    assert bundle.cgroup("freezer", "cgroup.procs").split() == [str(corten.state("c")["pid"])]


def test_an_exec_belongs_to_the_cgroups_of_the_container(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    corten.detached("exec", "--detach", "--pid-file", str(folder / "pid"), "c", "sleep", "1000")
    pid = (folder / "pid").read_text()
    for controller in ("memory", "pids", "devices", "freezer", "unified"):
        assert pid in bundle.cgroup(controller, "cgroup.procs").split(), controller
    corten("kill", "--all", "c", "KILL", check=True)
    corten.wait_for("c", "stopped")
    process.wait_for(lambda: not process.is_alive(int(pid)), "the exec to be dead")
