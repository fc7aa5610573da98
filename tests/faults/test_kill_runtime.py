"""kill -9 of the commands themselves: `start`, `exec`, `delete` at every call that changes something, `create` at every
message to the kernel about network devices.  `delete --force` then leaves nothing, from state.json alone.

strace(1) kills the command when it enters the n-th call of a kind, for every n until it gets through.
(`create` at every other call: system/test_runtime_killed.py.  At every step of a plan: test_kill_plans.py.)
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.runtime.state import STATE_FILE
from support import killpoints, machinestate, paths, process, runtimes
from support.netns import InNetNs, NetNs
from support.process import wait_for
from support.runtimes import Bundle, Runtime

NULL = "/dev/null"
MARK = f"31415.{os.getpid()}"  # an argument of every process of the containers
HOOK = {"path": "/bin/sh", "args": ["sh", "-c", "exit 0"]}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A new folder, removed with the cgroups of its containers."""
    with runtimes.folder_of_containers("killed") as made:
        yield made


@pytest.fixture
def corten(folder: Path) -> Iterator[Runtime]:
    """`corten-runtime` with a state root of its own."""
    with Runtime(paths.COMMANDS / "corten-runtime", folder / "root") as made:
        yield made


@pytest.fixture
def bundle(folder: Path) -> Bundle:
    """Sleeps, is limited, and has hooks of the end."""
    made = runtimes.bundle("sleep", MARK, folder=folder / "bundle")
    made.config["linux"]["resources"]["memory"] = {"limit": 64 << 20}
    made.config["hooks"] = {"poststart": [HOOK], "poststop": [HOOK]}
    return made.save()


def left(bundle: Bundle, root: Path) -> list[str]:
    """What is there of a container: state, cgroups, processes."""
    found = [str(path) for path in root.glob("*")] if root.exists() else []
    found += [path.name for path in process.CGROUPS.iterdir() if bundle.has_cgroup(path.name)]
    return found + [f"process {pid}" for pid in sorted(process.processes(MARK))]


def delete_by_record_alone(corten: Runtime, bundle: Bundle, what: str) -> None:
    """`delete --force` with nothing but state.json; then nothing is left."""
    state = corten.root / "c"
    for path in state.iterdir() if state.exists() else ():
        if path.name != STATE_FILE and not path.is_dir():
            path.unlink()
    delete(corten, bundle, what)


def delete(corten: Runtime, bundle: Bundle, what: str) -> None:
    """`delete --force`, and nothing is left."""
    corten("delete", "--force", "c", check=True)
    deadline = time.monotonic() + 60
    while (found := left(bundle, corten.root)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not found, f"after the kill {what}"


# verb: {kinds of calls: how many kill points at least there must be, so that a point that was lost is seen}
SPAWN, WAIT = "clone,clone3,vfork,fork", "wait4,waitid"
CALLS: dict[str, dict[str, int]] = {
    "start": {"write": 1, "unlink": 1, SPAWN: 1, WAIT: 1},
    "exec": {"memfd_create": 2, SPAWN: 1, "write": 2, "poll": 1, WAIT: 1},
    "delete": {"rmdir": 8, "unlink,unlinkat": 3, SPAWN: 1, WAIT: 1, "write": 1},
    "delete --force": {"write": 1, "pidfd_send_signal": 1, "poll": 1, "rmdir": 8, "unlink,unlinkat": 3},
}
POINTS = [(verb, call) for verb, calls in CALLS.items() for call in calls]
WORDS = {
    "start": ["start", "c"],
    "exec": ["exec", "--detach", "c", "sleep", MARK],
    "delete": ["delete", "c"],
    "delete --force": ["delete", "--force", "c"],
}


def is_killed_at(corten: Runtime, words: list[str], call: str, number: int) -> bool:
    """Runs a command, killed at a call; whether it was killed there, else it got through."""
    inject = f"inject={call}:signal=KILL:when={number}"
    argv = ["strace", "-o", NULL, "-e", f"trace={call}", "-e", inject, *corten.argv(*words)]
    errors = corten.root.parent / "stderr"
    with open(NULL, "r+b") as null, errors.open("wb") as stderr:
        done = subprocess.run(argv, stdin=null, stdout=null, stderr=stderr, check=False, timeout=30)
    assert done.returncode in (0, 137, -signal.SIGKILL), errors.read_text()
    return done.returncode != 0


def prepare(corten: Runtime, bundle: Bundle, verb: str) -> None:
    """A container at which the verb can work."""
    corten.detached("create", "-b", str(bundle.path), "c")
    if verb != "start":
        corten("start", "c", check=True)
    if verb == "delete":
        corten("kill", "c", "KILL", check=True)
        corten.wait_for("c", "stopped")


def check_consistent(corten: Runtime, verb: str) -> None:
    """What the other commands say of the container after a kill."""
    if verb.startswith("delete"):
        corten("list", check=True)
        return
    status = corten.state("c")["status"]
    again = corten("start", "c")
    assert (status, again.returncode) in (("created", 0), ("running", 1)), again.stderr
    assert again.returncode == 0 or "cannot start an already running container" in again.stderr
    wait_for(lambda: any(process.processes(MARK)), "the container's process")
    assert corten("exec", "c", "true").returncode == 0


@pytest.mark.parametrize(("verb", "call"), POINTS)
def test_a_command_killed_at_any_call_is_made_up_for(corten: Runtime, bundle: Bundle, verb: str, call: str) -> None:
    number = 1
    while True:
        prepare(corten, bundle, verb)
        if not is_killed_at(corten, WORDS[verb], call, number):
            break
        check_consistent(corten, verb)
        delete_by_record_alone(corten, bundle, f"of {verb} at {call} number {number}")
        number += 1
    delete_by_record_alone(corten, bundle, f"of none of {verb}")
    killpoints.report(f"{verb} at {call}", number - 1, number - 1)
    assert number - 1 >= CALLS[verb][call]


def test_a_create_killed_at_any_message_about_devices_gives_them_back(corten: Runtime, bundle: Bundle) -> None:
    """From the record, by whose FIFO it is seen that the container was not started."""
    with NetNs() as netns:
        for name in ("one", "two"):
            netns.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}-far"])
        netns.run(["ip", "address", "add", "192.0.2.7/24", "dev", "one"])
        netns.run(["ip", "link", "set", "one", "up"])
        bundle.config["linux"]["netDevices"] = {"one": {"name": "eth0"}, "two": {}}
        bundle.save()
        inside = InNetNs(corten, netns)
        before, number, moved = machinestate.links(netns), 1, 0
        while is_killed_at(inside, ["create", "-b", str(bundle.path), "c"], "sendto", number):
            moved += machinestate.links(netns) != before
            delete(inside, bundle, f"of create at message number {number}")
            assert machinestate.links(netns) == before, f"after the kill at message number {number}"
            number += 1
        delete(inside, bundle, "of none")
        assert machinestate.links(netns) == before
    what = f"create at messages about devices, after {moved} of which some were away"
    killpoints.report(what, number - 1, number - 1)
    assert moved > 2
