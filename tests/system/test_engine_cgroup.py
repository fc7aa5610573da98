"""Where shims are: not in the cgroup of cortend, so that what happens to that does not reach them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.sys import cgroup
from support import paths, process
from support.engine import CortenEngine
from support.process import is_alive
from support.process import wait_for as until

from .test_engine import IMAGE, inspect
from .test_engine_recovery import oldest, shim_of, state

LIMIT_BYTES = 256 << 20
# In the cgroup $1, where everybody else is killed for want of memory before it: takes more until it is alone there.
HOG = """
import os, sys
procs = sys.argv[1] + "/cgroup.procs"
for pid in open(procs).read().split():
    with open(f"/proc/{pid}/oom_score_adj", "w") as file:
        file.write("1000")
with open(procs, "w") as file:
    file.write("0")
held = []
while set(open(procs).read().split()) - {str(os.getpid())}:
    held.append(b"x" * (1 << 20))
"""
PATIENCE_S = 60.0


def place(engine: CortenEngine) -> str:
    """The cgroup of the shims, from the root of every hierarchy."""
    return f"/corten-{(engine.data_root / 'engine-id').read_text().strip()}-shims"


def cgroups_of(pid: int) -> set[str]:
    """The paths of all hierarchies that are mounted here."""
    version_1, version_2 = cgroup.mounts(Path("/proc/self/mountinfo").read_text())
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    return {path for _, names, path in lines if (names.split(",")[0] in version_1 if names else version_2)}


def test_a_cortend_that_cannot_listen_leaves_no_cgroup(tmp_path: Path) -> None:
    """Where no device was ever up the kernel lets any address be bound (the check before the start), until one is."""
    argv = ["unshare", "--net", str(paths.COMMANDS / "cortend"), "--data-root", f"{tmp_path}/d"]
    argv += ["--exec-root", f"{tmp_path}/e", "--config", "/dev/null", "--host", "tcp://192.0.2.1:9999"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    try:
        said = done.stderr.splitlines()[-1]
        assert (done.returncode, said) == (1, f"cortend: --host {argv[-1]}: cannot assign requested address")
        assert [found for place in process.engines_below(tmp_path) for found in process.cgroups_named(place)] == []
    finally:
        subprocess.run([*argv, "--destroy"], check=True, capture_output=True, timeout=60)


@pytest.fixture
def narrow() -> Iterator[Path]:
    """A cgroup with a limit of memory, for a cortend; no swap counts."""
    version_1 = process.CGROUPS / "memory"
    root = version_1 if version_1.is_dir() else process.CGROUPS
    path = root / f"corten-test-{os.getpid()}-narrow"
    path.mkdir()
    try:
        if version_1.is_dir():
            (path / "memory.limit_in_bytes").write_text(str(LIMIT_BYTES))
            (path / "memory.swappiness").write_text("0")
        else:
            (path / "memory.max").write_text(str(LIMIT_BYTES))
            (path / "memory.swap.max").write_text("0")
        yield path
    finally:
        process.remove_cgroups(path.name)


def test_zygote_helper_and_shims_have_a_cgroup_of_their_own_beside_that_of_cortend(engine: CortenEngine) -> None:
    engine.docker("run", "-d", "--name", "box", IMAGE, "sleep", "1000", check=True)
    shim = shim_of(engine, "box")
    makers = [f"corten-shim --zygote --exec-root {engine.exec_root}", f"corten-shim helper {engine.exec_root}"]
    for pid in (*map(oldest, makers), shim):
        assert cgroups_of(pid) == {place(engine)}
    assert place(engine) not in cgroups_of(engine.pid)
    assert inspect(engine, "box")["Id"] in cgroups_of(state(engine, "box")["Pid"]).pop()
    # one that is elsewhere, as those of an earlier release are, is taken in by the next start
    version_1 = process.CGROUPS / "pids"
    (version_1 if version_1.is_dir() else process.CGROUPS).joinpath("cgroup.procs").write_text(str(shim))
    assert "/" in cgroups_of(shim)
    engine.restart()
    until(lambda: cgroups_of(shim) == {place(engine)}, "its place", PATIENCE_S)
    assert engine.docker("exec", "box", "echo", "there", check=True).stdout == "there\n"


def test_a_cortend_that_is_killed_for_want_of_memory_takes_no_shim_along(engine: CortenEngine, narrow: Path) -> None:
    engine.stop()
    engine.start(["sh", "-c", f'echo 0 > {narrow}/cgroup.procs && exec "$@"', "sh"])
    engine.docker("run", "-d", "--name", "box", "-p", "8080:80", IMAGE, "sleep", "1000", check=True)
    pid, shim = state(engine, "box")["Pid"], shim_of(engine, "box")
    assert (narrow / "cgroup.procs").read_text().split() == [str(engine.pid)]
    subprocess.run([sys.executable, "-I", "-S", "-c", HOG, str(narrow)], check=True, timeout=PATIENCE_S)
    until(lambda: not engine.is_running(), "end of cortend", PATIENCE_S)
    assert (is_alive(shim), is_alive(pid)) == (True, True)
    engine.start()
    assert state(engine, "box")["Pid"] == pid
    assert engine.docker("exec", "box", "echo", "there", check=True).stdout == "there\n"
