"""Images: load, look up, tag, remove, collect."""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
import tracemalloc
from pathlib import Path

import pytest
import zstandard

from corten.core import archive, gc
from corten.core.events import EventBus
from corten.core.history import history
from corten.core.images import Image, ImageStore
from corten.core.leases import CONTENT
from corten.core.limits import DEFAULT
from corten.core.rmi import Removal, Use, What, remove_image
from corten.errors import Conflict, InvalidArgument, NotFound, Unavailable
from corten.spec.reference import parse
from support import tarballs as t

ONE, TWO, THREE = (t.archive(t.directory(b"d"), t.entry(b"d/%d" % n, data=b"x" * n)) for n in (1, 2, 3))
GARBAGE = b"garbage" * 100
CONTAINER = "c0ffee" + "0" * 58


def load(store: ImageStore, data: bytes, chunk: int = 10_000) -> list[archive.Loaded]:
    return archive.load(t.chunked(data, chunk), store)


def loaded(store: ImageStore, *layers: bytes, tags: tuple[str, ...] = ("test:1",), **fields: object) -> Image:
    load(store, t.docker_archive(layers, tags, config=t.image_config(layers, **fields)))
    return store.get(tags[0])


def is_empty(store: ImageStore) -> bool:
    rest = [*store.list(), *store.overlay.all(), *store.overlay.directories(), *store.overlay.staged_directories()]
    return not rest and not list(store.content.blobs()) and not store.leases.list()


# load


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
@pytest.mark.parametrize("gzip_layers", [False, True])
def test_a_docker_archive_becomes_an_image(store: ImageStore, pack: object, gzip_layers: bool) -> None:
    data = t.docker_archive([ONE, TWO], ("test:1", "other/name:v2"), gzip_layers=gzip_layers)
    found = load(store, pack(data))  # type: ignore[operator]
    assert archive.messages(found) == ["Loaded image: test:1\n", "Loaded image: other/name:v2\n"]
    image = store.get("test:1")
    assert image.id == t.digest(t.image_config([ONE, TWO])) == found[0].image_id
    assert image.repo_tags == ["test:1", "other/name:v2"]
    assert (image.size, image.config.run.cmd) == (3, ["sh"])
    assert [snapshot.size for snapshot in store.overlay.all()] == [1, 2]
    assert os.listdir(store.overlay.fs_path(store.overlay.stat(image.chain).id)) == ["d"]
    assert store.leases.list() == []


