"""Who may write a policy file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from corten.engine import policyfiles
from corten.errors import InvalidArgument


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = Path(os.path.realpath(tmp_path)) / "p.py"
    path.write_text("x = 1\n")
    path.chmod(0o644)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InvalidArgument) as caught:
        policyfiles.read(str(path))
    return caught.value.text


def test_a_file_of_ones_own_is_read(file: Path) -> None:
    assert policyfiles.load([str(file)]) == (policyfiles.PolicyFile(str(file), "x = 1\n"),)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o777])
def test_a_file_that_others_can_write_is_refused_by_name(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert refusal(file) == f"{file}: writable by others (mode {mode:04o})"


def test_a_directory_in_which_others_can_put_another_file_is_refused(file: Path) -> None:
    file.parent.chmod(0o777)
    assert refusal(file) == f"{file}: its directory {file.parent} is writable by others (mode 0777)"
    file.parent.chmod(0o1777)  # as /tmp
    assert policyfiles.read(str(file))


@pytest.mark.parametrize("whose", ["file", "directory"])
def test_what_belongs_to_somebody_else_is_refused(file: Path, whose: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = os.stat_result((0o100644, 1, 1, 1, 4321, 0, 6, 0, 0, 0))
    directory = os.stat_result((0o040755, 1, 1, 1, 4321, 0, 6, 0, 0, 0))
    if whose == "file":
        monkeypatch.setattr(os, "fstat", lambda fd: stranger)
    else:
        monkeypatch.setattr(os, "lstat", lambda path: directory)
    path = file if whose == "file" else file.parent
    assert refusal(file) == f"{path}: owned by uid 4321, not by root"


def _link(file: Path) -> Path:
    file.with_name("link.py").symlink_to(file)
    return file.with_name("link.py")


def _fifo(file: Path) -> Path:
    os.mkfifo(file.with_name("fifo"), 0o600)
    return file.with_name("fifo")


def _large(file: Path) -> Path:
    file.write_text("#" * (policyfiles.MAX_BYTES + 1))
    return file


def _binary(file: Path) -> Path:
    file.write_bytes(b"\xff\xfe")
    return file


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (_link, "a symbolic link is in the way: give "),
        (_fifo, "not a regular file"),
        (_large, "larger than 1048576 bytes"),
        (_binary, "not UTF-8"),
        (lambda file: file.with_name("absent"), "no such file or directory"),
    ],
    ids=["link", "fifo", "large", "binary", "absent"],
)
def test_what_is_no_ordinary_file_is_refused(file: Path, make: Callable[[Path], Path], text: str) -> None:
    path = make(file)
    assert str(path) in refusal(path)
    assert text in refusal(path)
