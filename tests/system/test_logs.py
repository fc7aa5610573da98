"""Logs of a whole engine: rotation under load, every driver, and who may hold up a container."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from support import images
from support.dockerd import Dockerd
from support.engine import CortenEngine
from support.process import wait_for as until

IMAGE = images.BUSYBOX_REF


@pytest.fixture(scope="module")
def engine() -> Iterator[CortenEngine]:
    with CortenEngine() as made:
        made.docker("load", "-i", str(images.busybox()), check=True)
        yield made


@pytest.fixture(autouse=True)
def no_containers(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "engine" in request.fixturenames:
        running: CortenEngine = request.getfixturevalue("engine")
        if names := running.docker("ps", "-aq", check=True).stdout.split():
            running.docker("rm", "-f", *names, check=True)


def inspect(engine: CortenEngine, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(engine.docker("inspect", name, check=True).stdout)[0]
    return found


def files_of(engine: CortenEngine, name: str) -> list[str]:
    folder = engine.data_root / "containers" / inspect(engine, name)["Id"]
    return sorted(path.name.partition("-json.log")[2] for path in folder.glob("*-json.log*"))


def numbers(text: str) -> list[int]:
    return [int(line) for line in text.splitlines()]


# Rotation


def test_a_follower_gets_every_line_once_while_the_log_is_rotated_and_packed(engine: CortenEngine) -> None:
    """Two followers, one of them slow; a pace that any machine keeps, and some twenty rotations."""
    script = f"echo 0; {wait('go')}; seq 1 999; i=1"
    script += "; while [ $i -lt 60 ]; do seq $((i*1000)) $((i*1000+999)); i=$((i+1)); sleep 0.05; done"
    rotation = ("--log-opt", "max-size=200k", "--log-opt", "max-file=4", "--log-opt", "compress=true")
    engine.docker("run", "-d", "--name", "box", *rotation, IMAGE, "sh", "-c", f"{script}; sleep 3", check=True)
    followers = [follow(engine, "box"), follow(engine, "box")]
    for each in followers:
        assert each.stdout is not None
        assert each.stdout.readline() == b"0\n"
    go_on(engine, "go")
    slow: list[bytes] = []
    assert followers[1].stdout is not None
    while piece := followers[1].stdout.read(1 << 12):
        slow.append(piece)
        time.sleep(0.01)
    out, _ = followers[0].communicate(timeout=60)
    assert followers[1].wait(60) == 0
    for seen in (out, b"".join(slow)):
        assert numbers(seen.decode()) == list(range(1, 60_000))
    slow_follower = followers[1].stdout
    slow_follower.close()
    kept = numbers(engine.docker("logs", "box", check=True).stdout)
    assert kept == list(range(kept[0], 60_000))
    until(lambda: files_of(engine, "box") == ["", ".1.gz", ".2.gz", ".3.gz"], "packed files")


def follow(engine: CortenEngine, name: str) -> subprocess.Popen[bytes]:
    command = [*engine.netns.enter, "docker", "-H", engine.host, "logs", "-f", name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)


def test_a_follower_that_is_far_too_slow_is_told_where_something_is_missing(engine: CortenEngine) -> None:
    """It reads nothing while a thousand files are rotated away, of which 64 are kept for it."""
    rotation = ("--log-opt", "max-size=20k", "--log-opt", "max-file=2", "--log-opt", "compress=false")
    script = f"echo 0; {wait('go')}; seq 1 300000; touch /tmp/done; {wait('end')}"
    engine.docker("run", "-d", "--name", "box", *rotation, IMAGE, "sh", "-c", script, check=True)
    command = [*engine.netns.enter, "docker", "-H", engine.host, "logs", "-f", "box"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "0\n"
        go_on(engine, "go")
        until(lambda: not engine.docker("exec", "box", "test", "-f", "/tmp/done").returncode, "end of its writing")
        go_on(engine, "end")
        out, told = follower.communicate(timeout=60)
    seen = numbers(out)
    assert seen == sorted(set(seen))
    assert (seen[0], seen[-1]) == (1, 300_000)
    gaps = sum(after != before + 1 for before, after in itertools.pairwise(seen))
    assert 0 < gaps <= len(told.splitlines())
    said = r"corten: (\d+ bytes of this log were|a part of this log was) rotated away before this reader came to it"
    assert all(re.fullmatch(said, line) for line in told.splitlines())


def test_tails_and_bounds_reach_into_packed_files(engine: CortenEngine) -> None:
    rotation = ("--log-opt", "max-size=20k", "--log-opt", "max-file=5", "--log-opt", "compress=true")
    script = "seq 1 500; sleep 1.5; seq 501 1000"
    engine.docker("run", "-d", "--name", "box", *rotation, "--label", "a=b", "--log-opt", "labels=a", IMAGE, "sh", "-c",
                  f"{script}; sleep 60", check=True)  # fmt: skip
    until(lambda: engine.docker("logs", "--tail", "1", "box").stdout == "1000\n", "all lines")
    until(lambda: all(not name or name.endswith(".gz") for name in files_of(engine, "box")), "packed")
    assert len(files_of(engine, "box")) > 2
    stamped = engine.docker("logs", "-t", "box", check=True).stdout.splitlines()
    assert [int(line.split()[1]) for line in stamped] == list(range(1, 1001))
    middle = stamped[500].split()[0]
    assert numbers(engine.docker("logs", "--tail", "900", "box", check=True).stdout) == list(range(101, 1001))
    assert numbers(engine.docker("logs", "--since", middle, "box", check=True).stdout) == list(range(501, 1001))
    before = stamped[499].split()[0]
    assert numbers(engine.docker("logs", "--until", before, "box", check=True).stdout) == list(range(1, 501))
    assert engine.docker("logs", "--details", "--tail", "1", "box", check=True).stdout == "a=b 1000\n"


def test_a_log_is_rotated_by_default_and_inspect_says_so(engine: CortenEngine) -> None:
    script = f"yes {'x' * 99} | head -n 200000; touch /tmp/done; sleep 60"
    engine.docker("run", "-d", "--name", "box", IMAGE, "sh", "-c", script, check=True)
    config = {"max-size": "20m", "max-file": "5", "compress": "true"}
    assert inspect(engine, "box")["HostConfig"]["LogConfig"] == {"Type": "json-file", "Config": config}
    until(lambda: engine.docker("exec", "box", "ls", "/tmp/done").returncode == 0, "all lines")
    until(lambda: files_of(engine, "box") == ["", ".1.gz"], "a packed file")
    assert len(engine.docker("logs", "box", check=True).stdout.splitlines()) == 200_000


def test_a_full_log_counts_in_df(engine: CortenEngine) -> None:
    before = df(engine)
    engine.docker("run", "--name", "box", IMAGE, "sh", "-c", f"yes {'x' * 99} | head -n 50000", check=True)
    grown = df(engine) - before
    assert 6_000_000 <= grown <= 12_000_000
    (row,) = [one for one in usage(engine)["Containers"] if one["Names"] == ["/box"]]
    assert row["SizeLog"] <= row["SizeRw"]
    assert row["SizeLog"] >= 6_000_000


def usage(engine: CortenEngine) -> dict[str, Any]:
    command = ["curl", "-s", "--unix-socket", str(engine.socket), "http://d/v1.44/system/df?type=container"]
    found: dict[str, Any] = json.loads(subprocess.check_output(command))
    return found


def df(engine: CortenEngine) -> int:
    return sum(one.get("SizeRw", 0) for one in usage(engine)["Containers"] or ())


# Drivers


def test_local_is_read_and_rotated(engine: CortenEngine) -> None:
    script = r"seq 1 5000; sleep 2; printf 'raw \377 end'; echo err >&2"
    engine.docker("run", "-d", "--name", "box", "--log-driver", "local", "--log-opt", "max-size=50k", IMAGE, "sh", "-c",
                  script, check=True)  # fmt: skip
    folder = engine.data_root / "containers" / inspect(engine, "box")["Id"] / "local-logs"
    until((folder / "container.log.1.gz").exists, "a packed file")
    engine.docker("wait", "box", check=True)
    raw = subprocess.run([*engine.netns.enter, "docker", "-H", engine.host, "logs", "box"], capture_output=True,
                         check=True)  # fmt: skip
    lines = raw.stdout.splitlines()
    assert lines[:-1] == [b"%d" % number for number in range(1, 5001)]
    assert lines[-1] == b"raw \xff end"
    assert raw.stderr == b"err\n"
    assert engine.docker("logs", "--tail", "2", "box", check=True).stdout.startswith("raw ")
    assert inspect(engine, "box")["LogPath"] == ""


def test_dockerd_reads_the_local_log_that_we_write(engine: CortenEngine, dockerd: Dockerd) -> None:
    script = "seq 1 100; head -c 40000 /dev/zero | tr '\\0' x; echo; printf end; echo bad >&2"
    for side in (engine, dockerd):
        side.docker("run", "--name", "ours", "--log-driver", "local", IMAGE, "sh", "-c", script, check=True)
    ids = [json.loads(side.docker("inspect", "ours", check=True).stdout)[0]["Id"] for side in (engine, dockerd)]
    source = engine.data_root / "containers" / ids[0] / "local-logs/container.log"
    target = dockerd.folder / "data/containers" / ids[1] / "local-logs/container.log"
    expected = engine.docker("logs", "ours", check=True)
    theirs = dockerd.docker("logs", "ours", check=True)
    assert (expected.stdout, expected.stderr) == (theirs.stdout, theirs.stderr)
    target.write_bytes(source.read_bytes())
    read = dockerd.docker("logs", "ours", check=True)
    dockerd.docker("rm", "ours", check=True)
    assert (read.stdout, read.stderr) == (expected.stdout, expected.stderr)


class Collector:
    """A syslog daemon on a unix socket."""

    def __init__(self, folder: Path, kind: int = socket.SOCK_DGRAM) -> None:
        self.path = folder / "collector"
        self.lines: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, kind)
        self._socket.bind(str(self.path))
        self._socket.settimeout(0.1)
        self._is_over = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_over:
            try:
                self.lines.append(self._socket.recv(1 << 20).decode())
            except TimeoutError:
                continue

    def close(self) -> None:
        self._is_over = True
        self._thread.join()
        self._socket.close()


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    made = Collector(tmp_path)
    yield made
    made.close()


def syslog(collector: Collector, *more: str) -> tuple[str, ...]:
    address = f"syslog-address=unixgram://{collector.path}"
    return ("--log-driver", "syslog", "--log-opt", address, "--log-opt", "tag={{.Name}}/{{.ID}}", *more)


def test_syslog_is_sent_and_can_be_read(engine: CortenEngine, collector: Collector) -> None:
    script = "seq 1 200; echo bad >&2; printf last"
    engine.docker("run", "--name", "box", *syslog(collector), IMAGE, "sh", "-c", script, check=True)
    ident = inspect(engine, "box")["Id"][:12]
    until(lambda: len(collector.lines) == 202, "all lines")
    bodies = [line.partition("]: ")[2] for line in collector.lines if line.startswith("<30>")]
    assert bodies == [*(f"{number}\n" for number in range(1, 201)), "last\n"]
    assert re.match(rf"<27>.* box/{ident}\[\d+\]: bad\n", next(x for x in collector.lines if x.startswith("<27>")))
    read = engine.docker("logs", "box", check=True)
    assert (numbers(read.stdout.removesuffix("last")), read.stderr) == (list(range(1, 201)), "bad\n")


def test_with_the_cache_disabled_nothing_can_be_read(engine: CortenEngine, collector: Collector) -> None:
    options = syslog(collector, "--log-opt", "cache-disabled=true")
    engine.docker("run", "--name", "box", *options, IMAGE, "echo", "x", check=True)
    until(lambda: len(collector.lines) == 1, "the line")
    done = engine.docker("logs", "box")
    assert done.returncode == 1
    assert "configured logging driver does not support reading" in done.stderr


def test_a_server_that_is_not_there_fails_the_start_in_dockers_words(engine: CortenEngine) -> None:
    done = engine.docker("run", "--name", "box", "--log-driver", "syslog", "--log-opt",
                         "syslog-address=tcp://127.0.0.1:1", IMAGE, "true")  # fmt: skip
    assert done.returncode in (125, 127, 128)
    why = "failed to create task for container: failed to initialize logging driver: dial tcp 127.0.0.1:1: connect: "
    assert why + "connection refused" in done.stderr
    assert inspect(engine, "box")["State"]["Status"] == "created"


def stuck(folder: Path) -> tuple[socket.socket, str]:
    """A server that takes a connection and reads nothing."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(folder / "stuck"))
    server.listen()
    server.settimeout(60)
    return server, f"syslog-address=unix://{folder}/stuck"


