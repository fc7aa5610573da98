"""Files that are replaced, and trees of directories that others made."""

from __future__ import annotations

import errno
import os
import posix
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from corten.launch import seccomp
from corten.sys import files

REPLACERS = pytest.mark.parametrize("replace", [files.replace, seccomp._write])


@REPLACERS
def test_threads_replace_the_same_file_at_the_same_time(
    replace: Callable[[str, bytes], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_written = threading.Barrier(2, timeout=30)
    rename = posix.rename

    def rename_together(source: str, target: str) -> None:
        both_written.wait()
        rename(source, target)

    monkeypatch.setattr(posix, "rename", rename_together)
    path = tmp_path / "file"
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda data: replace(str(path), data), (b"a" * 9, b"b" * 9)))
    assert path.read_bytes() in (b"a" * 9, b"b" * 9)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("planted", ["link", "file"])
def test_what_lies_at_the_place_of_the_temporary_file_is_never_written_to(planted: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    temporary = tmp_path / f".file.{threading.get_native_id()}"
    if planted == "link":
        temporary.symlink_to(victim)
    else:
        temporary.hardlink_to(victim)
    files.replace(str(tmp_path / "file"), b"new", 0o644)
    assert victim.read_text() == "precious"
    assert (tmp_path / "file").read_text() == "new"
    assert not (tmp_path / "file").is_symlink()
    assert not temporary.exists()


def test_a_file_that_cannot_be_written_leaves_no_temporary_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(posix, "write", full)
    with pytest.raises(OSError, match="no space"):
        files.replace(str(tmp_path / "file"), b"new")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A directory with a short branch, a link out of it, and a branch of 1200 directories."""
    base = tmp_path / "tree"
    (base / "short/leaf").mkdir(parents=True)
    (base / "short/file").touch()
    (base / "link").symlink_to("/")
    top = os.open(base, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d" * 100, dir_fd=top)
        below = os.open("d" * 100, os.O_RDONLY, dir_fd=top)
        os.close(top)
        top = below
    os.close(top)
    yield base
    for place, name in files.directories_below(str(base)):
        if name[0] == "d":
            os.rmdir(name, dir_fd=place)


class TestDirectoriesBelow:
    def test_all_are_given_children_first_with_few_descriptors(self, tree: Path) -> None:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.open("/", os.O_RDONLY)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 50, limits[1]))  # of 1200 levels; a few are others' here
        try:
            names = []
            for place, name in files.directories_below(str(tree)):
                assert not [entry for entry in os.scandir(f"/proc/self/fd/{place}/{name}") if entry.is_dir()]
                names.append(name)
                if name != "short":  # which still has a file
                    os.rmdir(name, dir_fd=place)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert sorted(names) == ["d" * 100] * 1200 + ["leaf", "short"]
        assert names.index("leaf") < names.index("short")

    def test_what_vanishes_meanwhile_is_passed_over(self, tmp_path: Path) -> None:
        for name in "abc":
            (tmp_path / name / "below").mkdir(parents=True)
        steps = files.directories_below(str(tmp_path))
        assert next(steps)[1] == "below"
        for other in tmp_path.iterdir():
            shutil.rmtree(other)
        assert len(list(steps)) == 1  # the one that it was in

    def test_a_directory_that_was_moved_ends_the_walk(self, tmp_path: Path) -> None:
        (tmp_path / "tree/a/b").mkdir(parents=True)
        (tmp_path / "elsewhere/victim").mkdir(parents=True)
        steps = files.directories_below(str(tmp_path / "tree"))
        assert next(steps)[1] == "b"
        (tmp_path / "tree/a").rename(tmp_path / "elsewhere/a")
        assert list(steps) == []

    @pytest.mark.parametrize("path", ["missing", "file", "link"])
    def test_what_is_no_directory_has_none(self, path: str, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "link").symlink_to("/usr")
        assert list(files.directories_below(str(tmp_path / path))) == []


class TestRemoveTree:
    def test_a_tree_deeper_than_the_stack_is_removed_and_what_a_link_leads_to_stays(
        self, tree: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "victim/below").mkdir(parents=True)
        (tree / "short/out").symlink_to(tmp_path / "victim")
        files.remove_tree(str(tree))
        assert not tree.exists()
        assert (tmp_path / "victim/below").exists()
        tree.mkdir()  # the fixture walks it

    def test_an_absent_one_is_fine_and_a_link_in_its_place_is_refused(self, tmp_path: Path) -> None:
        files.remove_tree(str(tmp_path / "missing"))
        (tmp_path / "victim").mkdir()
        (tmp_path / "victim/file").touch()
        (tmp_path / "link").symlink_to("victim")
        with pytest.raises(NotADirectoryError):
            files.remove_tree(str(tmp_path / "link"))
        assert (tmp_path / "victim/file").exists()


class TestMakeDirectories:
    def test_two_make_the_same_directories_at_the_same_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Containers of one new parent, in the moment between the look and the making."""
        mkdir = posix.mkdir
        path = str(tmp_path / "a/b")

        def others_are_first(name: str, mode: int) -> None:
            if name == path and (tmp_path / "a").exists():
                mkdir(name, mode)
            mkdir(name, mode)

        monkeypatch.setattr(posix, "mkdir", others_are_first)
        assert files.make_directories(f"{path}/c") == [str(tmp_path / "a"), f"{path}/c"]

    def test_a_way_through_a_dangling_link_ends_in_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("nowhere")
        with pytest.raises(FileNotFoundError):
            files.make_directories(str(tmp_path / "link/a/b"))
