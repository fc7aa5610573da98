"""A disk that takes its time to remove a tree: others are served, an end ends, a start starts."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clients.api import Api
from support import images, paths, peers
from support.dockerd import client_environment
from support.engine import CortenEngine
from support.process import is_alive, wait_for
from support.served import served
from support.stuckfs import StuckFs

SLOW = """
import os
from corten.core import trash, trees

def remove_entry(parent_fd, name):
    tree = f"/proc/self/fd/{{parent_fd}}/{{name.decode()}}"
    if os.path.isdir(f"{{tree}}/fs") and "slow" in os.listdir(f"{{tree}}/fs"):
        os.path.lexists(f"{stuck}/{{name.decode()}}")
    return trees.remove_entry(parent_fd, name)

trash.remove_entry = remove_entry
"""  # goes into the program `cortend` before its last line
REMOVALS = 8  # more than the loop's pool has workers on two processors
END_S = 14.0  # docs/failures.md
START_S = 10.0


def import_image(engine: CortenEngine, name: str, folder: Path) -> None:
    """An image with one layer, which is slow to remove."""
    (folder / f"{name}.tar").write_bytes(images.layer([images.directory("slow"), images.Entry(name)]))
    engine.docker("import", str(folder / f"{name}.tar"), f"{name}:1", check=True)


def start_rmi(engine: CortenEngine, name: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [peers.docker_cli(), "-H", engine.host, "rmi", f"{name}:1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=client_environment(),
    )


@contextmanager
def removals(engine: CortenEngine, folder: Path, number: int = 1) -> Iterator[None]:
    """Images that are being removed, each by somebody who waits for the disk."""
    names = [f"big{index}" for index in range(number)]
    for name in names:
        import_image(engine, name, folder)
    before = len(trash(engine))
    rmis = [start_rmi(engine, name) for name in names]
    try:
        wait_for(lambda: len(trash(engine)) == before + number, "removals")
        yield
    finally:
        for rmi in rmis:
            rmi.kill()
            rmi.wait()


def trash(engine: CortenEngine) -> list[str]:
    return os.listdir(engine.data_root / "snapshots/trash")


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[StuckFs]:
    with StuckFs(tmp_path) as found:
        yield found


@pytest.fixture
def slow(tmp_path: Path, stuck: StuckFs) -> Iterator[CortenEngine]:
    """An engine that removes no layer of `import_image` before the file system answers."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/cortend"
    *head, call = (paths.COMMANDS / "cortend").read_text().splitlines(keepends=True)
    program.write_text("".join([*head, SLOW.format(stuck=stuck.path), call]))
    program.chmod(0o755)
    (program.parent / "corten-shim").symlink_to(paths.COMMANDS / "corten-shim")
    with CortenEngine(commands=program.parent) as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        yield engine
        stuck.release()


def test_removals_that_wait_for_the_disk_stall_nobody(slow: CortenEngine, stuck: StuckFs, tmp_path: Path) -> None:
    api = Api(slow.socket)
    slow.docker("run", "-d", "--name", "lost", images.BUSYBOX_REF, "sleep", "1000", check=True)
    with removals(slow, tmp_path, REMOVALS), served(slow):
        began = time.monotonic()
        slow.docker("tag", images.BUSYBOX_REF, "other:1", check=True, timeout=15)
        slow.docker("rmi", "other:1", check=True, timeout=15)
        slow.docker("run", "-d", "--name", "new", images.BUSYBOX_REF, "sleep", "1000", check=True, timeout=15)
        slow.docker("kill", "new", check=True, timeout=15)
        init = api.ok("GET", "/containers/lost/json")["State"]["Pid"]
        shim = int(Path(f"/proc/{init}/status").read_text().split("PPid:")[1].split()[0])
        os.kill(shim, signal.SIGKILL)
        wait_for(lambda: not api.ok("GET", "/containers/lost/json")["State"]["Running"], "end of lost", 10)
        assert time.monotonic() - began < START_S
        stuck.release()
        wait_for(lambda: not trash(slow), "empty trash")


def test_an_end_and_a_start_wait_for_no_tree_that_is_being_removed(
    slow: CortenEngine, stuck: StuckFs, tmp_path: Path
) -> None:
    stuck.deafen()
    with removals(slow, tmp_path):
        assert stuck.asked.wait(60)
        began = time.monotonic()
        assert slow.stop() == 0
        assert time.monotonic() - began < END_S
        assert "left to the next start: rmi" in slow.log_tail()
        assert len(trash(slow)) == 1
    stuck.asked.clear()
    began = time.monotonic()
    slow.start()  # it goes on with the removal, and waits like the one before
    assert time.monotonic() - began < START_S
    assert stuck.asked.wait(60)
    with served(slow):
        done = slow.docker("run", "--rm", images.BUSYBOX_REF, "echo", "hi", check=True, timeout=15)
        assert done.stdout == "hi\n"
    assert slow.stop() == 0  # again in the middle
    assert len(trash(slow)) == 1
    stuck.release()
    slow.start()
    wait_for(lambda: not trash(slow), "empty trash")
    assert len(slow.docker("images", "-q", check=True).stdout.split()) == 1


def test_the_data_root_is_locked_for_as_long_as_a_thread_may_remove_something_in_it(
    slow: CortenEngine, stuck: StuckFs, tmp_path: Path
) -> None:
    with removals(slow, tmp_path):
        assert stuck.asked.wait(60)
        pid = slow.pid
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: "left to the next start" in slow.log_tail(), "end of all but that thread", END_S)
        wait_for(lambda: not is_alive(pid), "end of the main thread")
        second = subprocess.run(
            [*slow.netns.enter, *slow.argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            env=slow.environment,
            check=False,
        )
        assert second.returncode == 1
        assert f"data root {slow.data_root} is in use by" in second.stderr
        assert str(pid) in second.stderr
        assert slow.is_running()
        assert len(trash(slow)) == 1
        stuck.release()
    assert slow.stop() == 0
    slow.start()
    wait_for(lambda: not trash(slow), "empty trash")
