"""Containers and volumes with a size, on XFS with pquota and ext4 with prjquota."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corten.sys import projectquota
from support.guestlook import IMAGE, inspect

MIB = 1 << 20
ENGINE_IDS = range(1 << 30, 1 << 31)
FULL = ("No space left on device", "Disk quota exceeded")


def limits(engine: Any) -> dict[int, int]:
    """Projects of engines with a limit on its file system, and their limits in bytes."""
    found: dict[int, int] = {}
    fd = os.open(engine.mount, os.O_RDONLY | os.O_DIRECTORY)
    try:
        one = projectquota.next_project(fd, ENGINE_IDS.start)
        while one is not None and one.id in ENGINE_IDS:
            if one.limit:
                found[one.id] = one.limit
            one = projectquota.next_project(fd, one.id + 1)
    finally:
        os.close(fd)
    return found


def write(engine: Any, name: str, path: str, mib: int) -> tuple[int, str]:
    """dd in a running container."""
    done = engine.docker("exec", name, "dd", "if=/dev/zero", f"of={path}", "bs=1M", f"count={mib}")
    return done.returncode, done.stderr


@pytest.fixture(autouse=True)
def clean(engine: Any) -> Iterator[None]:
    """A test that fails leaves nothing to the next one."""
    yield
    if engine.folder.exists():
        for kind, listing in (("rm", ("ps", "-aq")), ("volume", ("volume", "ls", "-q"))):
            words = engine.docker(*listing).stdout.split()
            if words:
                engine.docker(*(("rm", "-fv") if kind == "rm" else ("volume", "rm")), *words)


def database(engine: Any) -> sqlite3.Connection:
    return sqlite3.connect(engine.data_root / "corten.db")


@pytest.mark.slow
def test_a_container_stops_at_its_size_and_the_engine_does_not(engine: Any) -> None:
    run = ("run", "-d", "--name", "small", "--storage-opt", "size=20m", IMAGE, "sleep", "1000")
    engine.docker(*run, check=True)
    assert inspect(engine, "small")["HostConfig"]["StorageOpt"] == {"size": "20m"}
    assert list(limits(engine).values()) == [20 * MIB]
    assert write(engine, "small", "/first", 10)[0] == 0
    code, words = write(engine, "small", "/second", 20)
    assert (code, any(text in words for text in FULL)) == (1, True), words
    assert "20.0M" in engine.docker("exec", "small", "df", "-h", "/").stdout
    done = engine.docker("run", "--name", "other", IMAGE, "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=30")
    assert done.returncode == 0, done.stderr
    assert engine.docker("exec", "small", "rm", "/first", "/second").returncode == 0
    assert write(engine, "small", "/again", 10)[0] == 0
    assert engine.docker("restart", "-t", "0", "small").returncode == 0
    assert write(engine, "small", "/more", 20)[0] != 0
    engine.docker("rm", "-f", "small", "other", check=True)
    assert limits(engine) == {}


@pytest.mark.slow
def test_a_volume_stops_at_its_size_and_what_is_copied_up_counts(engine: Any) -> None:
    engine.docker("volume", "create", "-o", "size=10m", "limited", check=True)
    assert json.loads(engine.docker("volume", "inspect", "limited").stdout)[0]["Options"] == {"size": "10m"}
    run = ("run", "-d", "--name", "with", "-v", "limited:/etc", "-v", "free:/free", IMAGE, "sleep", "1000")
    engine.docker(*run, check=True)
    assert "root" in engine.docker("exec", "with", "cat", "/etc/passwd").stdout
    (number,) = limits(engine)
    fd = os.open(engine.mount, os.O_RDONLY)
    try:
        assert projectquota.look(fd, number).inodes > 3
    finally:
        os.close(fd)
    code, words = write(engine, "with", "/etc/big", 12)
    assert (code, any(text in words for text in FULL)) == (1, True), words
    assert write(engine, "with", "/free/big", 12)[0] == 0
    engine.docker("rm", "-f", "with", check=True)
    assert list(limits(engine)) == [number]
    engine.docker("volume", "rm", "limited", "free", check=True)
    assert limits(engine) == {}


@pytest.mark.slow
def test_a_container_does_not_get_out_of_its_size_by_the_ioctls(engine: Any) -> None:
    engine.docker("volume", "create", "-o", "size=10m", "cell", check=True)
    program = ("-v", "/extra/project:/project:ro")
    tries = "for p in / /d /f /v; do for w in 0 7 high clear; do echo $p $w $(/project $p $w); done; done"
    script = f"mkdir /d; echo x > /f; {tries}"
    for more in (("--storage-opt", "size=20m"), ()):
        done = engine.docker("run", "--rm", *more, "-v", "cell:/v", *program, IMAGE, "sh", "-c", script)
        told = [line.split() for line in done.stdout.splitlines()]
        assert [words[-1] for words in told] == ["1"] * 16, done.stdout + done.stderr
    # why the profile says it: without one it is a matter of owning the file
    bare = ("--security-opt", "seccomp=unconfined", "-v", "cell:/v", *program)
    done = engine.docker("run", "--rm", *bare, IMAGE, "sh", "-c", "echo x > /v/f; /project /v/f 7")
    assert done.stdout == "0\n", done.stderr
    engine.docker("volume", "rm", "cell", check=True)
    assert limits(engine) == {}


@pytest.mark.slow
def test_cp_into_it_counts_and_what_is_committed_of_it_has_no_size(engine: Any, tmp_path: Path) -> None:
    engine.docker("run", "-d", "--name", "cell", "--storage-opt", "size=20m", IMAGE, "sleep", "1000", check=True)
    big, little = tmp_path / "big", tmp_path / "little"
    big.write_bytes(bytes(30 * MIB))
    little.write_bytes(bytes(5 * MIB))
    assert engine.docker("cp", str(little), "cell:/little").returncode == 0
    running = engine.docker("cp", str(big), "cell:/big")
    assert running.returncode != 0, running.stdout
    engine.docker("exec", "cell", "rm", "-f", "/big", check=True)
    engine.docker("commit", "cell", "grown", check=True)
    done = engine.docker("run", "--rm", "grown", "sh", "-c", "ls /little && dd if=/dev/zero of=/x bs=1M count=30")
    assert done.returncode == 0, done.stderr
    engine.docker("rm", "-f", "cell", check=True)
    engine.docker("rmi", "grown", check=True)
    assert limits(engine) == {}


@pytest.mark.slow
def test_what_a_kill_left_of_sizes_is_put_right_by_the_next_start(engine: Any) -> None:
    engine.docker("create", "--name", "kept", "--storage-opt", "size=20m", IMAGE, "sleep", "1000", check=True)
    engine.docker("volume", "create", "-o", "size=10m", "kept", check=True)
    before = limits(engine)
    assert sorted(before.values()) == [10 * MIB, 20 * MIB]
    engine.kill9()
    fd = os.open(engine.mount, os.O_RDONLY)
    try:  # a limit whose row is lost, of a number that the engine would give; and limits that are gone
        leftover = max(before) + 5
        projectquota.set_limit(fd, leftover, MIB)
        for number in before:
            projectquota.set_limit(fd, number, 0)
    finally:
        os.close(fd)
    with database(engine) as rows:  # an older copy of the database, and a row of what was never made
        rows.execute("DELETE FROM projects WHERE place = 'volumes'")
        rows.execute("INSERT INTO projects VALUES ('snapshots', '99999', ?)", (max(before) + 6,))
    engine.start()
    assert limits(engine) == before
    with database(engine) as rows:
        assert sorted(number for (number,) in rows.execute("SELECT id FROM projects")) == sorted(before)
    engine.docker("start", "kept", check=True)
    assert write(engine, "kept", "/big", 30)[0] != 0
    engine.docker("rm", "-f", "kept", check=True)
    engine.docker("volume", "rm", "kept", check=True)
    assert limits(engine) == {}


@pytest.mark.slow
def test_the_size_of_the_daemons_file_is_that_of_containers_that_name_none(engine: Any) -> None:
    engine.configure(**{"storage-opts": ["overlay2.size=30m"]})
    engine.restart()
    try:
        engine.docker("create", "--name", "silent", IMAGE, "true", check=True)
        engine.docker("create", "--name", "own", "--storage-opt", "size=15m", IMAGE, "true", check=True)
        assert sorted(limits(engine).values()) == [15 * MIB, 30 * MIB]
        told = engine.corten("run", "--explain", IMAGE, "true", check=True).stdout
        (line,) = [line.split() for line in told.splitlines() if line.startswith("HostConfig.StorageOpt")]
        assert (line[1], "30m" in " ".join(line[2:])) == ("daemon.json", True)
        engine.docker("rm", "silent", "own", check=True)
    finally:
        engine.configure()
        engine.restart()
    assert limits(engine) == {}


@pytest.mark.slow
def test_wrong_sizes_are_refused_in_dockerds_words(engine: Any) -> None:
    for option, words in (("size=x", "invalid size: 'x'"), ("other=1", "Unknown option other")):
        done = engine.docker("create", "--storage-opt", option, IMAGE, "true")
        assert (done.returncode, words in done.stderr) == (1, True), done.stderr
    done = engine.docker("volume", "create", "-o", "size=x", "wrong")
    assert (done.returncode, "invalid size: 'x'" in done.stderr) == (1, True), done.stderr


@pytest.mark.slow
def test_zz_the_end_of_the_engine_leaves_no_limit(engine: Any) -> None:
    engine.docker("create", "--storage-opt", "size=20m", IMAGE, "true", check=True)
    engine.docker("volume", "create", "-o", "size=10m", check=True)
    assert len(limits(engine)) == 2
    assert engine.destroy() == []
    assert limits(engine) == {}
