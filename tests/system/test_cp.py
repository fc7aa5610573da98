"""cp in the life of containers: what runs, is paused, has ended or was never started; other runtimes; what is left."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support import images, paths, peers
from support import tarballs as t
from support.copying import call
from support.dockerd import client_environment
from support.engine import CortenEngine
from support.process import wait_for

IMAGE = images.BUSYBOX_REF
ONE = t.archive(t.entry(b"one", data=b"1"))


@pytest.fixture(scope="module")
def engine() -> Iterator[CortenEngine]:
    runtimes = {
        name: {"path": str(path)} for name, path in (("crun", peers.crun_for_hybrid()), ("runc", peers.binary("runc")))
    }
    with CortenEngine(config={"runtimes": runtimes}) as made:
        made.docker("load", "-i", str(images.busybox()), check=True)
        yield made


@pytest.fixture
def box(engine: CortenEngine) -> Iterator[CortenEngine]:
    """The engine, without the container of the test before."""
    yield engine
    engine.docker("rm", "-f", "-v", "box")


def run(engine: CortenEngine, *options: str, script: str = "exec sleep 1000") -> None:
    words = ("run", "-d", "--name", "box", "--network", "none", *options, IMAGE, "sh", "-c", script)
    engine.docker(*words, check=True)


def read(engine: CortenEngine, path: str) -> bytes:
    found = call(engine.socket, "GET", "box", path)
    assert found.status == 200, found.body
    return found.content(path.rpartition("/")[2])


def test_a_running_container_and_its_copies_see_each_other_at_once(box: CortenEngine) -> None:
    run(box)
    for number in range(5):
        box.docker("exec", "box", "sh", "-c", f"echo {number} > /etc/mine", check=True)
        assert read(box, "/etc/mine") == f"{number}\n".encode()
        data = t.archive(t.entry(b"ours", data=str(number).encode()))
        assert call(box.socket, "PUT", "box", "/etc", body=data).status == 200
        assert box.docker("exec", "box", "cat", "/etc/ours", check=True).stdout == str(number)


def test_a_paused_container_is_copied_from_and_to(box: CortenEngine) -> None:
    run(box)
    box.docker("pause", "box", check=True)
    assert call(box.socket, "PUT", "box", "/tmp", body=ONE).status == 200
    assert read(box, "/tmp/one") == b"1"
    box.docker("unpause", "box", check=True)
    assert box.docker("exec", "box", "cat", "/tmp/one", check=True).stdout == "1"


def test_what_was_copied_before_the_start_is_there_afterwards(box: CortenEngine) -> None:
    box.docker("create", "--name", "box", IMAGE, "cat", "/one", "/etc/hostname", check=True)
    assert call(box.socket, "PUT", "box", "/", body=ONE).status == 200
    started = box.docker("start", "-a", "box", check=True)
    assert started.stdout.startswith("1")
    assert call(box.socket, "PUT", "box", "/", body=t.archive(t.entry(b"one", data=b"2"))).status == 200
    assert box.docker("start", "-a", "box", check=True).stdout.startswith("2")
    assert box.docker("diff", "box", check=True).stdout.splitlines() == ["A /one"]


@pytest.mark.parametrize("runtime", ["corten", "crun", "runc"])
def test_binds_and_files_of_the_engine_are_seen_with_every_runtime(
    box: CortenEngine, tmp_path: Path, runtime: str
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "file").write_text("bound")
    binds = ("-v", f"{tmp_path}:/v", "-v", f"{tmp_path}/file:/etc/bound", "-v", f"{tmp_path}/sub:/v/deep/er:ro")
    run(box, "--runtime", runtime, *binds)
    assert read(box, "/etc/bound") == read(box, "/v/file") == b"bound"
    assert b"localhost" in read(box, "/etc/hosts")
    assert call(box.socket, "PUT", "box", "/v", body=ONE).status == 200
    assert (tmp_path / "one").read_text() == "1"
    assert call(box.socket, "PUT", "box", "/tmp", body=ONE).status == 200
    assert box.docker("exec", "box", "cat", "/tmp/one", check=True).stdout == "1"
    assert call(box.socket, "PUT", "box", "/v/deep/er", body=ONE).message == "mounted volume is marked read-only"
    box.docker("kill", "box", check=True)
    assert read(box, "/etc/bound") == b"bound"
    assert read(box, "/tmp/one") == b"1"


def test_a_tmpfs_is_the_containers_while_it_runs(box: CortenEngine) -> None:
    run(box, "--tmpfs", "/t", "--read-only", script="echo inside > /t/x; touch /t/ready; exec sleep 1000")
    while call(box.socket, "HEAD", "box", "/t/ready").status == 404:
        time.sleep(0.02)
    assert read(box, "/t/x") == b"inside\n"
    assert call(box.socket, "PUT", "box", "/t", body=ONE).status == 200
    assert box.docker("exec", "box", "cat", "/t/one", check=True).stdout == "1"
    assert call(box.socket, "PUT", "box", "/", body=ONE).message == "container rootfs is marked read-only"
    box.docker("kill", "box", check=True)
    assert call(box.socket, "GET", "box", "/t").entries == [("t", b"5", 0o755, 0, 0, 0, "")]


def test_a_file_that_was_replaced_on_the_host_is_the_new_one(box: CortenEngine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("first")
    run(box, "-v", f"{tmp_path}/file:/etc/bound")
    (tmp_path / "new").write_text("second")
    os.replace(tmp_path / "new", tmp_path / "file")
    assert read(box, "/etc/bound") == b"second"  # as with dockerd: the kernel mounts no removed file again
    (tmp_path / "secret").write_text("not given")
    (tmp_path / "file").unlink()
    (tmp_path / "file").symlink_to("secret")
    assert read(box, "/etc/bound") == b""


def test_a_container_that_ends_and_starts_is_copied_from_all_the_time(box: CortenEngine) -> None:
    run(box, script="exec sleep 1000")
    ended = threading.Event()

    def restart() -> None:
        for number in range(8):
            box.docker("restart" if number % 2 else "kill", *(("-t", "0") if number % 2 else ()), "box")
        ended.set()

    thread = threading.Thread(target=restart)
    thread.start()
    answers = []
    while not ended.is_set():
        answers.append(call(box.socket, "HEAD", "box", "/etc/passwd").status)
        answers.append(call(box.socket, "PUT", "box", "/tmp", body=ONE).status)
    thread.join()
    assert set(answers) == {200}


def test_volumes_are_copied_from_and_to_whether_a_container_runs_or_not(box: CortenEngine) -> None:
    """A named one, a subpath of it, one of the image's kind, one that its driver mounts."""
    box.docker("volume", "create", "data", check=True)
    box.docker("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m", "small", check=True)
    box.docker("run", "--rm", "-v", "data:/v", IMAGE, "mkdir", "-p", "/v/sub", check=True)
    sub = "type=volume,src=data,dst=/sub,volume-subpath=sub"
    options = ("-v", "data:/v", "--mount", sub, "-v", "/anonymous", "-v", "small:/small", "-v", "data:/ro:ro")
    box.docker("create", "--name", "box", *options, IMAGE, "sleep", "1000", check=True)
    for number in range(2):
        for path in ("/v", "/sub", "/anonymous", "/small"):
            data = t.archive(t.entry(b"one", data=f"{number}{path}".encode()))
            assert call(box.socket, "PUT", "box", path, body=data).status == 200
            if path != "/small" or number:
                assert read(box, f"{path}/one") == f"{number}{path}".encode()
        assert read(box, "/ro/sub/one") == f"{number}/sub".encode()
        assert call(box.socket, "PUT", "box", "/ro", body=ONE).message == "mounted volume is marked read-only"
        if not number:
            box.docker("start", "box", check=True)
    inside = box.docker("exec", "box", "cat", "/v/one", "/v/sub/one", "/anonymous/one", "/small/one", check=True)
    assert inside.stdout == "1/v1/sub1/anonymous1/small"
    box.docker("rm", "-f", "-v", "box", check=True)
    assert box.docker("volume", "rm", "data", "small", check=True).stdout.split() == ["data", "small"]


