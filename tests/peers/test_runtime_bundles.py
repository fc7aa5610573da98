"""A bundle run by command line shows of itself what it shows with runc, where engines do not write such a config.json.

All in a mount namespace of its own: below a private `/` as below a shared one, which decides what propagates.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import paths, peers, runtimes, sameness
from support.compatibility import KNOWN, OF_RUN, compare
from support.runtimes import Bundle, Runtime
from support.sameness import Look

RUNTIMES = (peers.binary("runc"), paths.COMMANDS / "corten-runtime")
PROPAGATIONS = ("private", "shared")
READ_ONLY = ["nosuid", "noexec", "nodev", "relatime", "ro"]
Change = Callable[[dict[str, Any]], None]


def cgroups(*options: str, own: bool = True) -> Change:
    """A view of the cgroups, in a namespace of its own or not."""

    def change(config: dict[str, Any]) -> None:
        config["mounts"].append(
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": list(options)}
        )
        if not own:
            config["linux"]["namespaces"].remove({"type": "cgroup"})

    return change


def linux(**fields: Any) -> Change:
    return lambda config: config["linux"].update(fields)


def of_process(**fields: Any) -> Change:
    return lambda config: config["process"].update(fields)


def ids(config: dict[str, Any]) -> None:
    """A user namespace of its own."""
    config["linux"]["namespaces"].append({"type": "user"})
    mapping = [{"containerID": 0, "hostID": 0, "size": 1000}, {"containerID": 1000, "hostID": 100_000, "size": 65_000}]
    config["linux"].update(uidMappings=mapping, gidMappings=mapping)


def writable(config: dict[str, Any]) -> None:
    config["root"]["readonly"] = False


CONFIGS: dict[str, tuple[Change, ...]] = {
    "as runc's spec writes it": (),
    "writable": (writable,),
    "cgroups, read-only": (cgroups(*READ_ONLY),),
    "cgroups, writable": (cgroups("nosuid", "noexec", "nodev", "relatime"),),
    "cgroups of the host": (cgroups(*READ_ONLY, own=False),),
    "user namespace": (ids, cgroups(*READ_ONLY)),
    "masks": (
        linux(maskedPaths=["/proc/keys", "/proc/acpi", "/sys/firmware", "/nowhere"], readonlyPaths=["/proc/bus"]),
    ),
    "root private": (linux(rootfsPropagation="private"),),
    "root slave": (linux(rootfsPropagation="rslave"),),
    "devices": (
        linux(
            devices=[
                {"path": "/dev/of/mine", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 7},
                {"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2, "fileMode": 0o666},  # never there
            ]
        ),
    ),
    "process": (
        of_process(
            user={"uid": 1000, "gid": 50, "umask": 0o27, "additionalGids": [5, 6]},
            cwd="/tmp",
            oomScoreAdj=100,
            noNewPrivileges=False,
        ),
    ),
    "memory and cpu": (
        linux(
            resources={
                "devices": [{"allow": False, "access": "rwm"}],
                "memory": {"limit": 1 << 26, "swap": 1 << 27, "swappiness": 30},
                "cpu": {"shares": 300, "quota": 20_000, "period": 50_000, "cpus": "0", "mems": "0"},
                "pids": {"limit": 40},
            }
        ),
    ),
}


def look(runtime: Path, folder: Path, changes: tuple[Change, ...], propagation: str) -> Look:
    """What a bundle at the same path shows with one runtime."""
    bundle: Bundle = runtimes.bundle("sh", "-c", sameness.LOOK, folder=folder / "bundle")
    (folder / "bundle/rootfs/bin/grep").unlink(missing_ok=True)
    (folder / "bundle/rootfs/bin/grep").symlink_to("busybox")
    for change in changes:
        change(bundle.config)
    cgroup = bundle.config["linux"]["cgroupsPath"]
    bundle.save()
    root = ("unshare", "--mount", "--propagation", propagation, "--")
    argv = [*root, *Runtime(runtime, folder / "root").argv("run", "--bundle", str(bundle.path), "look")]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return sameness.parse(done.stdout + done.stderr, {cgroup: "CGROUP"})


@pytest.fixture(scope="module", autouse=True)
def nothing_of_it_stays() -> Iterator[None]:
    yield
    runtimes.remove_cgroups()


@pytest.mark.parametrize("propagation", PROPAGATIONS)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_bundle_shows_what_it_shows_with_runc(tmp_path: Path, name: str, propagation: str) -> None:
    theirs, ours = (look(runtime, tmp_path, CONFIGS[name], propagation) for runtime in RUNTIMES)
    compare(theirs, ours, KNOWN + OF_RUN)


# rt_sigaction(2) by its number: the C library refuses its own signals
IGNORING = """
import ctypes, os, struct, sys
ignore = ctypes.create_string_buffer(struct.pack("QQQQ", 1, 0, 0, 0))
for number in (10, 32, 33, 34):
    assert ctypes.CDLL(None).syscall(13, number, ignore, None, 8) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="a call by its number")
def test_signals_that_the_caller_ignores_are_not_ignored_in_the_container(tmp_path: Path) -> None:
    """Also those that only a bare call can set: whoever starts an engine may ignore them."""
    theirs, ours = (ignored(runtime, tmp_path) for runtime in RUNTIMES)
    assert ours == set()
    assert theirs >= {32, 34}


def ignored(runtime: Path, folder: Path) -> set[int]:
    """The signals that the first process of a container ignores when the runtime's caller ignores some."""
    bundle = runtimes.bundle("cat", "/proc/self/status", folder=folder / "bundle")
    argv = Runtime(runtime, folder / "root").argv("run", "--bundle", str(bundle.path), "ignoring")
    argv = [sys.executable, "-I", "-c", IGNORING, *argv]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    mask = int(dict(line.split(":", 1) for line in done.stdout.splitlines())["SigIgn"], 16)
    return {number for number in range(1, 65) if mask & 1 << number - 1}
