"""User namespaces made by root: maps of many ranges, with gaps, and namespaces that are joined, beside runc."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import peers, runtimes
from support.runtimes import Bundle, Runtime

FIRST = 100000
# user_namespaces(7): up to 340 lines in less than a page; the ids between the ranges stay unmapped
RANGES: dict[str, list[tuple[int, int, int]]] = {
    "one": [(0, FIRST, 65536)],
    "several, with gaps": [(0, FIRST, 10), (1000, FIRST + 500, 3), (20, FIRST + 20, 5)],
    "340": [(n, 10000 + 2 * n, 1) for n in range(340)],
}
LOOK = "cat /proc/self/uid_map /proc/self/gid_map; id; ls -ln /proc/self/status /dev/null | cut -c1-40"


@pytest.fixture
def runc(folder: Path) -> Iterator[Runtime]:
    made = Runtime(peers.binary("runc"), folder / "runc-root")
    yield made
    made.close()


def mapped(folder: Path, ranges: list[tuple[int, int, int]], *command: str) -> Bundle:
    bundle = runtimes.bundle(*command, folder=folder)
    linux: dict[str, Any] = bundle.config["linux"]
    linux["namespaces"].append({"type": "user"})
    rows = [{"containerID": inside, "hostID": host, "size": size} for inside, host, size in ranges]
    linux["uidMappings"] = linux["gidMappings"] = rows
    return bundle.save()


@pytest.mark.parametrize("name", RANGES)
def test_every_range_is_there_as_with_runc(name: str, corten: Runtime, runc: Runtime, folder: Path) -> None:
    bundle = mapped(folder / "bundle", RANGES[name], "sh", "-c", LOOK)
    bundle.config["process"]["user"] = {"uid": 1000 if name == "several, with gaps" else 0, "gid": 0}
    bundle.save()
    ours, theirs = (each("run", "-b", str(bundle.path), "c", check=True).stdout for each in (corten, runc))
    assert ours == theirs
    assert len(ours.splitlines()) == 2 * len(RANGES[name]) + 3


def test_a_map_of_too_many_ranges_is_refused_and_leaves_nothing(corten: Runtime, folder: Path) -> None:
    bundle = mapped(folder / "bundle", [(n, 10000 + 2 * n, 1) for n in range(341)], "true")
    done = corten("run", "-b", str(bundle.path), "c")
    assert done.returncode == 1
    assert "invalid argument" in done.stderr
    assert corten("list", "-q", check=True).stdout == ""


def test_a_container_joins_the_user_namespace_of_another(corten: Runtime, folder: Path) -> None:
    first = mapped(folder / "first", RANGES["several, with gaps"], "sleep", "1000")
    corten.detached("run", "-d", "-b", str(first.path), "first")
    pid = corten.state("first")["pid"]
    second = mapped(folder / "second", RANGES["several, with gaps"], "sh", "-c", "readlink /proc/self/ns/user; " + LOOK)
    second.config["linux"]["namespaces"][-1]["path"] = f"/proc/{pid}/ns/user"
    del second.config["linux"]["uidMappings"], second.config["linux"]["gidMappings"]
    (folder / "second/rootfs/bin/readlink").symlink_to("busybox")
    said = corten("run", "-b", str(second.save().path), "second", check=True).stdout.splitlines()
    assert said[0] == Path(f"/proc/{pid}/ns/user").readlink().name
    assert said[1:4] == Path(f"/proc/{pid}/uid_map").read_text().splitlines()
    assert any(line.startswith("uid=0") for line in said)
