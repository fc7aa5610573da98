"""The data root: modes, lock, engine id."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from corten.core.dataroot import open_data_root, write_durably
from corten.errors import Conflict, Internal


def test_the_data_root_has_an_id_and_closed_doors(tmp_path: Path) -> None:
    root = open_data_root(str(tmp_path / "data"))
    assert re.fullmatch("[0-9a-f]{8}", root.engine_id)
    modes = {name: stat.S_IMODE(os.stat(root.join(name)).st_mode) for name in ("", "content", "snapshots", "volumes")}
    assert modes == {"": 0o710, "content": 0o700, "snapshots": 0o710, "volumes": 0o701}
    root.close()
    again = open_data_root(str(tmp_path / "data"))
    assert again.engine_id == root.engine_id
    again.close()


def test_a_second_engine_is_refused_by_name(tmp_path: Path) -> None:
    root = open_data_root(str(tmp_path))
    code = f"from corten.core.dataroot import open_data_root; open_data_root({str(tmp_path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, env={"PYTHONPATH": "src"}
    )
    comm = Path("/proc/self/comm").read_text().strip()
    assert f"Conflict: data root {tmp_path} is in use by {comm} (pid {os.getpid()})" in done.stderr
    with pytest.raises(Conflict):
        open_data_root(str(tmp_path))
    root.close()
    open_data_root(str(tmp_path)).close()


def test_the_lock_is_not_inherited(tmp_path: Path) -> None:
    root = open_data_root(str(tmp_path))
    assert not os.get_inheritable(root.lock_fd)
    root.close()


def test_an_engine_id_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "engine-id").write_text("x;rm -rf")
    with pytest.raises(Internal, match="not an engine id"):
        open_data_root(str(tmp_path))


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_durably(str(path), b"one")
    write_durably(str(path), b"two", 0o600)
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["f"]
