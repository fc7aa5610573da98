"""Who has a volume, which are made for a container, and what goes with it; and those of which nobody knows."""

from __future__ import annotations

import os
from collections.abc import Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from corten.core.journal import Journal
from corten.core.metadata import Database
from corten.core.trash import Trash
from corten.core.volumes import VolumeStore
from corten.engine import localdriver
from corten.engine.mountspec import MountPoint
from corten.engine.volumes import ANONYMOUS_LABEL, Volumes
from corten.errors import Conflict, CortenError, Internal, InvalidArgument, NotFound, Unavailable


class Parts:
    """Those that volumes need; `told` are the events."""

    def __init__(self, root: Path) -> None:
        (root / "volumes").mkdir()
        self.database = Database(str(root / "corten.db"))
        self.journal = Journal(self.database)
        self.volumes = VolumeStore(str(root / "volumes"), self.database, self.journal, Trash(str(root / "trash")))
        self.images = None
        self.roster: list[Any] = []
        self.unreadable: dict[str, bytes] = {}
        self.told: list[tuple[str, str]] = []
        self.bus = SimpleNamespace(publish=lambda event: self.told.append((event.action, event.id)))
        self.later: list[Coroutine[Any, Any, None]] = []
        self.run_later = self.later.append
        self.synced = 0

    def publish_after_waiters(self, event: Any) -> None:
        self.bus.publish(event)

    def sync(self) -> None:
        self.synced += 1

    def hold(self, name: str, *points: MountPoint) -> Any:
        """A container with these mounts."""
        effective = SimpleNamespace(mounts=points)
        container = SimpleNamespace(id=name, record=SimpleNamespace(effective=effective))
        self.roster.append(container)
        return container

    async def settle(self) -> None:
        while self.later:
            await self.later.pop()


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    made = Parts(tmp_path)
    yield made
    for work in made.later:
        work.close()
    made.database.close()


@pytest.fixture
def volumes(parts: Parts) -> Volumes:
    return Volumes(parts)  # type: ignore[arg-type]


def point(name: str, **fields: Any) -> MountPoint:
    return MountPoint(kind="volume", name=name, target=f"/{name}", driver=fields.pop("driver", "local"), **fields)


def names(answer: Any) -> list[str]:
    return [row["Name"] for row in answer["Volumes"]]


# The API


async def test_a_volume_is_made_once_and_is_the_answer_then(volumes: Volumes, parts: Parts) -> None:
    made = await volumes.create("data", "local", None, {"a": "b"})
    again = await volumes.create("data", "", {"type": "tmpfs", "device": "tmpfs"}, {"c": "d"})
    assert (made, made["Labels"], made["Options"]) == (again, {"a": "b"}, None)
    assert (parts.told, parts.synced) == ([("create", "data")], 2)


async def test_a_volume_without_a_name_is_labelled_as_anonymous(volumes: Volumes) -> None:
    made = await volumes.create("", "", None, None)
    assert (len(made["Name"]), made["Labels"]) == (64, {ANONYMOUS_LABEL: ""})


@pytest.mark.parametrize(
    ("name", "driver", "options", "kind", "text"),
    [
        ("data", "x", None, NotFound, 'create data: error looking up volume plugin x: plugin "x" not found'),
        ("a/b", "", None, InvalidArgument, '"a/b" includes invalid characters for a local volume name'),
        ("data", "", {"x": "y"}, InvalidArgument, 'create data: invalid option: "x"'),
        ("data", "", {"size": "1g"}, InvalidArgument, "create data: quota size requested but no quota support"),
    ],
)
async def test_what_cannot_be_is_refused_and_nothing_is_made(
    volumes: Volumes, parts: Parts, name: str, driver: str, options: Any, kind: type[CortenError], text: str
) -> None:
    with pytest.raises(kind) as caught:
        await volumes.create(name, driver, options, None)
    assert text in caught.value.text
    assert (parts.volumes.all(), parts.told) == ([], [])


async def test_a_place_that_cannot_be_made_is_told_in_dockerds_words(volumes: Volumes, parts: Parts) -> None:
    Path(parts.volumes.directory("data")).write_text("a file")
    with pytest.raises(Internal, match=r"create data: error while creating volume root path 'mkdir .*/data: "):
        await volumes.create("data", "", None, None)
    assert parts.volumes.all() == []


