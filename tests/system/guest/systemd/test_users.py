"""An ordinary user to whom systemd gives a cgroup (systemd.resource-control(5), "Delegate="): limits of his own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import paths, rootless

SERVICE = Path("/sys/fs/cgroup/system.slice/t-user.service")
LIMITS = {"pids": {"limit": 17}, "memory": {"limit": 33554432}}
# what a service manager of his would do first: a cgroup with processes hands no controllers down
SCRIPT = f"""\
set -e
mkdir {SERVICE}/own
echo 0 > {SERVICE}/own/cgroup.procs
{{runtime}} run -d -b {{bundle}} c < /dev/null > /dev/null 2>&1
cat {SERVICE}/c/pids.max {SERVICE}/c/memory.max
{{runtime}} exec c cat /proc/self/cgroup
{{runtime}} update --pids-limit 9 c
cat {SERVICE}/c/pids.max
{{runtime}} delete --force c
test ! -e {SERVICE}/c
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder of the user's."""
    made = paths.scratch("delegated")
    yield rootless.own(made)
    shutil.rmtree(made)


@pytest.mark.slow
@pytest.mark.parametrize(
    "program", [paths.COMMANDS / "corten-runtime", Path("/usr/local/sbin/runc")], ids=["corten", "runc"]
)
def test_a_service_with_delegation_limits_its_containers(place: Path, program: Path) -> None:
    bundle = rootless.bundle("sleep", "1000", folder=place / "bundle")
    bundle.config["linux"] |= {"resources": LIMITS, "cgroupsPath": f"/system.slice/{SERVICE.name}/c"}
    bundle.save()
    rootless.own(place)
    script = SCRIPT.format(runtime=f"{program} --root {place}/root", bundle=bundle.path)
    argv = [
        "systemd-run",
        "--quiet",
        "--wait",
        "--pipe",
        "--collect",
        "--unit",
        SERVICE.stem,
        "--property",
        "Delegate=yes",
    ]
    argv += ["--uid", str(rootless.UID), "--gid", str(rootless.GID), "sh", "-c", script]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    pids, memory, cgroup, updated = done.stdout.splitlines()
    assert (pids, memory, updated) == ("17", "33554432", "9")
    assert cgroup == f"0::/system.slice/{SERVICE.name}/c"
    assert not SERVICE.exists()