def test_a_server_that_does_not_read_holds_up_a_container_that_is_to_wait(engine: CortenEngine, tmp_path: Path) -> None:
    server, address = stuck(tmp_path)
    script = f"yes {'x' * 99} | head -n 30000; echo done > /tmp/done"
    with server:
        engine.docker("run", "-d", "--name", "box", "--log-driver", "syslog", "--log-opt", address, IMAGE, "sh", "-c",
                      script, check=True)  # fmt: skip
        connection, _ = server.accept()
        time.sleep(1)
        assert inspect(engine, "box")["State"]["Running"]
        size = 0
        connection.settimeout(60)
        while data := connection.recv(1 << 20):
            size += data.count(b"\n")
        assert size == 30_000
        connection.close()
    assert engine.docker("wait", "box", check=True).stdout == "0\n"


def test_a_server_that_does_not_read_holds_up_nobody_who_is_not_to_wait(engine: CortenEngine, tmp_path: Path) -> None:
    server, address = stuck(tmp_path)
    with server:
        mode = ("--log-opt", "mode=non-blocking", "--log-opt", "max-buffer-size=64k")
        done = engine.docker("run", "-d", "--name", "box", "--log-driver", "syslog", "--log-opt", address, *mode, IMAGE,
                             "sh", "-c", f"yes {'x' * 99} | head -n 100000", check=True, timeout=60)  # fmt: skip
        assert done.returncode == 0
        assert engine.docker("wait", "box", check=True).stdout == "0\n"
        assert len(engine.docker("logs", "box", check=True).stdout.splitlines()) == 100_000
        engine.docker("rm", "box", check=True)


