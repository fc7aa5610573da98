"""`events` on cgroup v2: a sample beside runc's, and memory that ran out, told from memory.events.

runc 1.1 has neither pressure nor the peak of memory (runc 1.2 has, in these words), and tells each change of
memory.events behind a kill as an event of its own.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from support.guestbundle import Lab
from support.process import wait_for

LIMIT = 16 << 20
LIMITS: dict[str, Any] = {
    "memory": {"limit": LIMIT, "swap": LIMIT},
    "pids": {"limit": 50},
    "hugepageLimits": [{"pageSize": "2MB", "limit": 2 << 20}],
}
LATER = re.compile(r"\.psi\.|\.memory\.usage\.max ")  # of runc 1.2
CHANCE = re.compile(r"\.memory\.cache |\.blkio\.")  # left out while nothing was read from a disk
EATER = "while ! test -e /tmp/go; do sleep 0.1; done; tail /dev/zero; echo > /tmp/gone; exec sleep 1000"
READ = "cat /bin/busybox > /dev/null; exec sleep 1000"


def shape(value: Any, place: str = "") -> list[str]:
    """Each key in its order, with the kind of its value; lists by their first row."""
    if isinstance(value, dict):
        return [line for key, item in value.items() for line in shape(item, f"{place}.{key}")]
    if isinstance(value, list) and value:
        return shape(value[0], f"{place}[]")
    return [f"{place} {type(value).__name__}"]


@contextmanager
def running(lab: Lab, script: str) -> Iterator[Lab]:
    lab.configure("sh", "-c", script, **LIMITS)
    lab.detached("run", "-d", "c")
    try:
        yield lab
    finally:
        lab.run("delete", "--force", "c")


@pytest.mark.slow
def test_a_sample_has_the_keys_of_runc(lab: Lab) -> None:
    found = []
    for side in (lab, lab.peer()):
        with running(side, READ):
            found.append(json.loads(side.run("events", "--stats", "c")))
    ours, theirs = found
    shapes = [[line for line in shape(one) if not CHANCE.search(line)] for one in found]
    assert [line for line in shapes[0] if not LATER.search(line)] == shapes[1]
    data = ours["data"]
    assert data["memory"]["usage"]["limit"] == theirs["data"]["memory"]["usage"]["limit"] == LIMIT
    assert data["memory"]["swap"]["limit"] == theirs["data"]["memory"]["swap"]["limit"] == LIMIT
    assert data["pids"] == theirs["data"]["pids"] == {"current": 1, "limit": 50}
    assert data["cpu"]["usage"]["total"] > 0
    assert set(data["memory"]["psi"]) == {"some", "full"}


@pytest.mark.slow
def test_memory_that_ran_out_is_told_once_for_each_kill(lab: Lab) -> None:
    with running(lab, EATER):
        argv = [*lab.runtime, "events", "--interval", "200ms", "c"]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as command:
            assert command.stdout is not None
            lines = [json.loads(command.stdout.readline())]  # it watches from here on
            (lab.rootfs / "tmp/go").touch()
            wait_for((lab.rootfs / "tmp/gone").exists, "a kill for want of memory", 60)
            lab.run("kill", "c", "KILL")
            lines += [json.loads(line) for line in command.stdout]
            assert command.wait(60) == 0
    assert [line for line in lines if line["type"] == "oom"] == [{"type": "oom", "id": "c"}]
    assert {line["type"] for line in lines} == {"stats", "oom"}


@pytest.mark.slow
def test_runc_tells_it_too(lab: Lab) -> None:
    with running(lab.peer(), EATER) as side:
        argv = [*side.runtime, "events", "--interval", "200ms", "c"]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as command:
            assert command.stdout is not None
            line = json.loads(command.stdout.readline())
            (side.rootfs / "tmp/go").touch()
            while line["type"] != "oom":
                line = json.loads(command.stdout.readline())
            command.kill()
    assert line == {"type": "oom", "id": "c"}
