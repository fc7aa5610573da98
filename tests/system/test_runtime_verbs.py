"""`corten-runtime` as a program: what each verb does to the kernel and the disk."""

from __future__ import annotations

import array
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import paths, process, runtimes
from support.runtimes import Bundle, Runtime

CGROUPS = Path("/sys/fs/cgroup")


@pytest.fixture
def folder() -> Iterator[Path]:
    made = paths.scratch("runtime")
    yield made
    runtimes.remove_cgroups()
    shutil.rmtree(made)


@pytest.fixture
def corten(folder: Path) -> Iterator[Runtime]:
    made = Runtime(paths.COMMANDS / "corten-runtime", folder / "root")
    yield made
    made.close()


def sleeper(folder: Path) -> Bundle:
    return runtimes.bundle("sleep", "1000", folder=folder / "bundle")


def cgroup(bundle: Bundle, controller: str, file: str) -> str:
    path: str = bundle.config["linux"]["cgroupsPath"]
    return (CGROUPS / controller / path.lstrip("/") / file).read_text().strip()


def is_there(bundle: Bundle, controller: str = "pids") -> bool:
    path: str = bundle.config["linux"]["cgroupsPath"]
    return (CGROUPS / controller / path.lstrip("/")).exists()


# run -------------------------------------------------------------------------------------------------------