async def test_a_list_is_sifted_by_name_label_driver_and_use(volumes: Volumes, parts: Parts) -> None:
    for name, labels in (("one", {"a": "b"}), ("two", None), ("three", {"a": ""})):
        await volumes.create(name, "", None, labels)
    parts.hold("box", point("two"))
    assert names(await volumes.rows({})) == ["one", "three", "two"]
    assert names(await volumes.rows({"label": ["a"]})) == ["one", "three"]
    assert names(await volumes.rows({"label": ["a=b"]})) == ["one"]
    assert names(await volumes.rows({"name": ["t"]})) == ["three", "two"]
    assert names(await volumes.rows({"driver": ["other"]})) == []
    assert names(await volumes.rows({"dangling": ["true"]})) == ["one", "three"]
    assert names(await volumes.rows({"dangling": ["false"]})) == ["two"]


async def test_a_volume_in_use_is_not_removed_and_a_free_one_is(volumes: Volumes, parts: Parts) -> None:
    for name in ("free", "taken"):
        await volumes.create(name, "", None, None)
    parts.hold("box", point("taken"))
    with pytest.raises(Conflict, match=r"remove taken: volume is in use - \[box\]"):
        await volumes.remove("taken", force=True)
    await volumes.remove("free", force=False)
    assert [one.name for one in parts.volumes.all()] == ["taken"]
    assert not os.path.exists(parts.volumes.directory("free"))
    with pytest.raises(NotFound, match="get free: no such volume"):
        await volumes.remove("free", force=False)
    await volumes.remove("free", force=True)


async def test_a_prune_takes_anonymous_ones_that_nobody_has(volumes: Volumes, parts: Parts) -> None:
    free = (await volumes.create("", "", None, None))["Name"]
    held = (await volumes.create("", "", None, None))["Name"]
    await volumes.create("named", "", None, {"keep": "yes"})
    await volumes.create("elsewhere", "", {"type": "tmpfs", "device": "tmpfs"}, None)
    Path(parts.volumes.mountpoint(free), "f").write_bytes(bytes(5000))
    parts.hold("box", point(held))
    dry = await volumes.prune({}, dry_run=True)
    assert await volumes.prune({}) == dry
    assert (dry["VolumesDeleted"], dry["SpaceReclaimed"] >= 5000) == ([free], True)
    assert await volumes.prune({}) == {"VolumesDeleted": None, "SpaceReclaimed": 0}
    assert (await volumes.prune({"all": ["1"], "label!": ["keep"]}))["VolumesDeleted"] is None
    assert (await volumes.prune({"all": ["1"]}))["VolumesDeleted"] == ["named"]
    assert sorted(one.name for one in parts.volumes.all()) == sorted([held, "elsewhere"])


async def test_a_dry_prune_counts_those_as_gone_that_would_go(volumes: Volumes, parts: Parts) -> None:
    name = (await volumes.create("", "", None, None))["Name"]
    parts.hold("box", point(name))
    assert (await volumes.prune({}, dry_run=True, leaving={"box"}))["VolumesDeleted"] == [name]
    assert (await volumes.prune({}, leaving={"box"}))["VolumesDeleted"] is None


async def test_the_size_of_one_that_is_removed_meanwhile_is_nothing(volumes: Volumes, parts: Parts) -> None:
    await volumes.create("gone", "", None, None)
    parts.volumes.discard(parts.volumes._trash.take(parts.volumes.path, "gone"))
    assert [row["UsageData"]["Size"] for row in await volumes.usage()] == [0]
    assert (await volumes.prune({"all": ["true"]}, dry_run=True))["SpaceReclaimed"] == 0


# Containers


async def test_those_of_a_container_are_made_together_and_known_by_place(volumes: Volumes, parts: Parts) -> None:
    await volumes.create("old", "", None, {"kept": ""})
    parts.told.clear()
    wanted = [point("old", labels={"other": ""}), point("new", labels={"a": "b"}), point("anon", is_anonymous=True)]
    points, new = volumes.make_for([*wanted, point("new")], "box")
    assert new == ["new", "anon"]
    assert [one.source for one in points] == [parts.volumes.mountpoint(one.name) for one in points]
    labels = {one.name: one.labels for one in parts.volumes.all()}
    assert labels == {"old": {"kept": ""}, "new": {"a": "b"}, "anon": {ANONYMOUS_LABEL: ""}}
    assert parts.told == [("create", "new"), ("create", "anon")]
    assert [one.data for one in parts.journal.entries()] == [{"owner": "box"}] * 2
    parts.volumes.settle(new)
    assert parts.journal.entries() == []


@pytest.mark.parametrize(
    ("last", "text"),
    [
        (point("xx", driver="other"), 'create xx: error looking up volume plugin other: plugin "other" not found'),
        (point("old", driver="other"), 'get old: plugin "other" not found'),
        (point("xx", driver_options={"o": "ro"}), 'create xx: missing required option: "device"'),
        (point("-x"), "includes invalid characters"),
    ],
)
async def test_one_that_cannot_be_made_leaves_none_of_the_others(
    volumes: Volumes, parts: Parts, last: MountPoint, text: str
) -> None:
    await volumes.create("old", "", None, None)
    with pytest.raises(CortenError) as caught:
        volumes.make_for([point("new"), last], "box")
    assert text in caught.value.text
    assert [one.name for one in parts.volumes.all()] == ["old"]
    assert parts.told == [("create", "old")]


