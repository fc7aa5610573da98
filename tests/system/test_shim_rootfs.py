"""The container's root filesystem as a detached mount, on this kernel and by the ways of older ones."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.errors import Internal
from corten.shim import idmapped
from corten.shim.rootfs import RootMount, make_detached
from support import paths
from support.process import wait_for

OLD, NEW = (6, 1), (6, 7)
BEFORE_MAPPED, MAPPED = (6, 1), (6, 15)  # whether overlayfs takes layers that are mounted nowhere
LONG = "l" * 100


@pytest.fixture
def folder() -> Iterator[Path]:
    made = paths.scratch("rootfs")
    yield made
    shutil.rmtree(made)


def overlay(folder: Path, names: list[str]) -> RootMount:
    """Each layer has a file of its own and one that all have; the topmost is first."""
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        (folder / name / f"own{number}").write_text(name)
        (folder / name / "same").write_text(name)
    for name in ("upper", "work"):
        (folder / name).mkdir()
    escaped = (str(folder / name).replace("\\", "\\\\").replace(":", "\\:") for name in names)
    lower = "lowerdir=" + ":".join(escaped)
    return RootMount("overlay", "overlay", [lower, f"upperdir={folder}/upper", f"workdir={folder}/work"])


@pytest.mark.parametrize("kernel", [OLD, NEW])
@pytest.mark.parametrize(
    "names",
    [
        ["a", "b"],
        [f"layer{number:02}" for number in range(12)],
        [f"{LONG}{number:03}" for number in range(60)],
        [f"{LONG}/{LONG}/{LONG}/{number}" for number in range(3)],
        ["with,comma", "with:colon", "with\\backslash", "with space"],
    ],
    ids=["two", "twelve", "sixty", "long", "odd"],
)
def test_all_layers_are_seen_the_topmost_first(folder: Path, kernel: tuple[int, int], names: list[str]) -> None:
    fd = make_detached(overlay(folder, names), f"{folder}/scratch", kernel)
    try:
        root = Path(f"/proc/self/fd/{fd}")  # O_PATH: not to be read itself
        assert sorted(os.listdir(root)) == sorted([*(f"own{number}" for number in range(len(names))), "same"])
        assert (root / "same").read_text() == names[0]
        (root / "new").touch()
        assert (folder / "upper" / "new").exists()
        mounts = Path("/proc/self/mountinfo").read_text()
        assert str(folder) not in mounts
    finally:
        os.close(fd)


@pytest.mark.parametrize("kernel", [OLD, NEW])
def test_no_descriptor_of_a_layer_stays_open(folder: Path, kernel: tuple[int, int]) -> None:
    root = overlay(folder, [f"{LONG}{number:03}" for number in range(30)])
    before = len(os.listdir("/proc/self/fd"))
    os.close(make_detached(root, f"{folder}/scratch", kernel))
    assert len(os.listdir("/proc/self/fd")) <= before  # less: what an earlier test left to the collector


@pytest.mark.parametrize("kernel", [OLD, NEW])
def test_a_missing_layer_is_an_error_in_words(folder: Path, kernel: tuple[int, int]) -> None:
    root = overlay(folder, ["a"])
    shutil.rmtree(folder / "a")
    with pytest.raises(Internal, match="rootfs: overlay: "):
        make_detached(root, f"{folder}/scratch", kernel)


@pytest.fixture
def namespace() -> Iterator[str]:
    """A user namespace whose root is 100000 here."""
    keeper = subprocess.Popen(["unshare", "--user", "sleep", "1000"])
    try:
        own = os.readlink("/proc/self/ns/user")
        wait_for(lambda: os.readlink(f"/proc/{keeper.pid}/ns/user") != own, "user namespace")
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{keeper.pid}/{name}").write_text("0 100000 1000")
        yield f"/proc/{keeper.pid}/ns/user"
    finally:
        keeper.kill()
        keeper.wait()


@pytest.mark.parametrize("kernel", [BEFORE_MAPPED, MAPPED])
def test_layers_with_owners_of_a_user_namespace_are_those_of_the_disk(
    folder: Path, namespace: str, kernel: tuple[int, int]
) -> None:
    plain = overlay(folder, ["a", "b", "c"])
    root = RootMount("overlay", "overlay", [*plain.options, *idmapped.options(namespace, (100000, 100000))])
    before = len(os.listdir("/proc/self/fd"))
    fd = make_detached(root, f"{folder}/scratch", kernel)
    try:
        seen = Path(f"/proc/self/fd/{fd}")
        assert (seen / "same").read_text() == "a"
        assert (seen / "own2").stat().st_uid == 100000
        os.chown(seen / "same", 100007, 100008)  # copied up
        assert (folder / "upper" / "same").stat().st_uid == 7
        assert str(folder) not in Path("/proc/self/mountinfo").read_text()
    finally:
        os.close(fd)
    assert len(os.listdir("/proc/self/fd")) <= before
