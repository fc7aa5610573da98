"""The OCI project's validation programs (opencontainers/runtime-tools), run against a runtime.

Each is a program that takes the runtime from $RUNTIME and prints TAP; some print nothing when all is well.  A container
without some namespace acts in that of its caller, so each program has namespaces of its own, but for the cgroup one:
the cgroups of some have fixed names, which a lock gives to one run at a time.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support import golang, paths, peers, process
from support.runtimes import Runtime

MODULE = paths.REPOSITORY / "tests/conformance/oci"
TOOLS = "github.com/opencontainers/runtime-tools"
OUTSIDE = ("runtimetest",)  # runs inside the containers
ROOTFS = "rootfs-amd64.tar.gz"  # the module has none for other machines
CGROUP, CGROUPS_ABOVE = "cgrouptest", "testdir"  # of the programs that ALONE finds
ALONE = re.compile(r"cgroups|resources")
WORKERS = 4  # they sleep most of the time
OWN = ("unshare", "--mount", "--uts", "--ipc", "--net", "--propagation", "private", "--")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a program found.  passed: points; failed: what was not as it should be, in the program's words."""

    passed: int
    failed: frozenset[str]
    errors: str

    @property
    def is_pass(self) -> bool:
        """Whether nothing was wrong."""
        return not self.failed

    def __str__(self) -> str:
        return f"pass ({self.passed})" if self.is_pass else "; ".join(sorted(self.failed))


def programs() -> Path:
    """The folder of the programs."""
    return golang.build(MODULE, [f"{TOOLS}/cmd/runtimetest", f"{TOOLS}/validation/..."])


def names() -> list[str]:
    """The programs that go.mod's neighbour tools.go lists, without a look at the cache."""
    return re.findall(rf"{re.escape(TOOLS)}/validation/(\w+)", (MODULE / "tools.go").read_text())


def run_all(runtime: Path, wanted: Sequence[str]) -> dict[str, Verdict]:
    """The verdicts of programs about a runtime."""
    folder = paths.scratch("oci")
    try:
        wrapper = _prepare(folder, runtime)
        beside = [name for name in wanted if not ALONE.search(name)]
        with ThreadPoolExecutor(WORKERS) as pool:
            found = dict(zip(beside, pool.map(lambda name: _run(folder, wrapper, name), beside), strict=True))
        with _fixed_cgroups():
            for name in wanted:
                if ALONE.search(name):
                    found[name] = _run(folder, wrapper, name)
        return found
    finally:
        _clean(folder, runtime)


def _prepare(folder: Path, runtime: Path) -> Path:
    for name in ("root", "tmp", "work"):
        (folder / name).mkdir()
    shutil.copy(programs() / "runtimetest", folder / "work")
    shutil.copy(golang.source(MODULE, TOOLS) / ROOTFS, folder / "work")
    wrapper = folder / "runtime"
    wrapper.write_text(f'#!/bin/sh\nexec {runtime} --root {folder}/root "$@"\n')
    wrapper.chmod(0o755)
    return wrapper


def _run(folder: Path, wrapper: Path, name: str) -> Verdict:
    environment = {"RUNTIME": str(wrapper), "TMPDIR": f"{folder}/tmp", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    argv = [*OWN, str(programs() / name)]
    done = subprocess.run(
        argv, check=False, cwd=folder / "work", env=environment, capture_output=True, text=True, timeout=90
    )
    return verdict(done.returncode, done.stdout, done.stderr)


def verdict(status: int, stdout: str, stderr: str) -> Verdict:
    """What TAP, the exit status and, where a program has no points, its diagnostics say."""
    passed = len(re.findall(r"^ok \d+", stdout, re.MULTILINE))
    failed = set(re.findall(r"^not ok \d+ - (.+)$", stdout, re.MULTILINE))
    points = re.search(r"^(not )?ok \d+", stdout, re.MULTILINE)
    if not points:
        failed |= set(re.findall(r'^    "error": "(.+?)(?:\\n.*)?",?$', stdout, re.MULTILINE))
    if status != 0:
        failed.add(f"exit status {status}")
    return Verdict(passed, frozenset(failed), stderr.strip())


@contextmanager
def _fixed_cgroups() -> Iterator[None]:
    with peers.locked(paths.cache("go", "cgroups")):
        _remove_cgroups()
        yield
        _remove_cgroups()


def _remove_cgroups() -> None:
    """Those below our own cgroups too: from there a path counts that has no slash in front."""
    process.remove_cgroups(f"/{CGROUP}")
    own = (line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    places = [process.CGROUPS / names.removeprefix("name=") / path.lstrip("/") / CGROUPS_ABOVE for names, path in own]
    for place in {*places, *process.CGROUPS.glob(f"*/{CGROUPS_ABOVE}")}:
        if place.exists():
            place.rmdir()


def _clean(folder: Path, runtime: Path) -> None:
    Runtime(runtime, folder / "root").close()
    process.kill_all(str(folder))
    process.unmount_below(folder)
    shutil.rmtree(folder)
