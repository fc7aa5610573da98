"""What a container by default reaches of the kernel (field.md, D17): entries that holes were found behind.

kernel 2022-0185 (fsconfig in a user namespace), 2022-0492 (release_agent), 2026-31431 (AF_ALG) and their like.  The
twin is a container with every capability and without the filter, in which each call gets past whoever refused it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corten.spec.process import CAPABILITIES
from support.launching import Machine, docker_filter

# what the profile answers: clone3 is said not to be there, so that the C library goes back to clone
REFUSED = {"clone3": errno.ENOSYS}
# calls on nothing: refused by nobody, they find that there is nothing
HARMLESS = {"umount": errno.ENOENT, "mount": errno.ENODEV, "setns": errno.EBADF, "fsopen": 0, "unshare-user": 0}


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    made = Machine()
    made.add_program(Path(__file__).with_name("surface.c"))
    yield made
    made.close()


def open_document(machine: Machine, *args: str) -> dict[str, Any]:
    """With every capability, nothing masked and nothing read-only: what --privileged gives."""
    document = machine.config(*args)
    document["process"]["capabilities"] = {name: list(CAPABILITIES) for name in ("bounding", "effective", "permitted")}
    document["linux"].update(maskedPaths=[], readonlyPaths=[])
    return document


def answers(lines: list[str]) -> dict[str, int]:
    return {name: int(number) for name, number in map(str.split, lines)}


class TestEntries:
    """System calls."""

    @pytest.mark.parametrize("uid", [0, 1000])
    def test_each_is_refused_before_the_kernel_looks_at_it(self, machine: Machine, uid: int) -> None:
        document = machine.config("surface", user={"uid": uid, "gid": uid})
        done = machine.run(document, seccomp=docker_filter())
        found = answers(done.lines)
        assert len(found) > 25
        assert found == {name: REFUSED.get(name, errno.EPERM) for name in found} | afs(found)

    def test_twin_without_filter_and_with_capabilities_none_is(self, machine: Machine) -> None:
        found = answers(machine.run(open_document(machine, "surface")).lines)
        assert {name: found[name] for name in HARMLESS} == HARMLESS
        let_through = [name for name, number in found.items() if number not in (errno.EPERM, REFUSED.get(name))]
        # kexec and modules the kernel itself may refuse (lockdown, no support)
        assert set(found) - set(let_through) <= {"kexec-load", "init-module", "finit-module", "perf-event-open", "bpf"}


def afs(found: dict[str, int]) -> dict[str, int]:
    """Address families that are refused say so in their own words, or are not known to this kernel at all."""
    ends = (errno.EPERM, errno.EAFNOSUPPORT)
    return {name: found[name] for name in ("vsock", "af-alg") if found[name] in ends}


# the agent is a program of the host, named in a file at the root of a version 1 hierarchy
AGENT = """
mkdir -p /tmp/cg
for place in /sys/fs/cgroup/* /sys/fs/cgroup; do
    [ -e "$place/release_agent" ] && (: >>"$place/release_agent") 2>/dev/null && echo "given $place"
done
mount -t cgroup -o pids none /tmp/cg 2>/dev/null && echo mounted
[ -e /tmp/cg/release_agent ] && (: >>/tmp/cg/release_agent) 2>/dev/null && echo opened
INSIDE="mount -t cgroup -o pids none /tmp/cg && echo by a namespace"
unshare -r -m -C sh -c "$INSIDE" 2>/dev/null
for place in /sys/fs/cgroup/*/; do
    mkdir "$place/made" 2>/dev/null && echo "made in $place"
done
echo tried
"""


class TestReleaseAgent:
    """2022-0492: a file that names a program which the host runs as root.  It is opened for writing, never written."""

    def test_is_out_of_reach(self, machine: Machine) -> None:
        if not machine.facts.cgroup_v1:
            pytest.skip("no version 1 hierarchy here")
        done = machine.run(machine.config("sh", "-c", AGENT), seccomp=docker_filter())
        assert done.lines == ["tried"]

    def test_twin_without_filter_and_with_capabilities_it_is_open(self, machine: Machine) -> None:
        if not machine.facts.cgroup_v1:
            pytest.skip("no version 1 hierarchy here")
        lines = machine.run(open_document(machine, "sh", "-c", AGENT)).lines
        assert "mounted" in lines
        # a machine that is itself a container sees no root of a hierarchy
        assert ("opened" in lines) == Path("/sys/fs/cgroup/pids/release_agent").exists()


class TestUserNamespace:
    """A user namespace of its own gives a container every capability over new objects: the profile has none of it."""

    SCRIPT = "unshare -r cat /proc/self/status | grep CapEff; echo tried"

    def test_cannot_be_made(self, machine: Machine) -> None:
        assert machine.run(machine.config("sh", "-c", self.SCRIPT), seccomp=docker_filter()).lines == ["tried"]

    def test_twin_without_the_filter_it_has_every_capability(self, machine: Machine) -> None:
        document = machine.config("sh", "-c", self.SCRIPT, user={"uid": 1000, "gid": 1000})
        first, *_ = machine.run(document).lines
        assert int(first.split()[1], 16) > 1 << 39