NON_BLOCKING = ("--log-opt", "mode=non-blocking", "--log-opt", "max-buffer-size=64m")


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_a_log_that_nobody_waits_for_is_whole_at_the_end(engine: CortenEngine, driver: str) -> None:
    kept = ("--log-driver", driver, *NON_BLOCKING)
    done = engine.docker("run", "--name", "box", *kept, IMAGE, "seq", "0", "49999", check=True)
    assert numbers(done.stdout) == list(range(50_000))
    assert numbers(engine.docker("logs", "box", check=True).stdout) == list(range(50_000))
    engine.docker("start", "box", check=True)
    followed = engine.docker("logs", "-f", "box", check=True)
    assert numbers(followed.stdout) == [*range(50_000), *range(50_000)]
    assert followed.stderr == ""


def test_a_disk_that_takes_nothing_holds_up_nobody_who_is_not_to_wait(engine: CortenEngine) -> None:
    mode = ("--log-opt", "mode=non-blocking", "--log-opt", "max-buffer-size=64k")
    script = f"{wait('go')}; yes 0123456789 | head -n 100000; touch /tmp/done; {wait('end')}; echo last"
    engine.docker("run", "-d", "--name", "box", *mode, IMAGE, "sh", "-c", script, check=True)
    ident = inspect(engine, "box")["Id"]
    courier = max(map(int, shims(ident)))
    os.kill(courier, signal.SIGSTOP)
    try:
        go_on(engine, "go")
        until(lambda: not engine.docker("exec", "box", "test", "-f", "/tmp/done").returncode, "end of its writing")
    finally:
        os.kill(courier, signal.SIGCONT)
    go_on(engine, "end")
    assert engine.docker("wait", "box", check=True).stdout == "0\n"
    logs = engine.docker("logs", "box", check=True)
    told = re.findall(r"^corten: (\d+) bytes of output were dropped here \(mode=non-blocking\)$", logs.stderr, re.M)
    assert told
    kept = logs.stdout.encode()
    assert sum(map(int, told)) + len(kept) == 11 * 100_000 + len("last\n")
    assert kept.endswith(b"last\n")


