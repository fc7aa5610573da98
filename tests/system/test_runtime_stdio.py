"""What stdin, stdout and stderr of a container are, beside runc."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import paths, peers, runtimes
from support.runtimes import Runtime

# whether stdin is on a mount that the container has
WHERE = (
    "exec 3<&0; while read name value; do [ $name != mnt_id: ] || id=$value; done < /proc/self/fdinfo/3; "
    "while read number rest; do [ $number != $id ] || echo own; done < /proc/self/mountinfo; echo end"
)


@pytest.fixture(params=["corten", "runc"])
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runtime]:
    """corten-runtime, then runc."""
    program = paths.COMMANDS / "corten-runtime" if request.param == "corten" else peers.binary("runc")
    made = Runtime(program, tmp_path / "state")
    yield made
    made.close()
    runtimes.remove_cgroups()


def test_the_null_device_of_stdio_is_the_containers_own(runtime: Runtime, tmp_path: Path) -> None:
    bundle = runtimes.bundle("sh", "-c", WHERE, folder=tmp_path / "bundle")
    runtime.detached("run", "-d", "--bundle", str(bundle.path), "c", output=tmp_path / "out")
    runtime.wait_for("c", "stopped")
    assert (tmp_path / "out").read_text() == "own\nend\n"


def test_a_pipe_stays_what_it_is(runtime: Runtime, tmp_path: Path) -> None:
    bundle = runtimes.bundle("sh", "-c", WHERE, folder=tmp_path / "bundle")
    done = runtime("run", "c", cwd=bundle.path, stdin=b"")
    assert (done.returncode, done.stdout) == (0, "end\n")


def test_output_to_the_null_device_still_goes_nowhere(runtime: Runtime, tmp_path: Path) -> None:
    bundle = runtimes.bundle("sh", "-c", "echo out; echo err >&2; sleep 1000", folder=tmp_path / "bundle")
    runtime.detached("create", "--bundle", str(bundle.path), "c")
    runtime("start", "c", check=True)
    pid = runtime.state("c")["pid"]
    assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1)} == {"/dev/null"}


def test_what_a_bundle_binds_as_null_device_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    for name in ("shm", "pts", "mqueue"):
        (tmp_path / "dev" / name).mkdir()
    os.mkfifo(tmp_path / "dev/null")
    runtime = Runtime(paths.COMMANDS / "corten-runtime", tmp_path / "state")
    bundle = runtimes.bundle("sh", "-c", WHERE, folder=tmp_path / "bundle")
    for mount in bundle.config["mounts"]:
        if mount["destination"] == "/dev":
            mount |= {"type": "bind", "source": str(tmp_path / "dev"), "options": ["bind"]}
    bundle.save()
    try:
        done = runtime("run", "c", cwd=bundle.path)
        assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr
    finally:
        runtime.close()
        runtimes.remove_cgroups()


class TestClosedByTheCaller:
    """No descriptor of the runtime's own takes the place of one that the caller closed."""

    CLOSED = pytest.mark.parametrize("closed", ["<&-", "<&- >&-", "2>&-", "<&- >&- 2>&-"])

    def call(self, closed: str, *argv: str) -> int:
        return subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *argv], check=False, timeout=30).returncode

    def expected(self, closed: str) -> list[int]:
        return [fd for fd, word in enumerate(("<&-", ">&-", "2>&-")) if word in closed.split()]

    @CLOSED
    def test_it_is_the_null_device_of_an_init(self, corten: Runtime, folder: Path, closed: str) -> None:
        bundle = runtimes.sleeper(folder)
        assert self.call(closed, *corten.argv("create", "-b", str(bundle.path), "c")) == 0
        pid = corten.state("c")["pid"]
        found = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)]
        assert [fd for fd in self.expected(closed) if found[fd] != "/dev/null"] == []
        assert not [path for path in found if "memfd" in path or str(folder) in path]

    @CLOSED
    def test_it_is_the_null_device_of_a_run_and_an_exec(self, corten: Runtime, folder: Path, closed: str) -> None:
        script = "for fd in 0 1 2; do readlink /proc/self/fd/$fd; done > /tmp/seen; exit 7"
        bundle = runtimes.bundle("sh", "-c", script, folder=folder / "bundle")
        (bundle.path / "rootfs/bin/readlink").symlink_to("busybox")
        bundle.config["root"]["readonly"] = False
        seen = bundle.save().path / "rootfs/tmp/seen"
        assert self.call(closed, *corten.argv("run", "-b", str(bundle.path), "c")) == 7
        of_run = seen.read_text().split()
        bundle.config["process"]["args"] = ["sleep", "1000"]
        corten.detached("run", "-d", "-b", str(bundle.save().path), "c")
        assert self.call(closed, *corten.argv("exec", "c", "sh", "-c", script)) == 7
        for found in (of_run, seen.read_text().split()):
            # the script's own file is its descriptor 1 meanwhile
            assert [fd for fd in self.expected(closed) if fd != 1 and found[fd] != "/dev/null"] == []


def test_a_caller_that_ignores_the_end_of_children_changes_nothing(runtime: Runtime, tmp_path: Path) -> None:
    ignoring = Runtime(tmp_path / "ignoring", runtime.root)
    Path(ignoring.program).write_text(f'#!/bin/sh\nexec env --ignore-signal=CHLD {runtime.program} "$@"\n')
    Path(ignoring.program).chmod(0o755)
    bundle = runtimes.bundle("echo", "ran", folder=tmp_path / "bundle")
    assert ignoring("run", "-b", str(bundle.path), "c", check=True).stdout == "ran\n"
    ignoring.detached("create", "-b", str(bundle.path), "c", output=tmp_path / "out")
    ignoring("start", "c", check=True)
    ignoring.wait_for("c", "stopped")
    ignoring("delete", "c", check=True)
    assert (tmp_path / "out").read_text() == "ran\n"
    bundle.config["process"]["args"] = ["sleep", "1000"]
    runtime.detached("run", "-d", "-b", str(bundle.save().path), "c")
    assert ignoring("exec", "c", "sh", "-c", "exit 3").returncode == 3
    bundle.config["process"]["args"] = ["nosuch"]
    bundle.save()
    assert ignoring("run", "-b", str(bundle.path), "d").returncode == 1
    assert ignoring("list", "-q").stdout == "c\n"
