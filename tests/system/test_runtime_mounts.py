"""Mounts of a configuration beside runc: every option word that it lists, and what a container's mountinfo says of it.

Both run in a mount namespace of their own, in which `source` is a tmpfs with another one, `noexec`, below it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corten.launch import options
from support import paths, peers, runtimes

OURS = paths.COMMANDS / "corten-runtime"
PREPARE = 'mount -t tmpfs src "$1"; mkdir "$1/sub"; mount -t tmpfs -o noexec sub "$1/sub"; shift; exec "$@"'
PRIVATE = ("unshare", "--mount", "--propagation", "private", "sh", "-ec", PREPARE, "sh")

# words that runc 1.1 cannot do, or passes over in silence, by kind of mount
RUNC_FAILS = {
    ("tmpfs", "defaults"), ("tmpfs", "bind"), ("tmpfs", "rbind"), ("bind", "ratime"), ("rbind", "ratime"),
    ("bind", "rnostrictatime"), ("rbind", "rnostrictatime"),
    *[(kind, "remount") for kind in ("tmpfs", "bind", "rbind")],
}  # fmt: skip
# of a new mount, which may have mounts below it later: the specification makes no difference, runc has it for binds
RUNC_PASSES_OVER = {
    "rnoatime", "rnodev", "rnodiratime", "rnoexec", "rnosuid", "rnosymfollow", "rro", "rstrictatime",
}  # fmt: skip
WE_REFUSE = {("bind", "tmpcopyup"), ("rbind", "tmpcopyup")}


def mount(destination: str, type: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": type, "source": source, "options": list(options)}


class Side:
    """One runtime with a bundle; `mountinfo` is what the container says of mounts below /m."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.program = program
        self.folder = folder
        self.source = folder.parent / "source"

    def run(self, *mounts: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        bundle = runtimes.bundle("cat", "/proc/self/mountinfo", folder=self.folder / "bundle")
        (self.folder / "bundle/rootfs/m").mkdir(exist_ok=True)
        bundle.config["root"]["readonly"] = False
        bundle.config["mounts"] += mounts
        bundle.save()
        words = [str(self.program), "--root", str(self.folder / "root"), "run", "-b", str(bundle.path), "C"]
        argv = [*PRIVATE, str(self.source), *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False)

    def mountinfo(self, *mounts: dict[str, Any]) -> dict[str, str]:
        """Mount point → root, options, type, source, file system's options (proc(5)); peer groups without numbers."""
        done = self.run(*mounts)
        assert done.returncode == 0, done.stderr
        found = {}
        for line in done.stdout.splitlines():
            mine, _, fs = line.partition(" - ")
            fields = mine.split()
            if fields[4].startswith("/m"):
                tags = [re.sub(r"\d+", "N", tag) for tag in fields[6:]]
                found[fields[4]] = " ".join([fields[3], fields[5], *tags, "-", fs])
        return found

    def error(self, *mounts: dict[str, Any]) -> str:
        done = self.run(*mounts)
        assert done.returncode != 0, done.stdout
        return done.stderr


class Beside:
    """Both runtimes."""

    def __init__(self, folder: Path) -> None:
        (folder / "source").mkdir(parents=True)
        self.source = str(folder / "source")
        self.ours = Side(OURS, folder / "ours")
        self.theirs = Side(peers.binary("runc"), folder / "theirs")

    def same(self, *mounts: dict[str, Any]) -> dict[str, str]:
        """The mounts below /m, the same with both."""
        ours = self.ours.mountinfo(*mounts)
        assert ours == self.theirs.mountinfo(*mounts)
        return ours


@pytest.fixture(scope="module")
def beside() -> Iterator[Beside]:
    folder = paths.scratch("mounts")
    yield Beside(folder)
    shutil.rmtree(folder)
    runtimes.remove_cgroups()


def words_of_runc() -> list[str]:
    listed: list[str] = json.loads(subprocess.check_output([peers.binary("runc"), "features"]))["mountOptions"]
    return sorted({*listed, *options.SUPERBLOCK})


def with_word(beside: Beside, kind: str, word: str) -> dict[str, Any]:
    if kind == "tmpfs":
        return mount(f"/m/{kind}.{word}", "tmpfs", "t", word, "size=64k")
    return mount(f"/m/{kind}.{word}", "bind", beside.source, kind, word)


@pytest.mark.parametrize("kind", ["tmpfs", "bind", "rbind"])
def test_every_word_that_runc_lists_makes_the_mount_that_runc_makes(beside: Beside, kind: str) -> None:
    words = [word for word in words_of_runc() if (kind, word) not in RUNC_FAILS | WE_REFUSE]
    if kind == "tmpfs":
        words = [word for word in words if word not in RUNC_PASSES_OVER]
    found = beside.same(*[with_word(beside, kind, word) for word in words])
    assert len(found) >= len(words) >= 50


def test_recursive_word_on_a_new_mount_holds_for_it(beside: Beside) -> None:
    found = beside.ours.mountinfo(*[with_word(beside, "tmpfs", word) for word in sorted(RUNC_PASSES_OVER)])
    plain = beside.ours.mountinfo(*[with_word(beside, "tmpfs", word[1:]) for word in sorted(RUNC_PASSES_OVER)])
    assert list(found.values()) == list(plain.values())


def test_words_that_runc_fails_on_work_or_are_refused(beside: Beside) -> None:
    done = beside.ours.mountinfo(
        with_word(beside, "tmpfs", "defaults"), with_word(beside, "bind", "ratime"), with_word(beside, "bind", "rnodev")
    )
    assert done["/m/tmpfs.defaults"] == "/ rw,relatime - tmpfs t rw,size=64k"
    assert done["/m/bind.ratime"] == "/ rw,relatime - tmpfs src rw"
    assert "tmpcopyup is for tmpfs alone" in beside.ours.error(with_word(beside, "bind", "tmpcopyup"))
    bind = mount("/m/x", "bind", beside.source, "size=1m")
    assert "bind mounts cannot have file system options (size=1m)" in beside.ours.error(bind)


class TestRemount:
    """A mount that an earlier entry made, changed."""

    @pytest.mark.parametrize(
        ("before", "words"),
        [
            ([], ["ro"]),
            ([], ["size=128k", "noexec"]),
            ([], ["sync"]),
            (["nosuid", "nodev"], []),
            (["noatime"], ["nodiratime"]),
            ([], ["strictatime"]),
            (["noatime", "nodiratime"], ["nosuid"]),
        ],
        ids=str,
    )
    def test_is_that_of_runc(self, beside: Beside, before: list[str], words: list[str]) -> None:
        found = beside.same(
            mount("/m/x", "tmpfs", "t", "size=64k", *before), mount("/m/x", "tmpfs", "t", "remount", *words)
        )
        assert len(found) == 1

    def test_of_a_bind_leaves_the_mounts_below(self, beside: Beside) -> None:
        again = mount("/m/x", "bind", beside.source, "bind", "remount", "ro")
        found = beside.same(mount("/m/x", "bind", beside.source, "rbind", "nodev"), again)
        assert found == {
            "/m/x": "/ ro,relatime - tmpfs src rw",
            "/m/x/sub": "/ rw,noexec,relatime - tmpfs sub rw",
        }

    def test_never_changes_a_file_system_of_the_host(self, beside: Beside) -> None:
        bind = mount("/m/x", "bind", beside.source, "rbind")
        text = beside.ours.error(bind, mount("/m/x", "none", "t", "remount", "size=1m"))
        assert "size=1m would change a file system that others use, too" in text
        found = beside.ours.mountinfo(bind, mount("/m/x", "none", "t", "remount", "ro"))
        assert found["/m/x"] == "/ ro,relatime - tmpfs src rw"
        # runc makes the file system itself read-only, for everybody who has it
        assert beside.theirs.mountinfo(bind, mount("/m/x", "none", "t", "remount", "ro"))["/m/x"].endswith("src ro")

    def test_of_what_is_no_mount_is_an_error(self, beside: Beside) -> None:
        assert "remount /m: invalid argument" in beside.ours.error(mount("/m", "tmpfs", "t", "remount", "ro"))
        assert "invalid argument" in beside.theirs.error(mount("/m", "tmpfs", "t", "remount", "ro"))


@pytest.mark.parametrize("words", [["ro"], ["nosuid", "noexec"]], ids=str)
def test_type_cgroup2_mounts_the_version_2_hierarchy(beside: Beside, words: list[str]) -> None:
    found = beside.same(mount("/m/x", "cgroup2", "cgroup2", *words))
    assert found["/m/x"].startswith(f"/ {'ro' if words == ['ro'] else 'rw'}")