def test_an_image_among_the_mounts_and_a_source_that_is_missing_keep_nobody_from_copying(
    box: CortenEngine, tmp_path: Path
) -> None:
    """As at its start the source of a `-v` is made; an image's files are the running container's alone."""
    source = tmp_path / "source"
    options = ("--mount", f"type=image,src={IMAGE},dst=/image", "-v", f"{source}:/data")
    box.docker("create", "--name", "box", *options, IMAGE, "sleep", "1000", check=True)
    assert call(box.socket, "PUT", "box", "/data", body=ONE).status == 200
    assert (source / "one").read_bytes() == b"1"
    assert call(box.socket, "PUT", "box", "/image", body=ONE).status != 200
    box.docker("start", "box", check=True)
    assert read(box, "/data/one") == b"1"


def test_copies_of_one_container_go_on_beside_each_other(box: CortenEngine) -> None:
    """Stopped: all of them on one mount."""
    box.docker("create", "--name", "box", IMAGE, "true", check=True)
    codes: list[int] = []

    def copy(number: int) -> None:
        data = t.archive(*(t.entry(f"{number}-{one}".encode(), data=b"x" * 4000) for one in range(50)))
        codes.append(call(box.socket, "PUT", "box", "/tmp", body=data).status)
        codes.append(call(box.socket, "GET", "box", "/bin").status)

    threads = [threading.Thread(target=copy, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [200] * 16
    assert len(call(box.socket, "GET", "box", "/tmp").entries) == 401


def test_a_large_file_comes_back_as_it_went(box: CortenEngine, tmp_path: Path) -> None:
    run(box)
    data = os.urandom(1 << 20) * 40
    (tmp_path / "big").write_bytes(data)
    cli = [str(paths.COMMANDS / "corten"), "-H", box.host, "cp"]
    for words in ([f"{tmp_path}/big", "box:/big"], ["box:/big", f"{tmp_path}/back"]):
        subprocess.run([*cli, *words], check=True, env=client_environment(), timeout=60)
    assert (tmp_path / "back").read_bytes() == data


def test_archives_go_through_stdin_and_stdout(box: CortenEngine) -> None:
    run(box, script="mkdir /d; echo hi > /d/f; exec sleep 1000")
    cli = [str(paths.COMMANDS / "corten"), "-H", box.host, "cp"]
    env = client_environment()
    out = subprocess.run([*cli, "box:/d", "-"], check=True, capture_output=True, env=env, timeout=60).stdout
    with tarfile.open(fileobj=io.BytesIO(out)) as archive:
        assert archive.getnames() == ["d", "d/f"]
    subprocess.run([*cli, "-", "box:/tmp"], input=out, check=True, env=env, timeout=60)
    assert box.docker("exec", "box", "cat", "/tmp/d/f", check=True).stdout == "hi\n"
    told = subprocess.run(
        [*cli, "box:/d/f", "/dev/null"], check=False, capture_output=True, text=True, env=env, timeout=60
    )
    assert (told.returncode, "got a device" in told.stderr) == (1, True)


def test_docker_py_takes_and_gives_archives(box: CortenEngine) -> None:
    run(box)
    with closing(box.client()) as client:
        container = client.containers.get("box")
        assert container.put_archive("/tmp", ONE)
        chunks, found = container.get_archive("/tmp/one")
        assert (found["name"], found["size"]) == ("one", 1)
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
            assert archive.getnames() == ["one"]


def test_progress_is_told_when_it_is_asked_for(box: CortenEngine, tmp_path: Path) -> None:
    run(box)
    for program in (str(peers.docker_cli()), str(paths.COMMANDS / "corten")):
        argv = [program, "-H", box.host, "cp", "-q=false", "box:/etc/passwd", f"{tmp_path}/p"]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, env=client_environment(), timeout=60)
        assert done.stderr.splitlines()[-1] == f"Successfully copied 2.05kB to {tmp_path}/p"


def test_copies_are_events(box: CortenEngine) -> None:
    run(box)
    since = str(int(time.time()) - 1)
    ident = box.docker("inspect", "-f", "{{.Id}}", "box", check=True).stdout.strip()
    call(box.socket, "PUT", "box", "/tmp", body=ONE)
    call(box.socket, "GET", "box", "/tmp")
    call(box.socket, "HEAD", "box", "/tmp")
    words = ("--since", since, "--until", str(int(time.time()) + 1), "--filter", f"container={ident}")
    told = box.docker("events", *words, "--format", "{{.Action}}").stdout
    assert [line for line in told.splitlines() if line in ("archive-path", "extract-to-dir")] == [
        "extract-to-dir",
        "archive-path",
    ]


def test_nothing_is_left_of_copies_and_a_killed_engine_starts_the_container_again(tmp_path: Path) -> None:
    """Neither mounts nor descriptors; a copy under way goes with the engine."""
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        engine.docker("create", "--name", "box", "-v", f"{tmp_path}:/v", IMAGE, "cat", "/etc/one", check=True)
        before = len(os.listdir(f"/proc/{engine.pid}/fd"))
        mounts = mounts_of(engine)
        for _ in range(20):
            assert call(engine.socket, "PUT", "box", "/etc", body=ONE).status == 200
            assert call(engine.socket, "GET", "box", "/nope").status == 404
        wait_for(lambda: len(os.listdir(f"/proc/{engine.pid}/fd")) <= before + 3, "closed descriptors")
        assert mounts_of(engine) == mounts
        reading, killed = threading.Event(), threading.Event()
        thread = threading.Thread(target=_slow_copy, args=(engine, reading, killed))
        thread.start()
        assert reading.wait(60)
        engine.kill9()
        killed.set()
        thread.join()
        engine.start()
        assert engine.docker("start", "-a", "box", check=True).stdout == "1"


def mounts_of(engine: CortenEngine) -> list[str]:
    lines = Path(f"/proc/{engine.pid}/mountinfo").read_text().splitlines()
    return [line for line in lines if engine.folder.name in line]


def _slow_copy(engine: CortenEngine, reading: threading.Event, killed: threading.Event) -> None:
    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield t.entry(b"half", data=b"x" * (3 << 20))
            reading.set()
            killed.wait(60)
            yield t.archive(t.entry(b"more"))

    with pytest.raises(OSError):  # noqa: PT011 - whatever the dead engine's socket says
        call(engine.socket, "PUT", "box", "/etc", body=Body())


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["in", "out"])
def test_a_client_that_stops_keeps_no_container_from_starting(box: CortenEngine, direction: str) -> None:
    """It is cut off after ten seconds."""
    box.docker("create", "--name", "box", IMAGE, "sleep", "1000", check=True)
    call(box.socket, "PUT", "box", "/", body=t.archive(t.entry(b"big", data=b"x" * (64 << 20))))
    stopped, reading = threading.Event(), threading.Event()
    told: list[tuple[int, str]] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield t.entry(b"half", data=b"x" * (3 << 20))
            reading.set()
            stopped.wait(60)

    def client() -> None:
        found = call(box.socket, "PUT", "box", "/etc", body=Body())
        told.append((found.status, found.message))

    def stuck() -> None:
        process = subprocess.Popen(
            [str(peers.docker_cli()), "-H", box.host, "cp", "box:/big", "-"], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.read(1)
        reading.set()
        stopped.wait(60)
        process.kill()
        process.communicate()

    thread = threading.Thread(target=client if direction == "in" else stuck)
    thread.start()
    assert reading.wait(60)
    began = time.monotonic()
    assert box.docker("start", "box").returncode == 0
    assert time.monotonic() - began < 20
    stopped.set()
    thread.join()
    assert "does not respond" not in box.log_tail(200)
    assert [status for status, _ in told] == ([409] if direction == "in" else [])
    assert all(text.endswith("is being started") for _, text in told)
