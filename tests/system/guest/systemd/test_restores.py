"""Checkpoints and restores of containers that are scopes of systemd, beside runc."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import units
from support.guestbundle import CORTEN, RUNC, Lab
from support.guestcounter import Counter, processes, wait_until

CGROUPS = Path("/sys/fs/cgroup")
UNIT = "t-c.scope"
SCOPE = CGROUPS / f"box.slice/box-test.slice/{UNIT}"
MIB = 1 << 20


class ScopedCounter(Counter):
    """A counter in a scope, with limits."""

    def configure(self, cgroup: str = "box-test.slice:t:c") -> dict[str, object]:
        config = super().configure()
        config["linux"]["cgroupsPath"] = cgroup
        config["linux"]["resources"] |= {"memory": {"limit": 64 * MIB}, "pids": {"limit": 20}}
        self.lab.write(config)
        return config

    @property
    def pid(self) -> str:
        return str(self.lab.state()["pid"])


@pytest.fixture(params=[CORTEN, RUNC], ids=["corten", "runc"])
def counter(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ScopedCounter]:
    lab = Lab(tmp_path, request.param)
    lab.runtime.append("--systemd-cgroup")
    made = ScopedCounter(lab)
    yield made
    made.close()
    units.wait_gone(UNIT)


def limits() -> list[str]:
    """What the scope's files say, and what systemd does."""
    told = units.show(UNIT, ("MemoryMax", "TasksMax", "ActiveState"))
    return [(SCOPE / name).read_text().strip() for name in ("memory.max", "pids.max")] + list(told.values())


@pytest.mark.slow
def test_a_scope_is_gone_with_its_checkpoint_and_made_by_its_restore(counter: ScopedCounter) -> None:
    counter.start()
    assert counter.pid in (SCOPE / "cgroup.procs").read_text().split()
    before = limits()
    number = counter.stop()
    units.wait_gone(UNIT)
    assert not SCOPE.exists()
    counter.restore(counter.lab)
    counter.goes_on(number)
    assert counter.pid in (SCOPE / "cgroup.procs").read_text().split()
    assert limits() == before
    assert counter.lab.run("exec", "c", "echo", "in") == "in\n"
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    assert limits() == before
    counter.lab.run("delete", "--force", "c")
    units.wait_gone(UNIT)
    assert not SCOPE.exists()


@pytest.mark.slow
def test_a_restore_that_fails_leaves_no_scope(counter: ScopedCounter) -> None:
    counter.start()
    counter.stop()
    (counter.images / "pstree.img").write_bytes(b"x" * 8)
    words = ("restore", "-d", "--image-path", str(counter.images), "c")
    assert "criu failed: type" in counter.lab.run(*words, status=1)
    units.wait_gone(UNIT)
    wait_until(lambda: not processes("criu"), "criu lives")
    assert not SCOPE.exists()
