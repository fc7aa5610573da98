"""What an image has, copied into a volume: everything alike, and no link followed on either side."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from corten.core import copyup
from corten.sys.openat2 import O_PATH

Run = Callable[[], None]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = tmp_path / "source"
    made.mkdir()
    return made


@pytest.fixture
def target(tmp_path: Path) -> Path:
    made = tmp_path / "target"
    made.mkdir()
    return made


@pytest.fixture
def run(source: Path, target: Path) -> Run:
    def copy() -> None:
        fds = [os.open(source, O_PATH), os.open(target, os.O_RDONLY)]
        try:
            copyup.copy(*fds)
        finally:
            for fd in fds:
                os.close(fd)

    return copy


def test_everything_looks_alike(source: Path, target: Path, run: Run) -> None:
    (source / "d/e").mkdir(parents=True)
    (source / "d/f").write_text("hello")
    os.chmod(source / "d/f", 0o4711)
    os.utime(source / "d/f", ns=(1, 2))
    os.utime(source / "d", ns=(3, 4))
    os.chmod(source, 0o711)
    os.mkfifo(source / "p", 0o600)
    os.setxattr(source / "d/f", "user.corten", b"1")
    run()
    assert (target / "d/f").read_text() == "hello"
    found = os.stat(target / "d/f")
    assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (0o4711, 2)
    assert os.stat(target / "d").st_mtime_ns == 4
    assert stat.S_IMODE(os.stat(target).st_mode) == 0o711
    assert stat.S_ISFIFO(os.stat(target / "p").st_mode)
    assert os.getxattr(target / "d/f", "user.corten") == b"1"
    assert (target / "d/e").is_dir()


def test_names_of_one_file_stay_names_of_one_file(source: Path, target: Path, run: Run) -> None:
    (source / "a").write_text("x")
    (source / "d").mkdir()
    os.link(source / "a", source / "d/b")
    run()
    assert os.path.samefile(target / "a", target / "d/b")
    assert os.stat(target / "a").st_nlink == 2


def test_files_of_several_names_cost_no_descriptors(source: Path, target: Path, run: Run) -> None:
    (source / "d").mkdir()
    for number in range(300):
        (source / f"{number}").write_text(str(number))
        os.link(source / f"{number}", source / f"d/{number}")
    os.symlink("nowhere", source / "l")
    os.link(source / "l", source / "d/l", follow_symlinks=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 50, hard))
    try:
        run()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert all(os.path.samefile(target / f"{number}", target / f"d/{number}") for number in range(300))
    assert os.path.samestat(os.lstat(target / "l"), os.lstat(target / "d/l"))


def test_a_name_that_is_another_files_by_now_gets_no_further_names(
    source: Path, target: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (source / name).write_text("x")
        os.link(source / name, source / f"{name}2")
    monkeypatch.setattr(os, "listdir", lambda fd: ["a", "b", "a2", "b2"])
    link = copyup._Copy._link

    def swapped(copy: copyup._Copy, *args: Any) -> None:
        os.rename(target / "b", target / "a")
        link(copy, *args)

    monkeypatch.setattr(copyup._Copy, "_link", swapped)
    with pytest.raises(OSError, match="Stale"):
        run()
    monkeypatch.undo()
    assert sorted(path.name for path in target.iterdir()) == ["a"]


def test_a_link_is_copied_and_not_followed(source: Path, target: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("precious")
    before = os.stat(tmp_path / "outside")
    (source / "l").symlink_to(tmp_path / "outside")
    (source / "gone").symlink_to("/nowhere")
    os.utime(source / "l", ns=(5, 6), follow_symlinks=False)
    run()
    assert os.readlink(target / "l") == str(tmp_path / "outside")
    assert os.readlink(target / "gone") == "/nowhere"
    assert os.lstat(target / "l").st_mtime_ns == 6
    after = os.stat(tmp_path / "outside")
    assert (after.st_mode, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_mode,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )


def test_holes_stay_holes(source: Path, target: Path, run: Run) -> None:
    with open(source / "f", "wb") as file:
        file.seek(8 << 20)
        file.write(b"end")
        file.truncate(16 << 20)
    run()
    assert (target / "f").read_bytes() == (source / "f").read_bytes()
    assert os.stat(target / "f").st_blocks < 64


def test_depth_costs_no_descriptors(source: Path, target: Path, run: Run) -> None:
    deep = source
    for _ in range(900):
        deep /= "d"
    os.makedirs(deep)
    run()
    assert sum(1 for _ in os.walk(target)) == 901


@pytest.fixture
def root_fd(source: Path) -> Iterator[int]:
    fd = os.open(source, O_PATH)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("link", ["/real", "real", "../../real", "/../real"])
def test_links_of_the_image_lead_back_into_it(source: Path, root_fd: int, link: str) -> None:
    (source / "real").mkdir()
    (source / "way").symlink_to(link)
    fd = copyup.source_at(root_fd, "/way")
    assert os.path.samestat(os.fstat(fd), os.stat(source / "real"))
    os.close(fd)


def test_what_an_image_does_not_have_is_nothing(source: Path, root_fd: int) -> None:
    (source / "out").symlink_to("/usr")
    (source / "loop").symlink_to("loop")
    assert [copyup.source_at(root_fd, path) for path in ("/nope", "/out/bin", "/loop", "/../../usr")] == [-1] * 4
    (source / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        copyup.source_at(root_fd, "/file/x")


def test_a_name_that_somebody_puts_in_the_way_is_not_followed(
    source: Path, target: Path, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (source / "d").mkdir()
    (source / "d/f").write_text("x")
    (target / "d").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="exists"):
        run()
    assert not list((tmp_path / "outside").iterdir())