async def test_those_of_a_container_that_was_not_made_go_again(volumes: Volumes, parts: Parts) -> None:
    _, new = volumes.make_for([point("one"), point("two")], "box")
    parts.hold("other", point("two"))  # which was quicker
    volumes.unmake(new)
    await parts.settle()
    assert [one.name for one in parts.volumes.all()] == ["two"]
    assert parts.journal.entries() == []


async def test_anonymous_ones_go_with_the_last_container_that_has_them(volumes: Volumes, parts: Parts) -> None:
    points, _ = volumes.make_for([point("anon", is_anonymous=True), point("named")], "box")
    first, second = parts.hold("first", *points), parts.hold("second", *points)
    parts.roster.remove(first)
    volumes.drop_forgotten(volumes.forget_anonymous(first))
    assert len(parts.volumes.all()) == 2
    parts.roster.remove(second)
    volumes.drop_forgotten(volumes.forget_anonymous(second))
    assert volumes.forget_anonymous(second) == []
    await parts.settle()
    assert [one.name for one in parts.volumes.all()] == ["named"]
    assert parts.told[-1] == ("destroy", "anon")


async def test_anonymous_ones_stay_when_a_full_disk_keeps_the_container(
    volumes: Volumes, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    points, _ = volumes.make_for([point("anon", is_anonymous=True)], "box")

    def full(name: str) -> int:
        raise Unavailable("corten.db: database or disk is full")

    monkeypatch.setattr(parts.volumes, "forget", full)
    with pytest.raises(Unavailable):
        volumes.forget_anonymous(parts.hold("kept", *points))
    assert [one.name for one in parts.volumes.all()] == ["anon"]


async def test_an_anonymous_one_goes_though_its_container_is_among_those_that_have_it(
    volumes: Volumes, parts: Parts
) -> None:
    points, _ = volumes.make_for([point("anon", is_anonymous=True)], "box")
    assert [name for name, _ in volumes.forget_anonymous(parts.hold("going", *points))] == ["anon"]
    assert parts.volumes.all() == []


async def test_one_with_a_mount_is_unmounted_before_it_goes(
    volumes: Volumes, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    await volumes.create("far", "", {"type": "tmpfs", "device": "tmpfs"}, None)
    mounted = {parts.volumes.mountpoint("far")}
    monkeypatch.setattr(localdriver, "is_mounted", mounted.__contains__)
    monkeypatch.setattr(localdriver, "unmount_volume", mounted.remove)
    await volumes.remove("far", force=False)
    assert (mounted, parts.volumes.all()) == (set(), [])


# Nobody knows


def test_an_image_that_is_mounted_is_no_volume_of_its_name(volumes: Volumes, parts: Parts) -> None:
    parts.hold("image", MountPoint(kind="image", name="busybox", target="/x"))
    assert volumes.users("busybox") == []
    parts.hold("volume", MountPoint(kind="volume", name="busybox", target="/x"))
    assert [one.id for one in volumes.users("busybox")] == ["volume"]


@pytest.mark.parametrize("record", [b'{"version": 9, "mounts": [{"name": "data"}]}', b"{", b""])
async def test_a_volume_of_a_container_that_cannot_be_read_is_in_use(
    volumes: Volumes, parts: Parts, record: bytes
) -> None:
    await volumes.create("data", "", None, None)
    assert names(await volumes.rows({"dangling": ["1"]})) == ["data"]
    parts.unreadable["lost"] = record
    with pytest.raises(Conflict, match=r"remove data: volume is in use - \[lost\]"):
        await volumes.remove("data", force=True)
    assert not await volumes._pruned("data")
    assert (await volumes.prune({"all": ["1"]}))["VolumesDeleted"] is None
    assert names(await volumes.rows({"dangling": ["1"]})) == []
    assert names(await volumes.rows({"dangling": ["0"]})) == ["data"]
    assert [row["UsageData"]["RefCount"] for row in await volumes.usage()] == [1]


async def test_a_record_that_is_readable_enough_and_names_another_volume_holds_none(
    volumes: Volumes, parts: Parts
) -> None:
    await volumes.create("data", "", None, None)
    parts.unreadable["lost"] = b'{"version": 9, "mounts": [{"name": "other"}]}'
    assert names(await volumes.rows({"dangling": ["1"]})) == ["data"]
    assert [row["UsageData"]["RefCount"] for row in await volumes.usage()] == [0]