def wait(word: str) -> str:
    return f"until [ -f /tmp/{word} ]; do sleep 0.02; done"


def go_on(engine: CortenEngine, word: str) -> None:
    engine.docker("exec", "box", "touch", f"/tmp/{word}", check=True)


def test_what_a_courier_has_is_kept_though_its_shim_is_killed(engine: CortenEngine) -> None:
    script = "seq 0 999; sleep 600"
    engine.docker("run", "-d", "--name", "box", *NON_BLOCKING, IMAGE, "sh", "-c", script, check=True)
    until(lambda: len(engine.docker("logs", "box").stdout.splitlines()) == 1000, "its lines")
    ident = inspect(engine, "box")["Id"]
    os.kill(min(map(int, shims(ident))), signal.SIGKILL)
    until(lambda: not inspect(engine, "box")["State"]["Running"], "the end of a container without a shim")
    until(lambda: not shims(ident), "end of the courier")
    assert numbers(engine.docker("logs", "box", check=True).stdout) == list(range(1000))
    engine.docker("start", "box", check=True)
    until(lambda: len(engine.docker("logs", "box").stdout.splitlines()) == 2000, "more lines")


def test_a_log_goes_on_without_cortend(engine: CortenEngine, collector: Collector) -> None:
    script = "i=0; while [ $i -lt 400 ]; do echo $i; i=$((i+1)); sleep 0.01; done"
    rotation = ("--log-opt", "max-size=5k", "--log-opt", "max-file=9", "--log-opt", "compress=true")
    engine.docker("run", "-d", "--name", "box", *rotation, IMAGE, "sh", "-c", script, check=True)
    engine.docker("run", "-d", "--name", "far", *syslog(collector), IMAGE, "sh", "-c", script, check=True)
    engine.kill9()
    time.sleep(1)
    engine.start()
    assert engine.docker("wait", "box", "far", check=True).stdout == "0\n0\n"
    assert numbers(engine.docker("logs", "box", check=True).stdout) == list(range(400))
    assert numbers(engine.docker("logs", "far", check=True).stdout) == list(range(400))
    until(lambda: len(collector.lines) == 400, "all lines")
    assert [int(line.partition("]: ")[2]) for line in collector.lines] == list(range(400))


