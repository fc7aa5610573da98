"""Files that threads of one process write at the same time."""

from __future__ import annotations

import posix
import threading
from collections.abc import Callable
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
