"""What is bound into a container from the host follows the host's mounts, and never the other way.

On a machine whose `/` is shared, as systemd makes it, a clone of a mount is its peer: what root of the container mounts
on it (CAP_SYS_ADMIN in a user namespace of its own is enough) would be mounted on the host, too.  Found here for the
nodes of /dev that such a container gets by bind mounts.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import paths, rootless, runtimes, weakened_corten
from support.rootless import UserRuntime
from support.runtimes import Bundle, Runtime
from support.weakened import Edit

PEERS: tuple[Edit, ...] = (
    (
        "launch/filesystem.py",
        ", MountSetattr(slot, 0, 0, MS_SLAVE, 0))\n        self._open_root()",
        ")\n        self._open_root()",
    ),
    # the mounts that it opens are then those of the host, and no copies, which the kernel makes slaves
    ("launch/filesystem.py", "if self.userns and not self.rootless:", "if False:"),
)
ATTACK = """\
for node in /dev/*; do [ -c $node ] && mount --bind /etc/passwd $node; done
mount --bind /etc/passwd /proc/keys
mount --bind /etc/passwd /sys/fs/cgroup/pids/pids.max
grep -c etc/passwd /proc/self/mountinfo
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Bundle]:
    """A container whose root may mount, in a user namespace of its own."""
    made = runtimes.bundle("sh", "-c", ATTACK, folder=tmp_path / "bundle")
    for name in ("grep", "mount"):
        (made.path / "rootfs/bin" / name).symlink_to("busybox")
    made.config["process"]["capabilities"] = {
        name: ["CAP_SYS_ADMIN"] for name in ("bounding", "effective", "permitted")
    }
    made.config["mounts"].append({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"})
    linux = made.config["linux"]
    linux["namespaces"] = [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "user")]
    linux.update(
        uidMappings=[{"containerID": 0, "hostID": 0, "size": 1000}],
        gidMappings=[{"containerID": 0, "hostID": 0, "size": 1000}],
        maskedPaths=["/proc/keys"],
    )
    yield made.save()
    runtimes.remove_cgroups()


def reached(runtime: Runtime, bundle: Bundle) -> set[str]:
    """Where the container's file is mounted in the namespace of the caller, below a shared `/`."""
    look = 'container=$("$@") || exit 9; [ "$container" -gt 5 ] || exit 8; grep etc/passwd /proc/self/mountinfo; true'
    shared = ("unshare", "--mount", "--propagation", "shared", "--", "sh", "-c", look, "sh")
    argv = runtime.argv("run", "--bundle", str(bundle.path), "x")
    done = subprocess.run([*shared, *argv], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    return {line.split()[4] for line in done.stdout.splitlines()}


def test_nothing_that_a_container_mounts_reaches_the_host(bundle: Bundle, tmp_path: Path) -> None:
    assert reached(Runtime(paths.COMMANDS / "corten-runtime", tmp_path / "root"), bundle) == set()


def test_twin_with_nodes_in_the_peer_group_of_the_host_it_does(bundle: Bundle, tmp_path: Path) -> None:
    with weakened_corten.build(*PEERS) as build:
        assert "/dev/null" in reached(Runtime(build.commands / "corten-runtime", tmp_path / "root"), bundle)


def test_nothing_that_the_container_of_an_ordinary_user_mounts_reaches_the_host() -> None:
    """Whose mount namespace is that of another user: there the kernel makes every mount a slave (mount_namespaces(7)).

    So no step of ours can be taken out; that the container can mount at all is seen by what it counts.
    """
    rootless.skip_unless_reached(paths.COMMANDS / "corten-runtime")
    folder = paths.scratch("rootless")
    try:
        bundle = rootless.bundle("sh", "-c", ATTACK, folder=folder / "bundle")
        for name in ("grep", "mount"):
            (bundle.path / "rootfs/bin" / name).symlink_to("busybox")
        bundle.config["process"]["capabilities"] = {
            name: ["CAP_SYS_ADMIN"] for name in ("bounding", "effective", "permitted")
        }
        bundle.save()
        rootless.own(folder)
        assert reached(UserRuntime(paths.COMMANDS / "corten-runtime", folder / "root"), bundle) == set()
    finally:
        shutil.rmtree(folder)