def test_a_local_log_is_whole_after_its_shim_was_killed(engine: CortenEngine) -> None:
    script = "i=0; while true; do echo $i; i=$((i+1)); [ $((i % 500)) != 0 ] || sleep 0.05; done"
    engine.docker("run", "-d", "--name", "box", "--log-driver", "local", IMAGE, "sh", "-c", script, check=True)
    until(lambda: len(engine.docker("logs", "--tail", "200", "box").stdout.splitlines()) == 200, "some lines")
    ident = inspect(engine, "box")["Id"]
    for pid in shims(ident):
        os.kill(int(pid), signal.SIGKILL)
    until(lambda: not inspect(engine, "box")["State"]["Running"], "the end of a container without a shim")
    seen = numbers(engine.docker("logs", "box", check=True).stdout)
    assert seen == list(range(len(seen)))
    before = len(seen)
    engine.docker("start", "box", check=True)
    until(lambda: len(engine.docker("logs", "--tail", str(before + 9), "box").stdout.splitlines()) > before, "more")
    assert numbers(engine.docker("logs", "box", check=True).stdout)[: before + 2] == [*range(before), 0, 1]


def test_info_names_the_drivers(engine: CortenEngine) -> None:
    info = json.loads(engine.docker("info", "--format", "{{json .}}", check=True).stdout)
    assert info["Plugins"]["Log"] == ["fluentd", "gelf", "journald", "json-file", "local", "none", "syslog"]
    assert info["LoggingDriver"] == "json-file"


def test_a_container_with_a_courier_leaves_no_process(engine: CortenEngine, collector: Collector) -> None:
    engine.docker("run", "-d", "--name", "box", *syslog(collector), IMAGE, "sleep", "60", check=True)
    ident = inspect(engine, "box")["Id"]
    assert len(shims(ident)) == 2
    engine.docker("rm", "-f", "box", check=True)
    until(lambda: not shims(ident), "end of the courier")


def shims(ident: str) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if ident.encode() in words and b"corten-shim" in words:
            found.append(folder.name)
    return [pid for pid in found if pid != str(os.getpid())]


def test_with_another_runtime_couriers_and_packers_are_reaped_too(
    shared_engine: CortenEngine, collector: Collector
) -> None:
    """The shim of an external runtime is a subreaper: every child of its couriers and packers becomes its own."""
    script = "seq 1 3000; sleep 0.5; seq 3001 6000; sleep 60"
    rotation = ("--log-opt", "cache-max-size=40k", "--log-opt", "cache-max-file=9")
    shared_engine.docker("run", "-d", "--name", "box", "--runtime", "runc", *syslog(collector, *rotation), IMAGE, "sh",
                         "-c", script, check=True)  # fmt: skip
    try:
        ident = inspect(shared_engine, "box")["Id"]
        folder = shared_engine.data_root / "containers" / ident
        until((folder / "container-cached.log.3.gz").exists, "packed files")
        until(lambda: len(collector.lines) == 6000, "all lines")
        assert len(shims(ident)) >= 2
        assert numbers(shared_engine.docker("logs", "box", check=True).stdout) == list(range(1, 6001))
        until(lambda: not zombies(ident), "no dead child is left")
    finally:
        shared_engine.docker("rm", "-f", "box", check=True)
    until(lambda: not shims(ident), "end of the courier")


def zombies(ident: str) -> list[str]:
    """Dead children of a container's shim."""
    found = []
    for pid in shims(ident):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended just now
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                if ") Z " in Path(f"/proc/{child}/stat").read_text():
                    found.append(child)
    return found
