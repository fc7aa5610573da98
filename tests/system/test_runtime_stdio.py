"""What stdin, stdout and stderr of a container are, beside runc."""

from __future__ import annotations

import os
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
