"""Checkpoints and restores that engines ask for, and memory that comes later: beside runc."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import guestctr, images
from support.guestbundle import CGROUP, CORTEN, RUNC, Lab
from support.guestcounter import PATIENCE_S, STEP, Counter, processes, wait_until
from support.guestctr import LINGER, Containerd
from support.guestdocker import TIMEOUT_S, Docker

TICK = "i=0; while true; do i=$((i+1)); echo $i; sleep 0.1; done"
IMAGE = f"docker.io/{images.BUSYBOX_REF}"
PORT = "7777"
MEMORY_BYTES = 4_000_000
REMEMBER = f"x=$(printf %{MEMORY_BYTES}s); i=0; while true; do {STEP}; "
REMEMBER += "[ ! -e /tmp/ask ] || echo ${#x} > /tmp/answer; done"
either_runtime = pytest.mark.parametrize("runtime", [CORTEN, RUNC], ids=["corten", "runc"])


# dockerd


def goes_on(lines: list[str], after: int) -> bool:
    """Whether a counter has come past a number; AssertionError when it began anew."""
    numbers = [int(line) for line in lines]
    assert numbers == list(range(1, len(numbers) + 1)), f"not one life: {numbers}"
    return len(numbers) > after


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["corten", "peer"])
def test_docker_starts_a_container_from_a_checkpoint(docker: Docker, runtime: str) -> None:
    def check(*words: str) -> str:
        return docker.docker(*words, check=True, timeout=TIMEOUT_S).stdout

    check("run", "-d", "--name", "box", "--runtime", runtime, "--network", "none", images.BUSYBOX_REF, "sh", "-c", TICK)
    try:
        wait_until(lambda: goes_on(check("logs", "box").split(), 3), "no output")
        check("checkpoint", "create", "box", "one")
        assert check("inspect", "-f", "{{.State.Running}}", "box") == "false\n"
        seen = len(check("logs", "box").split())
        check("start", "--checkpoint", "one", "box")
        wait_until(lambda: goes_on(check("logs", "box").split(), seen + 3), "it stands still")
        assert check("exec", "box", "cat", "/proc/1/comm") == "sh\n"
        check("stop", "-t", "0", "box")
    finally:
        docker.docker("rm", "-f", "box", timeout=TIMEOUT_S)


# containerd


@pytest.fixture
def containerd(tmp_path: Path) -> Iterator[Containerd]:
    with guestctr.with_busybox(tmp_path) as made:
        yield made


def start(containerd: Containerd, runtime: Path) -> None:
    words = ("--detach", "--runc-binary", str(runtime), "--snapshotter", "native")
    containerd.check("run", *words, IMAGE, "box", "sleep", "1000")


@pytest.mark.slow
@either_runtime
def test_ctr_makes_a_checkpoint(containerd: Containerd, tmp_path: Path, runtime: Path) -> None:
    start(containerd, runtime)
    try:
        containerd.check("tasks", "checkpoint", "--image-path", f"{tmp_path}/images", "box")
        assert (tmp_path / "images/inventory.img").exists()
        assert "RUNNING" in containerd.check("tasks", "ls")
    finally:
        containerd.remove("box")


@pytest.mark.slow
@either_runtime
def test_ctr_restores_a_live_container(containerd: Containerd, runtime: Path) -> None:
    start(containerd, runtime)
    try:
        containerd.check("containers", "checkpoint", "--task", "--rw", "--image", "box", "saved")
    finally:
        containerd.remove("box")
    containerd.check("containers", "restore", "--live", "--rw", "again", "saved")
    try:
        assert "RUNNING" in containerd.check("tasks", "ls")
        script = f"ps -o comm; {LINGER}"  # not the arguments: those of the script have a sleep in them
        assert "sleep" in containerd.check("tasks", "exec", "--exec-id", "e", "again", "sh", "-c", script)
    finally:
        containerd.remove("again")


# memory that comes later


class Migration:
    """A container that stands still, and whoever fetches its memory (criu.org/Lazy_migration); a context manager."""

    def __init__(self, counter: Counter, *words: str) -> None:
        """The first half of a checkpoint: CRIU waits at the port, all but the memory is written."""
        lab = counter.lab
        read, write = os.pipe()
        flags = ("--lazy-pages", "--page-server", f"127.0.0.1:{PORT}", "--status-fd", str(write), *words)
        argv = [*lab.runtime, "checkpoint", "--image-path", str(counter.images), *flags, "c"]
        self.dump = subprocess.Popen(
            argv, cwd=lab.folder, pass_fds=(write,), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self.children = [self.dump]
        self.images = counter.images
        os.close(write)
        told = os.read(read, 9) if select.select([read], [], [], PATIENCE_S)[0] else b"nothing"
        os.close(read)
        if told != b"\0":
            self.dump.kill()
            raise AssertionError((told, self.dump.communicate()[1], counter.logs("dump.log")))

    def serve(self) -> subprocess.Popen[str]:
        """CRIU beside the restored container: it asks the port for each page."""
        folder, address = str(self.images), ("--page-server", "--address", "127.0.0.1", "--port", PORT)
        pages = subprocess.Popen(
            ["criu", "lazy-pages", "-D", folder, "-W", folder, *address, "-o", "lazy.log"],
            stdin=subprocess.DEVNULL,
            text=True,
        )
        self.children.append(pages)
        wait_until((self.images / "lazy-pages.socket").exists, "no socket of lazy-pages")
        return pages

    def __enter__(self) -> Migration:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            child.kill()
            child.wait()
        if self.dump.stderr is not None:
            self.dump.stderr.close()


@pytest.mark.slow
@either_runtime
def test_memory_may_come_later(tmp_path: Path, runtime: Path) -> None:
    """The first container stands still until the second one has its memory, then it is removed."""
    with Lab(tmp_path, runtime) as lab:
        counter = Counter(lab)
        lab.configure("sh", "-c", REMEMBER)
        counter.start()
        try:
            with Migration(counter) as migration:
                number = counter.number()
                written = sum(path.stat().st_size for path in counter.images.iterdir())
                assert written < MEMORY_BYTES // 2, "the memory is in files"
                pages = migration.serve()
                config = lab.configure("sh", "-c", REMEMBER)
                config["linux"]["cgroupsPath"] = "/box/other"
                lab.write(config)
                counter.restore(lab, "--lazy-pages", "--manage-cgroups-mode", "ignore", id="d")
                counter.goes_on(number)
                (lab.rootfs / "tmp/ask").touch()
                answer = lab.rootfs / "tmp/answer"
                wait_until(lambda: answer.exists() and answer.read_text() == f"{MEMORY_BYTES}\n", "it forgot")
                said = migration.dump.communicate(timeout=PATIENCE_S)[1]
                assert migration.dump.returncode == 0
                # the second life of runc's is in the first one's cgroup: docs/runtime-compatibility.md
                assert (said == "") if runtime == CORTEN else (f"rmdir {CGROUP}: device or resource busy" in said)
                assert pages.wait(PATIENCE_S) == 0
            assert "does not exist" in lab.run("state", "c", status=1)
            counter.goes_on(counter.number())
        finally:
            lab.run("delete", "--force", "d")
            counter.close()
            if CGROUP.exists():
                wait_until(lambda: not (CGROUP / "cgroup.procs").read_text(), "somebody is in the cgroup")
                CGROUP.rmdir()


@pytest.mark.slow
@either_runtime
def test_a_restore_without_whoever_has_the_memory_fails(tmp_path: Path, runtime: Path) -> None:
    with Lab(tmp_path, runtime) as lab:
        counter = Counter(lab)
        counter.start()
        try:
            counter.checkpoint()
            words = ("restore", "-d", "--image-path", str(counter.images), "--lazy-pages", "c")
            assert "criu failed: type" in lab.run(*words, status=1)
            assert "does not exist" in lab.run("state", "c", status=1)
            wait_until(lambda: not processes("criu"), "criu lives")
        finally:
            counter.close()


@pytest.mark.slow
@either_runtime
def test_a_descriptor_that_nobody_can_write_is_refused_before_the_dump(tmp_path: Path, runtime: Path) -> None:
    with Lab(tmp_path, runtime) as lab:
        counter = Counter(lab)
        counter.start()
        try:
            reader = os.open("/dev/null", os.O_RDONLY)
            for fd, why in ((reader, "not writable"), (200, "bad file descriptor")):
                flags = ("--lazy-pages", "--page-server", f"127.0.0.1:{PORT}", "--status-fd", str(fd))
                argv = [*lab.runtime, "checkpoint", "--image-path", str(counter.images), *flags, "c"]
                done = subprocess.run(
                    argv, pass_fds=(reader,), capture_output=True, text=True, check=False, timeout=PATIENCE_S
                )
                assert done.returncode == 1
                assert f"invalid --status-fd argument {fd}: {why}" in done.stderr
            os.close(reader)
            counter.wait_for_more(counter.number())
        finally:
            counter.close()


@pytest.mark.slow
@either_runtime
def test_a_killed_lazy_checkpoint_is_deleted_when_its_criu_is_gone(tmp_path: Path, runtime: Path) -> None:
    """CRIU holds the processes by ptrace(2): until it lets go of them they do not end."""
    with Lab(tmp_path, runtime) as lab:
        counter = Counter(lab)
        counter.start()
        try:
            with Migration(counter) as migration:
                pid = lab.state()["pid"]
                migration.dump.kill()
                migration.dump.wait()
                assert processes("criu"), "it waits at the port"
                for left in processes("criu"):
                    os.kill(left, signal.SIGKILL)
                wait_until(lambda: not processes("criu"), "criu lives")
                lab.run("delete", "--force", "c")
                wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the process lives")
                assert not CGROUP.exists()
        finally:
            counter.close()
