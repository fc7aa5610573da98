"""Copies out of a container that are given up: who uses its tree ends before the tree does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from corten.core.inside import Trail
from corten.engine import copies
from corten.engine.copies import Copies
from corten.engine.views import View


async def test_the_thread_of_an_archive_has_ended_when_its_tree_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[str] = []

    def endless(trail: Trail, path: str, **options: object) -> Iterator[bytes]:
        try:
            while True:
                os.fstat(trail.fd)
                yield bytes(1 << 20)
        finally:
            ends.append("thread")

    class Views:
        async def open(self, container: object) -> View:
            return View("box", os.open(tmp_path, os.O_PATH), lambda view: ends.append("tree"))

    monkeypatch.setattr("corten.core.copyout.archive", endless)
    monkeypatch.setattr(copies, "container_event", lambda *args: None)
    monkeypatch.setattr(
        Copies,
        "_find",
        lambda self, ref: SimpleNamespace(record=SimpleNamespace(effective=SimpleNamespace(id_map=None))),
    )
    parts: Any = SimpleNamespace(views=Views(), bus=SimpleNamespace(publish=lambda event: None))
    archive = cast(AsyncGenerator[bytes, None], Copies(parts).archive("box", "/"))
    await anext(archive)
    await anext(archive)
    await asyncio.wait_for(archive.aclose(), 60)
    assert ends == ["thread", "tree"]
