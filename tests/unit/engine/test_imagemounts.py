"""Mounts of images that are asked for, listed and ended at the same time."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from corten.core import archive, imagemounts
from corten.core.imagemounts import ImageMount
from corten.core.images import ImageStore
from corten.engine.imagemounts import ImageMounts
from corten.engine.parts import Parts
from corten.sys import mount
from support import tarballs as t


def test_a_list_leaves_a_mount_alone_that_is_being_made(
    store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.load([t.docker_archive([t.archive(t.entry(b"f"))])], store)
    mounts = ImageMounts(cast(Parts, SimpleNamespace(images=store, settings=SimpleNamespace(exec_root=str(tmp_path)))))
    points: list[str] = []
    begun, listed = threading.Event(), threading.Event()

    def attach(one: ImageMount) -> None:
        begun.set()
        listed.wait(0.3)
        points.append(one.path)

    def look() -> None:
        begun.wait(10)
        mounts._list()
        listed.set()

    monkeypatch.setattr(mount, "mount_points", lambda: list(points))
    monkeypatch.setattr(mounts, "_attach", attach)
    looking = threading.Thread(target=look)
    looking.start()
    mounts._mount("test:1", "", None)
    looking.join()
    assert [one.path for one in imagemounts.listed(store)] == points
    assert Path(points[0]).is_dir()
