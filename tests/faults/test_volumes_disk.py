"""A disk that fills up while an image's files are copied into volumes: words, nothing half-made, and later it works."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support import images
from support.loopdisk import MIB, LoopDisk
from support.smallengine import SmallEngine

DISK_MIB = 1024
IMAGE = "corten-test/large:1"
DATA = b"x" * (16 * MIB)


@pytest.fixture
def engine() -> Iterator[SmallEngine]:
    with LoopDisk(DISK_MIB, number=7) as disk, (made := SmallEngine(disk)):
        entries = (images.directory("data"), *(images.Entry(f"data/f{number}", DATA) for number in range(3)))
        archive = images.docker_archive(
            [IMAGE], [*images.busybox_layers(), images.layer(entries)], {"Cmd": ["ls", "/data"], "Env": ["PATH=/bin"]}
        )
        made.docker("load", stdin=archive, check=True)
        yield made


@pytest.mark.slow
def test_a_disk_that_fills_up_while_volumes_are_filled_leaves_nothing_half_made(engine: SmallEngine) -> None:
    create = ("create", "--name", "made", "-v", "named:/data", "-v", "/anonymous", IMAGE)
    for leave in (8, 24, 40):
        engine.disk.fill(leave * MIB)
        done = engine.docker(*create)
        assert done.returncode != 0
        assert "no space left on device" in done.stderr.lower()
        engine.disk.empty()
        assert engine.docker("ps", "-aq").stdout == ""
        assert engine.docker("volume", "ls", "-q").stdout == ""
        assert list((engine.data_root / "volumes").iterdir()) == []
    engine.docker(*create, check=True)
    assert engine.docker("start", "-a", "made", check=True).stdout.split() == ["f0", "f1", "f2"]
