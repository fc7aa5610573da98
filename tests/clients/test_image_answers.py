"""The corten CLI beside docker's where an answer changes the images: each has the same ones before it."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from clients.api import Api
from clients.test_corten_same import Answer, begin, end
from support import images, paths, peers
from support.engine import CortenEngine

SHARED = images.layer([images.Entry("shared", b"s" * 5000)])
_OWN = re.compile(r"\b[0-9a-f]{12}\b|^[0-9a-f]{64}$|(Less than a|\d+) seconds? ago", re.M)


@pytest.fixture(scope="module")
def engine() -> Iterator[CortenEngine]:
    """An engine that nobody else prunes."""
    with CortenEngine() as started:
        yield started


def load(engine: CortenEngine, ref: str, data: bytes) -> str:
    layers = [SHARED, images.layer([images.Entry("file", data)])]
    engine.docker("load", stdin=images.docker_archive([ref], layers, {"Cmd": ["/file"]}), check=True)
    return images.digest(images.image_config(layers, {"Cmd": ["/file"]}))


def populate(engine: CortenEngine) -> tuple[str, str]:
    """`kept:1`, a container of `used:1`, and an image whose name went to another; ids of the first and the last."""
    Api(engine.socket).ok("POST", "/containers/prune")
    for image_id in engine.docker("images", "-aq", "--no-trunc").stdout.split():
        engine.docker("rmi", "-f", image_id)
    kept, old = load(engine, "kept:1", b"kept" * 99), load(engine, "moved:1", b"old" * 100)
    load(engine, "moved:1", b"new" * 101)
    load(engine, "used:1", b"used" * 102)
    engine.docker("create", "--name", "box", "used:1", check=True)
    return kept, old


def plain(text: str) -> str:
    """Without ids, which are new each time, and ages; columns are as wide as these are."""
    return re.sub(" +", " ", _OWN.sub("<own>", text))


@pytest.mark.parametrize(
    "command",
    [
        "rmi kept:1",
        "rmi kept:1 nope moved:1",
        "rmi {kept}",
        "rmi -f used:1",
        "rmi used:1",
        "rmi --platform linux/arm64 kept:1",
        "rmi --platform linux/amd64 kept:1",
        "image rm --no-prune kept",
        "image prune -f",
        "image prune -f --filter until=2020-01-01",
        "image prune -af",
        "image prune -af --filter label!=x",
        "system prune -f",
        "system prune -af",
        "system df -v",
    ],
)
def test_both_remove_the_same_and_say_so_in_the_same_words(engine: CortenEngine, command: str) -> None:
    found: list[tuple[Answer, list[str]]] = []
    for program in (peers.docker_cli(), paths.COMMANDS / "corten"):
        kept, _ = populate(engine)
        code, out, err = end(begin(program, engine, command.replace("{kept}", kept[7:19]).split()))
        left = engine.docker("images", "-a", "--no-trunc", "--format", "{{.Repository}} {{.ID}}").stdout
        out = out.partition("\nPacked layers")[0].rstrip()  # corten's own line
        found.append(((code, plain(out), plain(err)), sorted(left.splitlines())))
    assert found[0] == found[1]


def test_a_dry_run_says_what_a_prune_then_does_and_removes_nothing(engine: CortenEngine) -> None:
    _, old = populate(engine)
    program = paths.COMMANDS / "corten"
    planned = end(begin(program, engine, ["image", "prune", "-a", "--dry-run"]))
    assert old in engine.docker("images", "-aq", "--no-trunc").stdout
    done = end(begin(program, engine, ["image", "prune", "-a", "-f"]))
    assert planned[1].splitlines()[-1].startswith("Total space that would be reclaimed: ")
    said = planned[1].replace("Would delete Images:", "Deleted Images:")
    assert sorted(said.splitlines()[:-1]) == sorted(done[1].splitlines()[:-1])
    assert planned[1].rpartition(": ")[2] == done[1].rpartition(": ")[2]
    assert old not in engine.docker("images", "-aq", "--no-trunc").stdout


def test_a_prune_by_last_use_leaves_what_was_used_since(engine: CortenEngine) -> None:
    populate(engine)
    program = paths.COMMANDS / "corten"
    early = end(begin(program, engine, ["image", "prune", "-f", "--unused-for", "1h"]))
    assert (early[0], early[1]) == (0, "Total reclaimed space: 0B\n")
    wrong = end(begin(program, engine, ["image", "prune", "-f", "--unused-for", "soon"]))
    assert wrong[0] == 1
    assert "failed to parse value as an age" in wrong[2]
    late = end(begin(program, engine, ["image", "prune", "-f", "--unused-for", "0s"]))
    assert "untagged: kept:1" in late[1]
    assert engine.docker("images", "--format", "{{.Repository}}").stdout.split() == ["used"]


def grow_older(engine: CortenEngine, ref: str, days: int) -> None:
    """As if an image had been loaded, named and used so long before; while the engine does not run."""
    columns = ", ".join(f"{name} = {name} - :ns * ({name} > 0)" for name in ("added_ns", "tagged_ns", "used_ns"))
    found = "SELECT image FROM tags WHERE reference LIKE :ref"
    with closing(sqlite3.connect(engine.data_root / "corten.db")) as database, database:
        changed = database.execute(
            f"UPDATE images SET {columns} WHERE id IN ({found})", {"ns": days * 86_400 * 10**9, "ref": f"%/{ref}"}
        )
        assert changed.rowcount == 1


def test_a_prune_by_last_use_counts_days_from_the_last_container(engine: CortenEngine) -> None:
    populate(engine)
    load(engine, "young:1", b"young" * 103)
    engine.stop()
    for ref, days in (("kept:1", 31), ("moved:1", 31), ("used:1", 31), ("young:1", 29)):
        grow_older(engine, ref, days)
    engine.start()
    engine.docker("create", "--name", "short", "moved:1", check=True)
    engine.docker("rm", "short", check=True)
    program = paths.COMMANDS / "corten"
    words = ["image", "prune", "--unused-for", "30d"]
    planned = end(begin(program, engine, [*words, "--dry-run"]))
    done = end(begin(program, engine, [*words, "-f"]))
    for answer in (planned, done):
        assert [line for line in answer[1].splitlines() if line.startswith("untagged")] == ["untagged: kept:1"]
    left = engine.docker("images", "-a", "--format", "{{.Repository}}").stdout.split()
    assert sorted(left) == ["<none>", "moved", "used", "young"]


def test_what_df_says_is_what_the_layers_take_on_the_disk(engine: CortenEngine) -> None:
    populate(engine)
    usage = Api(engine.socket).ok("GET", "/system/df")
    sizes = {"kept": 5396, "moved": 5303, "used": 5408}
    assert {one["RepoTags"][0][:-2]: one["Size"] for one in usage["Images"] if one["RepoTags"]} == sizes
    assert [one["SharedSize"] for one in usage["Images"]] == [5000] * 4
    assert usage["LayersSize"] == 5000 + 396 + 300 + 303 + 408
    root = engine.data_root / "content" / "blobs" / "sha256"
    assert usage["ContentSize"] == sum(path.stat().st_size for path in root.iterdir())
    files = (engine.data_root / "snapshots").glob("*/fs/*")
    assert usage["LayersSize"] == sum(path.stat().st_size for path in files if path.name in ("file", "shared"))
    assert json.loads((engine.data_root / "content" / "index.json").read_text())["manifests"]
