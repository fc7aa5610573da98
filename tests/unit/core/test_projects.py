"""Directories with a size: numbers, limits, and what a crash between two steps leaves."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.core.journal import Journal
from corten.core.metadata import Database
from corten.core.projects import COUNT_BITS, MARK, Projects
from corten.core.snapshots import SIZE_LABEL, Overlay
from corten.core.trash import Trash
from corten.core.volumes import VolumeStore
from corten.errors import FailedPrecondition
from corten.sys.projectquota import Project

ENGINE = "0000002a"
FIRST = MARK | 0x2A << COUNT_BITS
KIB = 1 << 10


class FakeKernel:
    """Limits by number, projects by inode."""

    def __init__(self, *, is_supported: bool = True) -> None:
        self.is_supported = is_supported
        self.limits: dict[int, int] = {}
        self.used: dict[int, int] = {}
        self.marks: dict[int, int] = {}
        self.failure: OSError | None = None

    def is_enforced(self, fd: int) -> bool:
        return self.is_supported

    def project_of(self, fd: int) -> int:
        return self.marks.get(os.fstat(fd).st_ino, 0)

    def set_project(self, fd: int, project: int) -> None:
        if self.failure:
            raise self.failure
        self.marks[os.fstat(fd).st_ino] = project

    def look(self, fd: int, project: int) -> Project:
        return Project(project, self.limits.get(project, 0), self.used.get(project, 0), 0)

    def next_project(self, fd: int, project: int) -> Project | None:
        numbers = [one for one in {*self.limits, *self.used} if one >= project]
        return self.look(fd, min(numbers)) if numbers else None

    def set_limit(self, fd: int, project: int, limit: int) -> None:
        self.limits[project] = limit

    @property
    def limited(self) -> dict[int, int]:
        return {number: limit for number, limit in self.limits.items() if limit}


class Disk:
    def __init__(self, root: Path, kernel: FakeKernel) -> None:
        for name in ("volumes", "snapshots"):
            (root / name).mkdir()
        self.root, self.kernel = root, kernel
        self.database = Database(str(root / "corten.db"))
        self.open()

    def open(self) -> None:
        """As the next start of the engine does."""
        journal = Journal(self.database)
        of = {
            name: Projects(str(self.root / name), self.database, ENGINE, self.kernel)
            for name in ("volumes", "snapshots")
        }
        self.overlay = Overlay(str(self.root / "snapshots"), self.database, journal, of["snapshots"])
        trash = Trash(str(self.root / "trash"))
        self.volumes = VolumeStore(str(self.root / "volumes"), self.database, journal, trash, projects=of["volumes"])

    def rows(self) -> list[tuple[str, str, int]]:
        return self.database.query("SELECT place, owner, id FROM projects ORDER BY id")

    def mark(self, path: str) -> int:
        return self.kernel.marks.get((self.root / path).stat().st_ino, 0)


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


@pytest.fixture
def disk(tmp_path: Path, kernel: FakeKernel) -> Iterator[Disk]:
    made = Disk(tmp_path, kernel)
    yield made
    made.database.close()


def test_a_volume_with_a_size_is_a_project_until_it_goes(disk: Disk, kernel: FakeKernel) -> None:
    disk.volumes.create("v1", options={"size": "8k"})
    disk.volumes.create("v2")
    assert disk.rows() == [("volumes", "v1", FIRST + 1)]
    assert (kernel.limited, disk.mark("volumes/v1"), disk.mark("volumes/v2")) == ({FIRST + 1: 8 * KIB}, FIRST + 1, 0)
    disk.volumes.remove("v1")
    assert (kernel.limited, disk.rows()) == ({}, [])


def test_a_snapshot_with_a_size_is_a_project_until_it_goes(disk: Disk, kernel: FakeKernel) -> None:
    disk.overlay.prepare("one", size=4 * KIB)
    disk.overlay.prepare("two")
    number = disk.overlay.stat("one").id
    assert (kernel.limited, disk.mark(f"snapshots/{number}")) == ({FIRST + 1: 4 * KIB}, FIRST + 1)
    disk.overlay.remove("one")
    disk.overlay.remove("two")
    assert (kernel.limited, disk.rows()) == ({}, [])


def test_what_is_committed_has_no_size_any_more(disk: Disk, kernel: FakeKernel) -> None:
    disk.overlay.prepare("one", size=4 * KIB)
    disk.overlay.commit("one", "layer")
    assert (kernel.limited, disk.rows(), SIZE_LABEL in disk.overlay.stat("layer").labels) == ({}, [], False)
    assert disk.overlay.repair_sizes() == []


def test_no_number_is_given_that_the_file_system_knows(disk: Disk, kernel: FakeKernel) -> None:
    kernel.limits[FIRST + 1] = KIB
    kernel.used[FIRST + 2] = 512
    disk.volumes.create("v1", options={"size": "1k"})
    disk.overlay.prepare("one", size=KIB)
    assert [row[2] for row in disk.rows()] == [FIRST + 3, FIRST + 4]


def test_no_number_is_free_any_more(disk: Disk, kernel: FakeKernel) -> None:
    kernel.used = dict.fromkeys(range(FIRST, FIRST + (1 << COUNT_BITS)), 512)
    with pytest.raises(OSError, match="no project id is free"):
        disk.volumes.create("v1", options={"size": "1k"})
    assert (disk.volumes.all(), os.listdir(disk.root / "volumes"), kernel.limited) == ([], [], {})


def test_a_directory_that_gets_no_project_leaves_nothing(disk: Disk, kernel: FakeKernel) -> None:
    kernel.failure = OSError(errno.EIO, "broken")
    with pytest.raises(OSError, match="broken"):
        disk.volumes.create("v1", options={"size": "1k"})
    with pytest.raises(OSError, match="broken"):
        disk.overlay.prepare("one", size=KIB)
    assert (kernel.limited, disk.rows(), disk.overlay.all(), disk.volumes.all()) == ({}, [], [], [])


def test_a_row_without_an_owner_loses_its_limit(disk: Disk, kernel: FakeKernel) -> None:
    disk.database.query("SELECT 1")
    with disk.database.transaction() as tx:
        tx.execute("INSERT INTO projects VALUES ('snapshots', '77', ?)", (FIRST + 9,))
    kernel.limits[FIRST + 9] = KIB
    disk.open()
    assert "no record" in disk.overlay.repair_sizes()[0]
    assert (kernel.limited, disk.rows()) == ({}, [])


def test_a_limit_without_a_row_goes_unless_something_counts_for_it(disk: Disk, kernel: FakeKernel) -> None:
    kernel.limits = {FIRST + 3: KIB, FIRST + 4: KIB, MARK - 1: KIB, FIRST + (1 << COUNT_BITS): KIB}
    kernel.used[FIRST + 4] = 512
    others = {number: KIB for number in kernel.limits if number != FIRST + 3}
    assert len(disk.volumes.repair()) == 1
    assert kernel.limited == others


def test_lost_rows_and_limits_come_back_from_the_directories(disk: Disk, kernel: FakeKernel) -> None:
    disk.volumes.create("v1", options={"size": "8k"})
    disk.overlay.prepare("one", size=4 * KIB)
    rows, limits = disk.rows(), dict(kernel.limits)
    with disk.database.transaction() as tx:
        tx.execute("DELETE FROM projects")
    kernel.limits.clear()
    disk.open()
    assert disk.volumes.repair() + disk.overlay.repair_sizes() == []
    assert (disk.rows(), kernel.limits) == (rows, limits)


def test_of_a_volume_that_was_copied_from_elsewhere_each_start_says_that_its_size_is_not_enforced(
    disk: Disk, kernel: FakeKernel
) -> None:
    """Its directories hand no project down: a number for the topmost would count nothing."""
    disk.volumes.create("v1", options={"size": "8k"})
    kernel.marks.clear()
    kernel.used[FIRST + 1] = 512  # somebody else's now
    for _ in range(2):
        disk.open()
        assert disk.volumes.repair() == ["volumes/v1: its size is not enforced: its files have lost their project"]
        assert (disk.mark("volumes/v1"), kernel.limited, disk.rows()) == (0, {}, [])


def test_a_directory_with_the_project_of_another_of_the_same_name_does_not_take_it(
    disk: Disk, kernel: FakeKernel
) -> None:
    disk.overlay.prepare("one", size=4 * KIB)
    disk.volumes.create("v1", options={"size": "8k"})
    with disk.database.transaction() as tx:
        tx.execute("DELETE FROM projects WHERE place = 'volumes'")
        tx.execute("UPDATE projects SET owner = 'v1'")  # of snapshots
    kernel.marks[(disk.root / "volumes/v1").stat().st_ino] = FIRST + 1
    assert "its size is not enforced" in disk.volumes.repair()[0]
    assert disk.rows() == [("snapshots", "v1", FIRST + 1)]


def test_a_lost_directory_with_a_size_is_made_again_with_it(disk: Disk, kernel: FakeKernel) -> None:
    disk.volumes.create("v1", options={"size": "8k"})
    disk.volumes.discard(disk.volumes.take("v1", 0))
    assert disk.volumes.repair() == ["volume v1: its directory is gone: it is empty now"]
    assert disk.mark("volumes/v1") == FIRST + 1
    assert kernel.limited == {FIRST + 1: 8 * KIB}


def test_without_project_quotas_there_are_no_sizes(tmp_path: Path) -> None:
    disk = Disk(tmp_path, FakeKernel(is_supported=False))
    assert not disk.volumes.can_limit
    with pytest.raises(FailedPrecondition):
        disk.overlay.prepare("one", size=KIB)
    disk.volumes.create("v1", options={"size": "8k"})  # an older disk is back: the next start says so
    assert disk.volumes.repair() == ["volumes/v1: its size is not enforced: no project quotas here"]
    disk.volumes.remove("v1")
    disk.database.close()
