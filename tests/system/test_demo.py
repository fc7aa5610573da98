"""`make demo`: shows what it promises, and leaves the machine as it was.

The machine is one of the test's own, so that nobody else's doings are in the comparison: network and mount namespaces,
and a cgroup in each hierarchy as the root of a cgroup namespace.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import netns as namespaces
from support import paths, process
from support.netns import NetNs

LIMIT_S = 120  # issue 2: the demo ends in under two minutes
SYSCTLS = ("net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding", "net/bridge/bridge-nf-call-iptables")

# $0: the name of the cgroups; $1: where the two states are written.
SCRIPT = r"""
set -e
for tree in /sys/fs/cgroup/*/"$0"; do
    [ ! -d "$tree" ] || mount --bind "$tree" "${tree%/*}"
done
state() {
    for kind in link addr rule 'route show table all' neigh; do ip -json $kind; done
    nft list ruleset
    for name in SYSCTLS; do cat /proc/sys/$name 2>/dev/null || echo none; done
    # ip-netns(8) shares /run/netns; mounts of other tests, copied with all others, go when their folders are removed
    sed 's/^[0-9]* [0-9]* //; s/ shared:[0-9]*//; / [^ ]*\/corten-test-/d' /proc/self/mountinfo
    find /sys/fs/cgroup -type d
}
state >"$1/before"
status=0
make --no-print-directory demo || status=$?
state >"$1/after"
exit $status
""".replace("SYSCTLS", " ".join(SYSCTLS))


@dataclass(frozen=True, slots=True)
class Shown:
    """What the demo printed, and the machine before and after it."""

    status: int
    output: str
    before: str
    after: str

    def part(self, title: str) -> str:
        """The lines below a heading."""
        found = re.search(rf"^== {re.escape(title)}$(.*?)(?=^== |\Z)", self.output, re.M | re.S)
        assert found is not None, f"no part {title!r} in:\n{self.output}"
        return found.group(1)


@pytest.fixture(scope="module")
def shown() -> Iterator[Shown]:
    """One run of the demo."""
    folder = paths.scratch("demo")
    with NetNs() as netns:
        # something of each kind that a careless engine could take away or change
        netns.run(["ip", "link", "add", "docker0", "type", "bridge"])
        netns.run(["ip", "link", "set", "docker0", "addrgenmode", "none"])  # no address that comes later
        netns.run(["ip", "address", "add", "172.17.0.1/16", "dev", "docker0"])
        netns.run(["ip", "link", "set", "docker0", "up"])
        netns.run(["ip", "route", "add", "10.99.0.0/16", "dev", "docker0"])
        netns.run(["nft", "add table ip somebody; add chain ip somebody kept"])
        cgroups = make_cgroups(netns.name)
        command = [
            "unshare",
            "--mount",
            "--cgroup",
            "--propagation",
            "private",
            "sh",
            "-c",
            SCRIPT,
            netns.name,
            str(folder),
        ]
        try:
            done = subprocess.run(
                [*netns.enter, *command],
                check=False,
                cwd=paths.REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=LIMIT_S,
                preexec_fn=lambda: [(path / "cgroup.procs").write_text("0") for path in cgroups] and None,
            )
            yield Shown(done.returncode, done.stdout, *((folder / name).read_text() for name in ("before", "after")))
        finally:
            process.remove_cgroups(netns.name)
            subprocess.run(["rm", "-rf", folder], check=True)


def make_cgroups(name: str) -> list[Path]:
    """A cgroup in each hierarchy; none where v2 is alone, whose processes live in leaves only."""
    if is_v2_alone():
        return []
    made = []
    for hierarchy in sorted({path.parent.resolve() for path in process.CGROUPS.glob("*/cgroup.procs")}):
        made.append(hierarchy / name)
        made[-1].mkdir()
        for setting in ("cpuset.cpus", "cpuset.mems"):  # a new one has neither, and takes no process
            if (hierarchy / setting).exists():
                (made[-1] / setting).write_text((hierarchy / setting).read_text())
    return made


def is_v2_alone() -> bool:
    return (process.CGROUPS / "cgroup.procs").exists()


def test_it_succeeds(shown: Shown) -> None:
    assert shown.status == 0, shown.output


def test_the_engine_starts_and_makes_its_image_offline(shown: Shown) -> None:
    assert re.search(r"cortend answers after \d+ ms", shown.part("The engine starts"))
    image = shown.part("An image, made offline from Debian's busybox-static")
    assert "Loaded image: demo/busybox:latest" in image
    assert re.search(r"^demo/busybox +latest +[0-9a-f]{12} ", image, re.M)


def test_a_command_runs_and_its_exit_code_comes_back(shown: Shown) -> None:
    part = shown.part("A command in a container")
    assert re.search(r"^hello from [0-9a-f]{12}, pid 1, uid=0\(root\) gid=0\(root\)", part, re.M)
    assert "its exit code comes back: 42" in part


def test_the_kernel_shows_the_container(shown: Shown) -> None:
    part = shown.part("A container with limits, and what the kernel shows of it")
    own = ("mnt", "uts", "ipc", "pid", "net", *(["cgroup"] if is_v2_alone() else []))  # as with Docker
    for name in own:
        assert re.search(rf"^  namespace {name} +{name}:\[\d+\] +its own$", part, re.M), name
    assert re.search(r"^  namespace user +user:\[\d+\] +the host’s$", part, re.M)
    assert re.search(r"^  CapEff +00000000a80425fb$", part, re.M)
    assert re.search(r"^  CapBnd +00000000a80425fb$", part, re.M)
    assert re.search(r"^  NoNewPrivs +0$", part, re.M)
    assert re.search(r"^  Seccomp +2$", part, re.M)
    assert re.search(r"^  cgroup memory\.\S+ +67108864$", part, re.M)
    assert re.search(r"^  cgroup cpu\.\S+ +50000", part, re.M)
    assert re.search(r"^  cgroup pids\.max +50$", part, re.M)
    mounts = re.findall(r"^    (/\S*) +(\S+) +\S+$", part, re.M)
    assert ("/", "overlay") in mounts
    assert ("/proc", "proc") in mounts
    assert ("/dev/pts", "devpts") in mounts


def test_the_launch_plan_has_the_time_of_each_step(shown: Shown) -> None:
    part = shown.part("Its launch plan, with the time of each step")
    steps = [int(number) for number in re.findall(r"^ *\d+ µs +[\d.]+ % +(\d+)  \S", part, re.M)]
    assert len(steps) > 100
    assert steps == sorted(steps)
    for word in ("pivot_root", "seccomp filter", "capset", "mount"):
        assert word in part, word


def test_nothing_is_left(shown: Shown) -> None:
    part = shown.part("Clean-up")
    assert "cortend --destroy: nothing of this engine is left" in part
    (folder,) = set(re.findall(rf"{tempfile.gettempdir()}/corten-demo-[^/ ]+", shown.output))
    assert not Path(folder).exists()
    assert not (namespaces.RUN / Path(folder).name).exists()
    assert not list(process.processes(folder))


def test_the_machine_is_as_it_was(shown: Shown) -> None:
    assert "somebody" in shown.before
    assert "10.99.0.0" in shown.before
    assert json.loads(shown.before.splitlines()[0])
    assert "/sys/fs/cgroup" in shown.before
    assert shown.after.splitlines() == shown.before.splitlines()