def test_a_load_whose_record_fails_leaves_no_layers(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise Unavailable("corten.db: database or disk is full")

    monkeypatch.setattr(store, "add", refuse)
    with pytest.raises(Unavailable):
        load(store, t.docker_archive([ONE, TWO], ("test:1",)))
    assert is_empty(store)


def test_small_and_large_layers_both_end_in_the_content_store(store: ImageStore) -> None:
    large = t.archive(t.entry(b"large", data=os.urandom(3 << 20)))
    image = loaded(store, ONE, large)
    assert [store.content.size(digest) for digest in store.layer_blobs(image)] == [len(ONE), len(large)]
    assert len(list(store.content.blobs())) == 4


def test_an_oci_layout_keeps_its_manifest(store: ImageStore) -> None:
    (found,) = load(store, t.oci_archive([ONE]))
    image = store.get(found.image_id)
    assert json.loads(store.content.read(image.manifest.digest))["layers"][0]["digest"] == t.digest(ONE)
    assert image.repo_tags == ["test:1"]


def test_a_layout_with_only_a_tag_loads_by_id(store: ImageStore) -> None:
    (found,) = load(store, t.oci_archive([ONE], name="latest"))
    assert archive.messages([found]) == [f"Loaded image ID: {found.image_id}\n"]
    assert store.get(found.image_id).is_dangling


def test_the_form_of_docker_25_keeps_the_oci_manifest(store: ImageStore) -> None:
    config = t.image_config([ONE])
    oci = t.oci_archive([ONE])
    manifest = [
        {
            "Config": f"blobs/sha256/{t.digest(config)[7:]}",
            "RepoTags": ["a:1"],
            "Layers": [f"blobs/sha256/{t.digest(ONE)[7:]}"],
        }
    ]
    data = t.entry(b"manifest.json", data=json.dumps(manifest).encode()) + oci
    load(store, data)
    image = store.get("a:1")
    assert b"application/vnd.oci.image.layer.v1.tar" in store.content.read(image.manifest.digest)
    assert image.repo_tags == ["a:1"]


def test_links_between_members_are_followed_inside_the_archive(store: ImageStore) -> None:
    config = t.image_config([ONE, ONE])
    manifest = [{"Config": "c.json", "RepoTags": None, "Layers": ["a/layer.tar", "b/layer.tar"]}]
    data = t.archive(
        t.entry(b"a/layer.tar", data=ONE),
        t.symlink(b"b/layer.tar", b"../a/layer.tar"),
        t.hard_link(b"c.json", b"real.json"),
        t.entry(b"real.json", data=config),
        t.entry(b"manifest.json", data=json.dumps(manifest).encode()),
    )
    (found,) = load(store, data)
    assert found.reference is None
    circle = t.archive(t.symlink(b"manifest.json", b"x"), t.symlink(b"x", b"manifest.json"))
    with pytest.raises(InvalidArgument, match="too many levels of links"):
        load(store, circle)


def test_loading_twice_changes_nothing_and_a_name_moves(store: ImageStore) -> None:
    first = loaded(store, ONE)
    (again,) = load(store, t.docker_archive([ONE]))
    assert again.replaced == ""
    (moved,) = load(store, t.docker_archive([TWO]))
    assert archive.messages([moved]) == [
        f"The image test:1 already exists, renaming the old one with ID {first.id} to empty string\n",
        "Loaded image: test:1\n",
    ]
    assert store.get(first.id).is_dangling


def test_layers_are_shared(store: ImageStore) -> None:
    loaded(store, ONE, TWO)
    loaded(store, ONE, THREE, tags=("second:1",))
    assert len(store.overlay.all()) == 3


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        (b"", InvalidArgument, "archive holds no image"),
        (t.archive(t.entry(b"x")), InvalidArgument, "archive holds no image"),
        (b"no archive" * 100, InvalidArgument, "invalid tar header"),
        (t.archive(t.entry(b"manifest.json", data=b"{}")), InvalidArgument, "invalid manifest.json"),
        (
            t.archive(t.entry(b"manifest.json", data=b'[{"Config":"x.json","Layers":[]}]')),
            NotFound,
            "x.json: no such file in the archive",
        ),
        (t.docker_archive([ONE], config=t.image_config([])), InvalidArgument, "length mismatch: expected 1, got 0"),
        (t.docker_archive([ONE], config=t.image_config([TWO])), InvalidArgument, "invalid diffID for layer 0"),
        (t.docker_archive([GARBAGE], config=t.image_config([GARBAGE])), InvalidArgument, "invalid tar header"),
        (t.docker_archive([ONE], ["UPPER:1"]), InvalidArgument, "must be lowercase"),
        (t.docker_archive([ONE], ["untagged"]), InvalidArgument, 'invalid tag "untagged"'),
        (t.docker_archive([ONE])[:-2000], InvalidArgument, "unexpected EOF"),
        (t.oci_archive([ONE], replaced={t.digest(ONE)[7:]: b"short"}), InvalidArgument, "content has digest"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused_and_leaves_nothing(
    store: ImageStore, data: bytes, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        load(store, data)
    assert is_empty(store)


def test_an_index_without_this_platform_is_refused(store: ImageStore) -> None:
    platform = {"architecture": "none", "os": "linux"}
    nested = json.dumps(
        {
            "schemaVersion": 2,
            "manifests": [
                {
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": t.digest(b"x"),
                    "size": 1,
                    "platform": platform,
                }
            ],
        }
    ).encode()
    top = {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": t.digest(nested), "size": len(nested)}
    data = t.archive(
        t.entry(f"blobs/sha256/{t.digest(nested)[7:]}".encode(), data=nested),
        t.entry(b"index.json", data=json.dumps({"schemaVersion": 2, "manifests": [top]}).encode()),
    )
    with pytest.raises(NotFound, match="no matching manifest for linux/"):
        load(store, data)


def test_a_disk_that_fills_up_while_unpacking_leaves_nothing(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise Unavailable("no space left for layers")

    monkeypatch.setattr("corten.core.layers.apply_layer", full)
    with pytest.raises(Unavailable):
        load(store, t.docker_archive([ONE, TWO]))
    assert is_empty(store)


# lookups, tags


def test_an_image_is_found_by_every_name_it_has(store: ImageStore) -> None:
    image = loaded(store, ONE, tags=("test:latest",))
    for ref in ("test", "test:latest", "docker.io/library/test", image.id, image.id[7:], image.id[7:15], image.id[:20]):
        assert store.get(ref).id == image.id


@pytest.mark.parametrize(
    ("ref", "text"),
    [
        ("nothing", "No such image: nothing:latest"),
        ("a/b:2", "No such image: a/b:2"),
        ("0" * 64, f"No such image: sha256:{'0' * 64}"),
        ("sha256:" + "0" * 64, f"No such image: sha256:{'0' * 64}"),
        ("0000", "No such image: 0000:latest"),
    ],
)
def test_what_is_not_there_is_said_in_dockers_words(store: ImageStore, ref: str, text: str) -> None:
    loaded(store, ONE)
    with pytest.raises(NotFound, match=f"^{text}$"):
        store.get(ref)


def test_a_prefix_of_two_ids_is_no_id(store: ImageStore) -> None:
    for number in range(40):
        loaded(store, ONE, tags=(f"t:{number}",), author=str(number))
    ids = [image.id for image in store.list()]
    first = next(image_id[7] for image_id in ids if sum(other[7] == image_id[7] for other in ids) > 1)
    with pytest.raises(NotFound, match="No such image"):
        store.get(first)


def test_tagging_moves_a_name(store: ImageStore, bus: EventBus) -> None:
    one = loaded(store, ONE, tags=("one:1",))
    two = loaded(store, TWO, tags=("two:1",))
    assert store.tag("one:1", "reg.example/new", "v").familiar == "reg.example/new:v"
    store.tag(two.id[7:19], "reg.example/new", "v")
    assert store.get("reg.example/new:v").id == two.id
    assert store.get(one.id).repo_tags == ["one:1"]
    assert store.tag("one:1", "plain").familiar == "plain:latest"
    with bus.subscribe(since_ns=0) as events:
        last = events.drain()[-1]
    assert (last.type, last.action, last.id, last.attributes) == (
        "image",
        "tag",
        one.id,
        {"made": "here", "name": "plain:latest"},
    )


@pytest.mark.parametrize(
    ("repo", "tag", "text"),
    [
        ("Bad", "", "must be lowercase"),
        ("a", "b/c", "invalid tag format"),
        (f"a@sha256:{'0' * 64}", "", "cannot import digest reference"),
        ("sha256", "x", "refusing to create an ambiguous tag using digest algorithm as name"),
    ],
)
def test_a_name_that_cannot_be_is_refused(store: ImageStore, repo: str, tag: str, text: str) -> None:
    loaded(store, ONE)
    with pytest.raises(InvalidArgument, match=text):
        store.tag("test:1", repo, tag)


def test_history_is_newest_first_with_the_sizes_of_layers(store: ImageStore) -> None:
    lines = [
        {"created_by": "add one"},
        {"created_by": "env", "empty_layer": True},
        {"created_by": "add two", "comment": "c"},
    ]
    image = loaded(store, ONE, TWO, history=lines)
    assert [(line.id, line.created_by, line.size, line.tags) for line in history(store, image)] == [
        (image.id, "add two", 2, ("test:1",)),
        ("<missing>", "env", 0, ()),
        ("<missing>", "add one", 1, ()),
    ]


def test_the_index_on_disk_says_what_the_store_says(store: ImageStore) -> None:
    image = loaded(store, ONE)
    store.tag("test:1", "second")
    index = json.loads(Path(store.content.root, "index.json").read_bytes())
    names = [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index["manifests"]]
    assert names == ["docker.io/library/second:latest", "docker.io/library/test:1"]
    assert {entry["digest"] for entry in index["manifests"]} == {image.manifest.digest}


# removal


def removed(*pairs: tuple[str, str]) -> list[Removal]:
    return [Removal(What(what), subject) for what, subject in pairs]


def test_removing_the_last_name_removes_the_image_and_its_layers(store: ImageStore, bus: EventBus) -> None:
    image = loaded(store, ONE, TWO)
    bottom, top = image.chain_ids
    assert remove_image(store, "test:1", []) == removed(
        ("Untagged", "test:1"), ("Deleted", image.id), ("Deleted", top), ("Deleted", bottom)
    )
    assert is_empty(store)
    with bus.subscribe(since_ns=0) as events:
        assert [event.action for event in events.drain()] == ["load", "untag", "delete"]


def forbid(store: ImageStore, what: str) -> None:
    """The database does not do it any more: a crash at that statement."""
    with store.database.transaction() as tx:
        tx.execute(f"CREATE TRIGGER forbidden BEFORE {what} BEGIN SELECT RAISE(ABORT, 'forbidden'); END")


def actions(bus: EventBus) -> list[str]:
    with bus.subscribe(since_ns=0) as events:
        return [event.action for event in events.drain()]


def names_in_layout(store: ImageStore) -> list[str]:
    manifests = json.loads((Path(store.content.root) / "index.json").read_text())["manifests"]
    return [one["annotations"]["io.containerd.image.name"] for one in manifests]


def test_an_image_that_cannot_be_named_is_not_loaded(store: ImageStore, bus: EventBus) -> None:
    forbid(store, "INSERT ON tags")
    with pytest.raises(sqlite3.IntegrityError):
        loaded(store, ONE)
    assert (list(store.list()), actions(bus), names_in_layout(store)) == ([], [], [])


def test_an_image_that_cannot_be_removed_keeps_its_name(store: ImageStore, bus: EventBus) -> None:
    image = loaded(store, ONE)
    forbid(store, "DELETE ON images")
    with pytest.raises(sqlite3.IntegrityError):
        remove_image(store, "test:1", [])
    assert store.get("test:1").id == image.id
    assert (actions(bus), names_in_layout(store)) == (["load"], ["docker.io/library/test:1"])


def test_removing_one_of_two_names_keeps_the_image(store: ImageStore) -> None:
    image = loaded(store, ONE)
    store.tag("test:1", "second")
    assert remove_image(store, "test:1", [Use(CONTAINER, image.id, True)]) == removed(("Untagged", "test:1"))
    assert store.get("second").id == image.id


def test_shared_layers_and_blobs_stay(store: ImageStore) -> None:
    first = loaded(store, ONE, TWO)
    loaded(store, ONE, THREE, tags=("second:1",))
    assert remove_image(store, "test:1", []) == removed(
        ("Untagged", "test:1"), ("Deleted", first.id), ("Deleted", first.chain)
    )
    assert store.content.has(t.digest(ONE))
    assert not store.content.has(t.digest(TWO))


def test_a_container_keeps_the_layers_that_it_stands_on(store: ImageStore) -> None:
    image = loaded(store, ONE, TWO)
    store.overlay.prepare(CONTAINER, image.chain)
    done = remove_image(store, "test:1", [Use(CONTAINER, image.id, False)], force=True)
    assert done == removed(("Untagged", "test:1"), ("Deleted", image.id))
    assert len(store.overlay.all()) == 3
    store.overlay.remove(CONTAINER)
    assert gc.collect(store).snapshots == (image.chain_ids[1], image.chain_ids[0])
    assert is_empty(store)


def test_an_id_of_several_repositories_must_be_forced(store: ImageStore) -> None:
    image = loaded(store, ONE)
    store.tag("test:1", "second")
    short = image.id[7:19]
    with pytest.raises(Conflict) as raised:
        remove_image(store, short, [])
    text = f"conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
    assert str(raised.value) == text
    assert remove_image(store, short, [], force=True) == removed(
        ("Untagged", "second:latest"), ("Untagged", "test:1"), ("Deleted", image.id), ("Deleted", image.chain)
    )


@pytest.mark.parametrize("force", [False, True])
def test_a_running_container_keeps_its_image(store: ImageStore, force: bool) -> None:
    image = loaded(store, ONE)
    short = image.id[7:19]
    with pytest.raises(Conflict) as raised:
        remove_image(store, short, [Use(CONTAINER, image.id, True)], force=force)
    text = f"conflict: unable to delete {short} (cannot be forced) - image is being used by running container"
    assert str(raised.value) == f"{text} {CONTAINER[:12]}"


def test_a_stopped_container_keeps_its_image_unless_forced(store: ImageStore) -> None:
    image = loaded(store, ONE)
    short = image.id[7:19]
    uses = [Use(CONTAINER, image.id, False)]
    with pytest.raises(Conflict) as by_id:
        remove_image(store, short, uses)
    text = f"conflict: unable to delete {short} (must be forced) - image is being used by stopped container"
    assert str(by_id.value) == f"{text} {CONTAINER[:12]}"
    with pytest.raises(Conflict) as by_name:
        remove_image(store, "test:1", uses)
    assert str(by_name.value) == (
        'conflict: unable to remove repository reference "test:1" (must force) - container'
        f" {CONTAINER[:12]} is using its referenced image {short}"
    )
    assert store.get("test:1").id == image.id
    assert remove_image(store, short, uses, force=True)[-1].what is What.DELETED


def test_a_tag_has_a_time_and_a_load_has_none(store: ImageStore) -> None:
    assert loaded(store, ONE).tagged_ns == 0
    store.tag("test:1", "other")
    assert store.get("test:1").tagged_ns > 0


def test_the_name_of_a_running_container_can_be_forced_away_but_the_image_stays(store: ImageStore) -> None:
    image = loaded(store, ONE)
    assert remove_image(store, "test:1", [Use(CONTAINER, image.id, True)], force=True) == removed(
        ("Untagged", "test:1")
    )
    assert store.get(image.id).is_dangling


def test_pinned_names_go_with_the_last_tag_of_their_repository(store: ImageStore) -> None:
    image = loaded(store, ONE)
    pinned = parse(f"test@{image.manifest.digest}")
    store.point(pinned, image.id)
    assert store.get("test:1").repo_digests == [f"test@{image.manifest.digest}"]
    assert remove_image(store, "test:1", []) == removed(
        ("Untagged", "test:1"), ("Untagged", pinned.familiar), ("Deleted", image.id), ("Deleted", image.chain)
    )


def test_an_untagged_parent_is_pruned_and_a_child_keeps_its_parent(store: ImageStore) -> None:
    parent = loaded(store, ONE)
    child = loaded(store, ONE, TWO, tags=("child:1",))
    with store.database.transaction() as tx:
        tx.execute("UPDATE images SET parent = ? WHERE id = ?", (parent.id, child.id))
    with pytest.raises(Conflict, match=r"cannot be forced.* - image has dependent child images"):
        remove_image(store, parent.id[7:19], [], force=True)
    assert remove_image(store, "test:1", []) == removed(("Untagged", "test:1"))
    assert [done.subject for done in remove_image(store, "child:1", [])][:2] == ["child:1", child.id]
    assert is_empty(store)


# garbage


def test_collection_removes_what_a_crash_left_and_nothing_else(store: ImageStore) -> None:
    image = loaded(store, ONE)
    orphan = store.content.put(b"orphan")
    store.overlay.prepare("x", image.chain)
    store.overlay.commit("x", "sha256:orphan-layer")
    held = store.leases.create()
    leased = store.content.put(b"leased", lambda digest: store.leases.add(held.id, CONTENT, digest))
    expired = store.leases.create(expires_ns=1)
    lapsed = store.content.put(b"lapsed", lambda digest: store.leases.add(expired.id, CONTENT, digest))
    collected = gc.collect(store)
    assert set(collected.blobs) == {orphan.digest, lapsed.digest}
    assert (collected.snapshots, collected.bytes) == (("sha256:orphan-layer",), 12)
    assert store.content.has(leased.digest)
    assert store.get("test:1") == image
    store.leases.delete(held.id)
    assert gc.collect(store).blobs == (leased.digest,)
    assert gc.collect(store) == gc.Collected((), (), 0)


def test_memory_stays_bounded_while_a_large_image_is_loaded(store: ImageStore) -> None:
    layer = t.archive(t.entry(b"large", data=bytes(64 << 20)))
    data = gzip.compress(t.docker_archive([layer]), 1)
    assert DEFAULT.ratio_floor > 64 << 20
    del layer
    tracemalloc.start()
    load(store, data, 65536)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 << 20
