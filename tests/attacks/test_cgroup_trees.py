"""A container that may write its cgroup makes a tree of cgroups below it that is to outlive every removal.

It is deeper than the interpreter's stack, or its paths are longer than PATH_MAX; the walk has few descriptors.
The twin walks as one writes it at first, by paths and recursion.
"""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.api import Api
from support import images, paths, process, runtimes, weakened_corten
from support.engine import CortenEngine
from support.runtimes import Bundle, Runtime
from support.weakened import Edit

DESCRIPTORS = 32
NESTED = ("freezer", "pids")
WRITABLE = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]}
NEST = (
    "cd {directory} && i=0 && while [ $i -lt {depth} ]; do mkdir {name} && cd -P {name} || break; i=$((i+1)); done; "
    "echo $i"
)
DEEP = {"depth": 1050, "name": "a"}
LONG = {"depth": 40, "name": 200 * "n"}  # PATH_MAX is 4096
TREES = pytest.mark.parametrize("tree", [DEEP, LONG], ids=["deep", "long"])
RECURSION: tuple[Edit, ...] = (
    (
        "sys/files.py",
        "    here = open_directory(path)\n    try:\n",
        "    for name in subdirectories(open_directory(path)):\n"
        '        yield from directories_below(f"{path}/{name}")\n'
        "        yield open_directory(path), name\n"
        "    return\n"
        "    here = open_directory(path)\n    try:\n",
    ),
)


@pytest.fixture
def folder() -> Iterator[Path]:
    with runtimes.folder_of_containers("trees") as made:
        yield made


def nesting(folder: Path, tree: dict[str, object]) -> Bundle:
    """A bundle whose process nests cgroups in two hierarchies, and then sleeps at the end of one of them."""
    first, second = (NEST.format(directory=f"/sys/fs/cgroup/{name}", **tree) for name in NESTED)
    bundle = runtimes.bundle("sh", "-c", f"({first}); {second}; echo 0 > tasks; sleep 1000", folder=folder / "bundle")
    (bundle.path / "rootfs/bin/mkdir").symlink_to("busybox")
    bundle.config["mounts"].append(WRITABLE)
    return bundle.save()


def nested(runtime: Runtime, bundle: Bundle, tree: dict[str, object]) -> None:
    """The container `c`, which has done its harm."""
    output = bundle.path / "output"
    runtime.detached("run", "-d", "-b", str(bundle.path), "c", output=output)
    process.wait_for(lambda: len(output.read_text().split()) == 2, "two trees", timeout=60)
    assert output.read_text().split() == 2 * [str(tree["depth"])]


def delete(runtime: Runtime) -> subprocess.CompletedProcess[str]:
    """`delete --force` with few descriptors."""
    limit = (DESCRIPTORS, DESCRIPTORS)
    return subprocess.run(
        runtime.argv("delete", "--force", "c"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@TREES
def test_a_tree_of_cgroups_is_removed_whole(folder: Path, tree: dict[str, object]) -> None:
    runtime = Runtime(paths.COMMANDS / "corten-runtime", folder / "state")
    bundle = nesting(folder, tree)
    nested(runtime, bundle, tree)
    done = delete(runtime)
    assert (done.returncode, done.stderr) == (0, "")
    assert not [name for name in NESTED if bundle.has_cgroup(name)]
    assert "container does not exist" in runtime("state", "c").stderr


@TREES
def test_a_walk_by_recursion_leaves_it(folder: Path, tree: dict[str, object]) -> None:
    with weakened_corten.build(*RECURSION) as weak:
        runtime = Runtime(weak.commands / "corten-runtime", folder / "state")
        bundle = nesting(folder, tree)
        nested(runtime, bundle, tree)
        assert delete(runtime).returncode == 1
        assert bundle.has_cgroup()
    own = Runtime(paths.COMMANDS / "corten-runtime", folder / "state")
    assert (own("list", "-q").stdout, delete(own).returncode) == ("c\n", 0)
    assert not bundle.has_cgroup()


def test_cortend_removes_a_container_with_a_tree_of_cgroups(engine: CortenEngine) -> None:
    api = Api(engine.socket)
    lines = NEST.format(directory="/sys/fs/cgroup/freezer", **DEEP)
    body = {"Image": images.BUSYBOX_REF, "Cmd": ["sh", "-c", lines], "HostConfig": {"NetworkMode": "none"}}
    body["HostConfig"] = {"NetworkMode": "none", "Privileged": True}
    id = str(api.ok("POST", "/containers/create", body)["Id"])
    api.ok("POST", f"/containers/{id}/start")
    api.ok("POST", f"/containers/{id}/wait")
    assert b"1050" in api.call("GET", f"/containers/{id}/logs?stdout=1")[1]
    process.wait_for(lambda: not process.cgroups_named(id), "its cgroups gone")
    assert api.call("DELETE", f"/containers/{id}?force=1")[0] == 204