def test_run_gives_output_and_exit_status_and_leaves_nothing(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.bundle("sh", "-c", "cat; echo err >&2; exit 7", folder=folder / "bundle")
    done = corten("run", "c", "--bundle", str(bundle.path), stdin=b"in\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "in\n", "err\n")
    assert not is_there(bundle)
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
        assert run.wait(10) == 5


def test_run_detached_leaves_a_running_container(corten: Runtime, folder: Path) -> None:
    bundle = sleeper(folder)
    corten.detached("run", "--detach", "--pid-file", str(folder / "pid"), "-b", str(bundle.path), "c")
    found = corten.state("c")
    assert found["status"] == "running"
    assert int((folder / "pid").read_text()) == found["pid"]


def test_run_keeps_what_it_is_told_to_keep(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.bundle("true", folder=folder / "bundle")
    corten("run", "--keep", "-b", str(bundle.path), "c", check=True)
    assert corten.state("c")["status"] == "stopped"
    assert is_there(bundle)


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
    assert "descriptor 3 is not open" in refused.stderr


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
    bundle = sleeper(folder)
    (folder / "pid").write_text("old and long, so that a rewrite in place would show")
    corten.detached("create", "--bundle", str(bundle.path), "--pid-file", str(folder / "pid"), "c")
    assert (folder / "pid").read_text() == str(corten.state("c")["pid"])
    assert [path.name for path in folder.iterdir() if "pid" in path.name] == ["pid"]


def test_a_failed_create_leaves_nothing(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.bundle("nosuch", folder=folder / "bundle")
    done = corten("create", "--bundle", str(bundle.path), "c")
    assert done.returncode == 1
    assert r'exec: \"nosuch\": executable file not found in $PATH' in done.stderr
    assert not is_there(bundle)
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
    bundle = sleeper(folder)
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    pid = corten.state("c")["pid"]
    for path in (folder / "root/c").iterdir():
        if path.name != "state.json":
            path.unlink()
    (bundle.path / "config.json").unlink()
    corten("delete", "--force", "c", check=True)
    assert not process.is_alive(pid)
    assert not is_there(bundle)
    assert list((folder / "root").iterdir()) == []


def test_a_create_that_was_killed_is_removed_by_its_record(corten: Runtime, folder: Path) -> None:
    """The record of a create that died after spawning, before it knew the pid."""
    bundle = sleeper(folder)
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
    assert not is_there(bundle)


def test_state_json_is_there_before_the_first_cgroup(corten: Runtime, folder: Path) -> None:
    bundle = sleeper(folder)
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
    bundle = sleeper(folder)
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
    bundle = sleeper(folder)
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    done = corten("create", "--bundle", str(bundle.path), "d")
    assert "container's cgroup is not empty: 1 process(es) found" in done.stderr
    assert corten.state("c")["status"] == "running"
    assert not (folder / "root/d").exists()


def test_the_machine_is_told_in_one_line_that_it_has_no_systemd(corten: Runtime, folder: Path) -> None:
    if Path("/run/systemd/system").exists():
        pytest.skip("systemd runs on this machine")
    bundle = sleeper(folder)
    done = corten("--systemd-cgroup", "create", "--bundle", str(bundle.path), "c")
    assert done.returncode == 1
    assert "systemd cgroup manager requested, but systemd is not running on this machine" in done.stderr
    assert done.stderr.count("\n") == 1
    assert corten("--systemd-cgroup", "delete", "--force", "c").returncode == 0


# limits ----------------------------------------------------------------------------------------------------


def test_every_limit_that_docker_sets_is_in_the_kernel(corten: Runtime, folder: Path) -> None:
    bundle = sleeper(folder)
    bundle.config["linux"]["resources"] = {
        "devices": [
            {"allow": False, "access": "rwm"},
            {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        ],
        "memory": {"limit": 67108864, "swap": 134217728, "reservation": 33554432, "swappiness": 10},
        "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0", "mems": "0"},
        "pids": {"limit": 33},
        "blockIO": {"weight": 300},
    }
    bundle.save()
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    for controller, file, value in (
        ("memory", "memory.limit_in_bytes", "67108864"),
        ("memory", "memory.memsw.limit_in_bytes", "134217728"),
        ("memory", "memory.soft_limit_in_bytes", "33554432"),
        ("memory", "memory.swappiness", "10"),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
        ("cpu", "cpu.cfs_period_us", "100000"),
        ("cpuset", "cpuset.cpus", "0"),
        ("cpuset", "cpuset.mems", "0"),
        ("pids", "pids.max", "33"),
        ("blkio", "blkio.bfq.weight", "300"),
    ):
        assert cgroup(bundle, controller, file) == value, file
    allowed = cgroup(bundle, "devices", "devices.list").splitlines()
    assert "c 10:229 rw" in allowed
    assert "a *:* rwm" not in allowed
    pid = str(corten.state("c")["pid"])
    for controller in ("memory", "cpu", "cpuset", "pids", "blkio", "devices", "freezer", "systemd", "unified"):
        assert pid in cgroup(bundle, controller, "cgroup.procs").split(), controller


@pytest.mark.parametrize(
    ("words", "pids", "value", "origin"),
    [
        ((), None, "500", "built-in default"),
        (("--default-pids-limit", "60"), None, "60", "--default-pids-limit"),
        (("--default-pids-limit", "-1"), None, "max", "--default-pids-limit"),
        ((), {"limit": 40}, "40", "config.json"),
        ((), {"limit": -1}, "max", "config.json"),
        (("--config", "FILE"), None, "70", "FILE"),
    ],
)
def test_a_container_without_a_pids_limit_gets_that_of_the_node(
    corten: Runtime, folder: Path, words: tuple[str, ...], pids: dict[str, int] | None, value: str, origin: str
) -> None:
    bundle = sleeper(folder)
    if pids:
        bundle.config["linux"]["resources"]["pids"] = pids
        bundle.save()
    file = folder / "runtime.json"
    file.write_text('{"default-pids-limit": 70}')
    words = tuple(word.replace("FILE", str(file)) for word in words)
    corten.detached(*words, "run", "-d", "-b", str(bundle.path), "c")
    assert cgroup(bundle, "pids", "pids.max") == value
    number = -1 if value == "max" else int(value)
    expected = {"pidsLimit": {"value": number, "origin": origin.replace("FILE", str(file))}}
    assert corten.state("c")["corten"] == expected
    plan = corten(*words, "plan", str(bundle.path), check=True).stdout
    assert plan.startswith(f"pids limit {'none' if number < 0 else number} ({expected['pidsLimit']['origin']})\n")


def test_update_changes_limits_of_a_running_container(corten: Runtime, folder: Path) -> None:
    bundle = sleeper(folder)
    bundle.config["linux"]["resources"]["memory"] = {"limit": 33554432, "swap": 33554432}
    bundle.save()
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    document = {"memory": {"limit": 67108864, "swap": 67108864}, "cpu": {"shares": 300}, "pids": {"limit": 9}}
    corten("update", "--resources", "-", "c", stdin=json.dumps(document).encode(), check=True)
    assert cgroup(bundle, "memory", "memory.limit_in_bytes") == "67108864"
    assert cgroup(bundle, "memory", "memory.memsw.limit_in_bytes") == "67108864"
    assert cgroup(bundle, "cpu", "cpu.shares") == "300"
    assert cgroup(bundle, "pids", "pids.max") == "9"
    corten("update", "--memory", "16777216", "--memory-swap", "16777216", "c", check=True)
    assert cgroup(bundle, "memory", "memory.memsw.limit_in_bytes") == "16777216"
    assert corten.state("c")["corten"]["pidsLimit"] == {"value": 9, "origin": "update"}


# exec ------------------------------------------------------------------------------------------------------


def test_exec_takes_a_process_file_as_dockerd_writes_it(corten: Runtime, folder: Path) -> None:
    bundle = sleeper(folder)
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    spec: dict[str, Any] = dict(bundle.config["process"], args=["sh", "-c", "echo $A $(pwd) $(id -u); exit 3"])
    spec |= {"env": ["PATH=/bin", "A=x"], "cwd": "/tmp", "user": {"uid": 5, "gid": 6}}
    (folder / "process.json").write_text(json.dumps(spec))
    done = corten("exec", "--process", str(folder / "process.json"), "c")
    assert (done.returncode, done.stdout) == (3, "x /tmp 5\n"), done.stderr


def test_exec_at_the_pids_limit_works(corten: Runtime, folder: Path) -> None:
    bundle = sleeper(folder)
    bundle.config["linux"]["resources"]["pids"] = {"limit": 1}
    bundle.save()
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    assert cgroup(bundle, "pids", "pids.current") == "1"
    done = corten("exec", "c", "echo", "in")
    assert (done.returncode, done.stdout) == (0, "in\n"), done.stderr


def test_exec_into_a_paused_container_spawns_nothing(corten: Runtime, folder: Path) -> None:
    bundle = sleeper(folder)
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    corten("pause", "c", check=True)
    done = corten("exec", "c", "true")
    assert done.returncode == 255
    assert "cannot exec in a paused container (use --ignore-paused to override)" in done.stderr
    assert len(cgroup(bundle, "pids", "cgroup.procs").split()) == 1
    corten("resume", "c", check=True)
    corten("exec", "c", "true", check=True)


def test_an_exec_belongs_to_the_cgroups_of_the_container(corten: Runtime, folder: Path) -> None:
    bundle = sleeper(folder)
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    corten.detached("exec", "--detach", "--pid-file", str(folder / "pid"), "c", "sleep", "1000")
    pid = (folder / "pid").read_text()
    for controller in ("memory", "pids", "devices", "freezer", "unified"):
        assert pid in cgroup(bundle, controller, "cgroup.procs").split(), controller
    corten("kill", "--all", "c", "KILL", check=True)
    corten.wait_for("c", "stopped")
    process.wait_for(lambda: not process.is_alive(int(pid)), "the exec to be dead")


# terminals -------------------------------------------------------------------------------------------------


class ConsoleSocket:
    """What a shim listens on: gives the pty master that the runtime sends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()

    def master(self) -> int:
        self._listener.settimeout(10)
        connection, _ = self._listener.accept()
        with connection:
            fds = array.array("i")
            _, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_LEN(4))
            fds.frombytes(ancillary[0][2][:4])
        self._listener.close()
        return fds[0]


def read_until(fd: int, wanted: bytes) -> bytes:
    data = b""
    deadline = time.monotonic() + 10
    while wanted not in data:
        assert time.monotonic() < deadline, data
        data += os.read(fd, 1000)
    return data


def test_the_master_of_the_terminal_goes_to_the_console_socket(corten: Runtime, folder: Path) -> None:
    script = "tty; test -t 0 && test -t 1 && test -t 2 && echo yes; stty size; read x; echo got $x"
    bundle = runtimes.bundle("sh", "-c", script, folder=folder / "bundle", terminal=True)
    bundle.config["process"]["consoleSize"] = {"width": 90, "height": 33}
    bundle.save()
    console = ConsoleSocket(folder / "console")
    corten.detached("create", "--bundle", str(bundle.path), "--console-socket", str(console.path), "c")
    master = console.master()
    corten("start", "c", check=True)
    shown = read_until(master, b"33 90")
    assert shown.split() == [b"/dev/pts/0", b"yes", b"33", b"90"] or b"/dev/console" in shown
    os.write(master, b"word\n")
    read_until(master, b"got word")
    os.close(master)


def test_an_exec_may_have_a_terminal_of_its_own(corten: Runtime, folder: Path) -> None:
    bundle = sleeper(folder)
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    console = ConsoleSocket(folder / "console")
    corten.detached("exec", "-d", "-t", "--console-socket", str(console.path), "c", "sh", "-c", "tty; echo end")
    master = console.master()
    assert b"/dev/pts/" in read_until(master, b"end")
    os.close(master)


def test_a_console_socket_at_a_long_path_is_reached(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.bundle("sh", "-c", "echo here; sleep 1000", folder=folder / "bundle", terminal=True)
    deep = folder / ("d" * 90) / ("e" * 60)
    deep.mkdir(parents=True)
    listener = socket.socket(socket.AF_UNIX)
    directory = os.open(deep, os.O_PATH)
    listener.bind(f"/proc/self/fd/{directory}/console")
    os.close(directory)
    listener.listen()
    corten.detached("create", "--bundle", str(bundle.path), "--console-socket", str(deep / "console"), "c")
    listener.close()


def test_run_in_a_terminal_copies_both_ways(corten: Runtime, folder: Path) -> None:
    script = "stty -echo; echo ready; read x; echo got $x; stty size; exit 4"
    bundle = runtimes.bundle("sh", "-c", script, folder=folder / "bundle", terminal=True)
    master, slave = os.openpty()
    subprocess.run(["stty", "-F", os.ttyname(slave), "rows", "41", "cols", "77"], check=True)
    argv = corten.argv("run", "-b", str(bundle.path), "c")
    with subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, start_new_session=True) as run:
        read_until(master, b"ready")
        os.write(master, b"word\n")
        shown = read_until(master, b"41 77")
        assert b"got word\r\n" in shown
        assert run.wait(10) == 4
    settings = subprocess.run(["stty", "-F", os.ttyname(slave)], check=True, capture_output=True, text=True).stdout
    assert "-icanon" not in settings, "the caller's terminal is as it was"
    os.close(slave)
    os.close(master)


@pytest.mark.parametrize(
    ("terminal", "words", "text"),
    [
        (True, (), "cannot allocate tty if corten-runtime will detach without setting console socket"),
        (False, ("--console-socket", "SOCKET"), "cannot use console socket if corten-runtime will not detach"),
    ],
)
def test_a_terminal_and_a_console_socket_need_each_other(
    corten: Runtime, folder: Path, terminal: bool, words: tuple[str, ...], text: str
) -> None:
    bundle = runtimes.bundle("true", folder=folder / "bundle", terminal=terminal)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "console"))
        listener.listen()
        words = tuple(word.replace("SOCKET", str(folder / "console")) for word in words)
        assert text in corten("create", "--bundle", str(bundle.path), *words, "c").stderr


# hooks -----------------------------------------------------------------------------------------------------


def hook(folder: Path, name: str, more: str = "") -> dict[str, Any]:
    script = f"cat >> {folder}/hook-{name}; echo {name} >> {folder}/order; {more}"
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"], "timeout": 10}


def test_hooks_run_in_order_with_the_state_on_stdin(corten: Runtime, folder: Path) -> None:
    bundle = sleeper(folder)
    names = ("prestart", "createRuntime", "poststart", "poststop")
    bundle.config["hooks"] = {name: [hook(folder, name)] for name in names}
    bundle.config["annotations"] = {"a": "b"}
    bundle.save()
    corten.detached("create", "--bundle", str(bundle.path), "c")
    assert (folder / "order").read_text().split() == ["prestart", "createRuntime"]
    pid = corten.state("c")["pid"]
    corten("start", "c", check=True)
    corten("delete", "--force", "c", check=True)
    assert (folder / "order").read_text().split() == list(names)
    states = {name: json.loads((folder / f"hook-{name}").read_text()) for name in names}
    assert [states[name]["status"] for name in names] == ["creating", "creating", "running", "stopped"]
    for name in names[:3]:
        assert states[name]["pid"] == pid
    assert all(state["id"] == "c" and state["annotations"] == {"a": "b"} for state in states.values())
    assert all(state["bundle"] == str(bundle.path) for state in states.values())


def test_a_prestart_hook_sees_the_namespaces_of_the_container(corten: Runtime, folder: Path) -> None:
    bundle = sleeper(folder)
    script = (
        f"pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); readlink /proc/$pid/ns/net /proc/self/ns/net > {folder}/net"
    )
    bundle.config["hooks"] = {
        "prestart": [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}]
    }
    bundle.save()
    corten.detached("create", "--bundle", str(bundle.path), "c")
    theirs, ours = (folder / "net").read_text().split()
    assert theirs != ours == os.readlink("/proc/self/ns/net")


@pytest.mark.parametrize("kind", ["prestart", "createRuntime"])
def test_a_hook_that_fails_before_the_start_undoes_the_create(corten: Runtime, folder: Path, kind: str) -> None:
    bundle = sleeper(folder)
    bundle.config["hooks"] = {
        kind: [hook(folder, kind, "echo why >&2; exit 9")],
        "poststop": [hook(folder, "poststop")],
    }
    bundle.save()
    done = corten("create", "--bundle", str(bundle.path), "c")
    assert done.returncode == 1
    assert "error during container init: error running hook #0: error running hook: exit status 9" in done.stderr
    assert "why" in done.stderr
    assert not is_there(bundle)
    assert list((folder / "root").iterdir()) == []
    assert (folder / "order").read_text().split() == [kind, "poststop"]


def test_a_poststart_hook_that_fails_ends_the_container(corten: Runtime, folder: Path) -> None:
    bundle = sleeper(folder)
    bundle.config["hooks"] = {"poststart": [hook(folder, "poststart", "exit 1")]}
    bundle.save()
    corten.detached("create", "--bundle", str(bundle.path), "c")
    assert "error running hook #0" in corten("start", "c").stderr
    corten.wait_for("c", "stopped")


def test_a_poststop_hook_that_fails_is_a_warning(corten: Runtime, folder: Path) -> None:
    bundle = sleeper(folder)
    bundle.config["hooks"] = {"poststop": [hook(folder, "first", "exit 1"), hook(folder, "second")]}
    bundle.save()
    corten.detached("create", "--bundle", str(bundle.path), "c")
    done = corten("delete", "c")
    assert done.returncode == 0
    assert "level=warning" in done.stderr
    assert (folder / "order").read_text().split() == ["first", "second"]


# what can be read --------------------------------------------------------------------------------------------


def test_plan_prints_every_step_and_starts_nothing(corten: Runtime, folder: Path) -> None:
    bundle = sleeper(folder)
    plan = corten("plan", str(bundle.path), check=True).stdout
    for word in ("cgroup mkdir", "devices.deny a", "clone3", "pivot_root", "sethostname box", "execve 'sleep' '1000'"):
        assert word in plan
    assert corten("plan", cwd=bundle.path, check=True).stdout == plan
    assert not is_there(bundle)
    assert not (folder / "root").exists()


def test_the_trace_has_a_time_for_every_step(corten: Runtime, folder: Path) -> None:
    from corten.runtime import trace

    bundle = sleeper(folder)
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    found = trace.explain((folder / "root/c/trace").read_bytes())
    plan = corten("plan", str(bundle.path), check=True).stdout.replace("_ses.bundle", "_ses.c")
    assert len(found["steps"]) > 30
    assert [row["op"] for row in found["steps"] if row["op"] not in plan] == []
    assert {row["name"] for row in found["phases"]} >= {"prepare", "cgroup", "launch"}
    assert all(0 <= row["duration_ns"] < 10**9 for row in found["steps"])


def test_ps_shows_the_processes_of_the_container_alone(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.bundle("sh", "-c", "sleep 1000; true", folder=folder / "bundle")
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    process.wait_for(lambda: len(json.loads(corten("ps", "-f", "json", "c").stdout)) == 2, "two processes")
    lines = corten("ps", "c", check=True).stdout.splitlines()
    assert lines[0].split()[1] == "PID"
    assert [line.split("   ")[-1].rpartition(" ")[2] for line in lines[1:]]
    assert len(lines) == 3
    assert len(corten("ps", "c", "-o", "pid,comm", check=True).stdout.splitlines()) <= 3


def test_features_needs_no_root(corten: Runtime) -> None:
    argv = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *corten.argv("features")]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    found = json.loads(done.stdout)
    assert found["linux"]["cgroup"]["v2"] is True
    assert "rbind" in found["mountOptions"]
    assert "CAP_CHOWN" in found["linux"]["capabilities"]


def test_the_spec_that_is_written_runs(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.bundle("true", folder=folder / "bundle")
    (bundle.path / "config.json").unlink()
    corten("spec", "--bundle", str(bundle.path), check=True)
    config = json.loads((bundle.path / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["echo", "hello"]}
    config["linux"]["cgroupsPath"] = bundle.config["linux"]["cgroupsPath"]
    Bundle(bundle.path, config).save()
    assert corten("run", "-b", str(bundle.path), "c", check=True).stdout == "hello\n"
    assert "exists. Remove it first" in corten("spec", "-b", str(bundle.path)).stderr
