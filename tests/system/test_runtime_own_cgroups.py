"""A cgroupsPath without a slash in front, or none, counts from the cgroups of whoever calls the runtime, as in runc."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from corten.runtime import hostfacts
from support import paths, peers, process, runtimes
from support.runtimes import Runtime

FACTS = hostfacts.gather()
PROGRAMS = {"ours": paths.COMMANDS / "corten-runtime", "theirs": peers.binary("runc")}
# cgroupsPath: where it is below the caller's cgroup; `C` is the id
PATHS: dict[str | None, str] = {None: "C", "": "C", "deep/er": "deep/er", "./a//b/..": "a", "../x": "x"}

pytestmark = pytest.mark.skipif(not FACTS.cgroup_v1, reason="moves a caller about in v1 hierarchies")


class Caller:
    """A cgroup of its own in every hierarchy, for a process that calls a runtime."""

    def __init__(self, name: str) -> None:
        self.path = f"/{paths.mark()}runtime/{name}"
        for mount in FACTS.cgroup_v1.values():
            Path(mount + self.path).mkdir(parents=True, exist_ok=True)
        for file in ("cpus", "mems"):
            for above in (Path(self.path).parent, Path(self.path)):
                place = process.CGROUPS / f"cpuset{above}"
                (place / f"cpuset.{file}").write_text((place.parent / f"cpuset.{file}").read_text())

    def __call__(self, argv: list[str], output: Path) -> subprocess.CompletedProcess[bytes]:
        """Calls a runtime from in there."""
        joins = "; ".join(f"echo 0 > {mount}{self.path}/cgroup.procs" for mount in FACTS.cgroup_v1.values())
        words = ["sh", "-c", f'{joins}; exec "$@"', "sh", *argv]
        with output.open("wb") as file:
            return subprocess.run(words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False, timeout=30)


def below(path: str, caller: Caller) -> set[str]:
    """The lines of a /proc/PID/cgroup for v1, with what follows the caller's own path."""
    lines = [line.split(":", 2) for line in path.splitlines()]
    return {f"{names}:{place.removeprefix(caller.path)}" for number, names, place in lines if number != "0"}


@pytest.mark.parametrize("given", PATHS, ids=str)
def test_a_container_is_below_the_cgroup_of_its_caller_as_with_runc(folder: Path, given: str | None) -> None:
    seen = {}
    for name, program in PROGRAMS.items():
        bundle = runtimes.sleeper(folder)
        linux = bundle.config["linux"]
        del linux["cgroupsPath"]
        if given is not None:
            linux["cgroupsPath"] = given
        bundle.save()
        caller, runtime, id = Caller(f"caller-{name}"), Runtime(program, folder / name), f"c{os.urandom(3).hex()}"
        try:
            done = caller(runtime.argv("run", "--detach", "--bundle", str(bundle.path), id), folder / "out")
            assert done.returncode == 0, (folder / "out").read_text()
            pid = runtime.state(id)["pid"]
            place = below(Path(f"/proc/{pid}/cgroup").read_text(), caller)
            other = runtime("exec", id, "cat", "/proc/self/cgroup", check=True).stdout  # called from elsewhere
            seen[name] = {line.replace(id, "C") for line in place}
            assert len(other.splitlines()) >= len(place)
        finally:
            runtime("delete", "--force", id)
        left = PATHS[given].replace("C", id)
        assert not list(process.CGROUPS.glob(f"*{caller.path}/{left}")), name
    assert seen["ours"] == seen["theirs"] == {f"{names}:/{PATHS[given]}" for names in FACTS.cgroup_v1}


@pytest.mark.parametrize("given", [".", "a/.."])
def test_the_callers_own_cgroup_is_not_a_containers(corten: Runtime, folder: Path, given: str) -> None:
    """A runtime would limit and kill itself, and whoever is in there."""
    bundle = runtimes.sleeper(folder)
    bundle.config["linux"]["cgroupsPath"] = given
    bundle.save()
    done = corten("run", "--detach", "--bundle", str(bundle.path), "c")
    assert done.returncode == 1
    assert f"linux.cgroupsPath: '{given}' is the root cgroup, or the runtime's own" in done.stderr


def test_the_limits_of_the_caller_hold_for_the_container(corten: Runtime, folder: Path) -> None:
    caller = Caller("limited")
    (process.CGROUPS / f"pids{caller.path}/pids.max").write_text("12")
    bundle = runtimes.bundle("sh", "-c", "for i in $(seq 20); do sleep 5 & done; echo made", folder=folder / "bundle")
    del bundle.config["linux"]["cgroupsPath"]
    bundle.save()
    caller(corten.argv("run", "--bundle", str(bundle.path), "c"), folder / "out")
    assert "can't fork" in (folder / "out").read_text()
