"""`events` beside runc: the same keys in the same order, a line for memory that ran out, an end with the container."""

from __future__ import annotations

import json
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from corten.runtime.cgroups import CgroupPaths
from corten.runtime.events import OomWatch
from support import paths, peers, process, runtimes
from support.runtimes import Runtime

LIMIT_BYTES = 16 << 20
EATER = "while ! test -e /tmp/go; do sleep 0.05; done; busybox tail /dev/zero; echo > /tmp/gone; sleep 1000"


@contextmanager
def both_sides(folder: Path) -> Iterator[dict[str, Runtime]]:
    """Corten's runtime and runc."""
    sides = {
        "ours": Runtime(paths.COMMANDS / "corten-runtime", folder / "ours"),
        "theirs": Runtime(peers.binary("runc"), folder / "theirs"),
    }
    try:
        yield sides
    finally:
        for side in sides.values():
            side.close()


def start(runtime: Runtime, folder: Path, *words: str) -> Path:
    """A running container `c` with limits of memory and pids; its root filesystem, in which it may write."""
    bundle = runtimes.bundle(*words, folder=folder)
    bundle.config["root"]["readonly"] = False
    bundle.config["linux"]["resources"]["memory"] = {"limit": LIMIT_BYTES, "swap": LIMIT_BYTES}
    bundle.config["linux"]["resources"]["pids"] = {"limit": 50}
    bundle.save()
    runtime.detached("run", "--detach", "--bundle", str(bundle.path), "c")
    return bundle.path / "rootfs"


def shape(value: Any) -> Any:
    """Keys in their order, and kinds of values; lists by their first row."""
    if isinstance(value, dict):
        return [(key, shape(item)) for key, item in value.items()]
    return [shape(item) for item in value[:1]] if isinstance(value, list) else type(value).__name__


def test_a_sample_has_the_keys_of_runc(folder: Path) -> None:
    found = {}
    with both_sides(folder) as sides:
        for name, side in sides.items():
            start(side, folder / f"bundle-{name}", "sleep", "1000")
            text = side("events", "--stats", "c", check=True).stdout
            assert text.count("\n") == 1
            found[name] = json.loads(text)
    assert shape(found["ours"]) == shape(found["theirs"])
    data = found["ours"]["data"]
    assert data["memory"]["usage"]["limit"] == LIMIT_BYTES
    assert data["memory"]["swap"]["limit"] == LIMIT_BYTES
    assert data["pids"] == {"current": 1, "limit": 50}
    assert data["cpu"]["usage"]["total"] == sum(data["cpu"]["usage"]["percpu"]) > 0


def follow(runtime: Runtime, root: Path, *, ends_by_itself: bool) -> list[dict[str, Any]]:
    """Every line of `events` until memory has run out in `c` and it was killed."""
    argv = runtime.argv("events", "--interval", "100ms", "c")
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        try:
            lines = [json.loads(command.stdout.readline())]  # it watches from here on
            (root / "tmp/go").touch()
            while lines[-1]["type"] != "oom":
                lines.append(json.loads(command.stdout.readline()))
            lines.append(json.loads(command.stdout.readline()))
            runtime("kill", "c", "KILL", check=True)
            if ends_by_itself:
                lines += [json.loads(line) for line in command.stdout]
                assert command.wait(60) == 0
        finally:
            command.kill()
    return lines


@pytest.mark.parametrize("name", ["ours", "theirs"])
def test_memory_that_ran_out_is_told_once_and_the_container_lives_on(folder: Path, name: str) -> None:
    with both_sides(folder) as sides:
        root = start(sides[name], folder / "bundle", "sh", "-c", EATER)
        lines = follow(sides[name], root, ends_by_itself=name == "ours")
    assert [line for line in lines if line["type"] == "oom"] == [{"type": "oom", "id": "c"}]
    assert {line["type"] for line in lines} == {"stats", "oom"}
    assert all(line["id"] == "c" for line in lines)


def test_two_samples_are_an_interval_apart_and_differ(corten: Runtime, folder: Path) -> None:
    start(corten, folder / "bundle", "sh", "-c", "while :; do :; done")
    argv = corten.argv("events", "--interval", "300ms", "c")
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        used = [json.loads(command.stdout.readline())["data"]["cpu"]["usage"]["total"] for _ in range(3)]
        command.kill()
    assert used == sorted(set(used))


def test_who_waits_for_a_counter_of_a_v2_cgroup_is_woken_and_can_wait_again() -> None:
    """A cgroup without memory stands in for one with: the kernel tells changes of their files alike (kernfs)."""
    directory = process.CGROUPS / "unified" / f"{paths.mark()}events"
    directory.mkdir()
    try:
        watch = OomWatch(CgroupPaths("v2", {}, str(directory)), file_2="cgroup.events", counter="frozen")
        poll = select.poll()
        watch.register(poll)
        assert (watch.news(), poll.poll(0)) == (0, [])
        (directory / "cgroup.freeze").write_text("1")
        assert poll.poll(5000)
        assert (watch.news(), watch.news(), poll.poll(0)) == (1, 0, [])
        (directory / "cgroup.freeze").write_text("0")
        assert poll.poll(5000)
        assert watch.news() == 0
    finally:
        directory.rmdir()
    assert watch.news() == 0
