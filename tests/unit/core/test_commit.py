"""`docker commit`: a container's own files become a layer; what fails leaves nothing."""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from corten.core import archive, gc
from corten.core.commit import Request, commit
from corten.core.events import EventBus
from corten.core.history import history
from corten.core.images import Image, ImageStore
from corten.core.init import init_layer
from corten.core.leases import CONTENT
from corten.core.limits import DEFAULT
from corten.core.rmi import remove_image
from corten.core.treetar import EMPTY_TAR
from corten.errors import Conflict, InvalidArgument, NotFound, Unavailable
from corten.spec.image import DOCKER_LAYER_GZIP, OCI_LAYER, OCI_LAYER_GZIP, OCI_MANIFEST, RunConfig
from corten.spec.reference import parse
from support import tarballs as t

BASE = t.archive(t.directory(b"etc"), t.entry(b"etc/a", data=b"a"), t.entry(b"etc/b", data=b"b"))
KEY = "c0ffee" + "0" * 58


@pytest.fixture
def base(store: ImageStore) -> Image:
    archive.load([t.docker_archive([BASE], ["base:1"], gzip_layers=True)], store)
    return store.get("base:1")


def container(store: ImageStore, image: Image, key: str = KEY) -> Path:
    """A container's own directory, with one change of each kind."""
    store.overlay.prepare(key, init_layer(store.overlay, image.chain))
    root = Path(store.overlay.fs_path(store.overlay.stat(key).id))
    (root / "etc").mkdir()
    (root / "etc/new").write_text("new")
    os.mknod(root / "etc/a", 0o20000, 0)
    os.mknod(root / ".dockerenv", 0o20000, 0)
    for path in (root / "etc", root / "etc/new"):
        os.utime(path, (1, 1))
    return root


def asked(image: Image, **given: object) -> Request:
    fields = {"container_id": KEY, "image_id": image.id, "run": RunConfig(cmd=["x"])} | given
    return Request(**fields)  # type: ignore[arg-type]


def top(store: ImageStore, image: Image) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(store.content.read(store.layer_blobs(image)[-1]))) as opened:
        return opened.getnames()


def test_what_the_image_of_the_container_has_is_kept_meanwhile(store: ImageStore, base: Image) -> None:
    container(store, base)
    kept: list[set[str]] = []
    commit(asked(base), store, check=lambda: kept.append(store.leases.items(CONTENT)))
    assert {base.id, base.manifest.digest, *store.layer_blobs(base)} <= kept[0]


def test_a_container_becomes_an_image_over_its_own(store: ImageStore, base: Image, bus: EventBus) -> None:
    container(store, base)
    request = asked(base, command="sh -c x", author="me", comment="said", reference=parse("new:1"))
    image = commit(request, store)
    assert image.repo_tags == ["new:1"]
    assert (image.parent, image.config.author, image.config.comment) == (base.id, "me", "")
    assert image.config.diff_ids[:-1] == base.config.diff_ids
    assert image.config.run.cmd == ["x"]
    line = (image.config.history or [])[-1]
    assert (line.created_by, line.author, line.comment, line.empty_layer) == ("sh -c x", "me", "said", False)
    assert top(store, image) == ["etc", "etc/.wh.a", "etc/new"], "what the init layer alone has is no part of it"
    assert image.size == base.size + 3
    manifest = store.manifest(image)
    assert (manifest.media_type, manifest.layers[-1].media_type) == (OCI_MANIFEST, OCI_LAYER)
    assert manifest.layers[-1].digest == image.config.diff_ids[-1]
    files = Path(store.overlay.fs_path(store.overlay.stat(image.chain).id))
    assert sorted(os.listdir(files / "etc")) == ["a", "new"]
    with bus.subscribe(since_ns=0) as events:
        assert [event.action for event in events.drain()][-1] == "tag"
    assert not store.leases.list()
    assert image.is_composed


def test_the_same_files_are_the_same_layer(store: ImageStore, base: Image) -> None:
    container(store, base)
    container(store, base, "2")
    first, second = commit(asked(base), store), commit(asked(base, container_id="2", author="other"), store)
    assert first.id != second.id
    assert first.config.diff_ids == second.config.diff_ids
    assert store.layer_blobs(first) == store.layer_blobs(second)


def test_a_container_that_changed_nothing_adds_no_layer(store: ImageStore, base: Image) -> None:
    store.overlay.prepare(KEY, init_layer(store.overlay, base.chain))
    image = commit(asked(base), store)
    assert image.config.diff_ids == base.config.diff_ids
    assert (image.config.history or [])[-1].empty_layer
    assert image.chain == base.chain
    assert not store.content.has(EMPTY_TAR)


def test_layers_of_dockers_types_get_ocis_names(store: ImageStore, base: Image) -> None:
    container(store, base)
    assert store.manifest(commit(asked(base), store)).layers[0].media_type == OCI_LAYER_GZIP != DOCKER_LAYER_GZIP


def nothing_new(store: ImageStore, base: Image) -> bool:
    layers = {one.key for one in store.overlay.all()}
    blobs = {one.digest for one in store.content.blobs()}
    kept = {base.id, base.manifest.digest, *store.layer_blobs(base)}
    return (
        [one.id for one in store.all()] == [base.id]
        and blobs == kept
        and layers == {*base.chain_ids, f"init:{base.chain}", KEY}
        and not store.overlay.staged_directories()
        and not store.content.ingests()
        and not store.leases.list()
    )


def test_what_fails_leaves_nothing(store: ImageStore, base: Image) -> None:
    root = container(store, base)

    def gone() -> None:
        raise RuntimeError("given up")

    os.truncate(root / "etc/new", 80 << 20)
    with pytest.raises(RuntimeError, match="given up"):
        commit(asked(base), store, check=gone)
    assert nothing_new(store, base)
    with pytest.raises(Unavailable, match="no space left"):
        commit(asked(base), store, limits=replace(DEFAULT, disk_reserve=1 << 62))
    assert nothing_new(store, base)
    with pytest.raises(InvalidArgument, match="larger than"):
        commit(asked(base), store, limits=replace(DEFAULT, apparent=1 << 20))
    assert nothing_new(store, base)


def test_a_container_that_is_removed_meanwhile_is_no_image(
    store: ImageStore, base: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    container(store, base)
    ingest = store.content.ingest

    def after(*given: object, **more: object) -> object:
        try:
            return ingest(*given, **more)  # type: ignore[arg-type]
        finally:
            store.overlay.remove(KEY)
            monkeypatch.undo()

    monkeypatch.setattr(store.content, "ingest", after)
    with pytest.raises(Conflict, match="was removed"):
        commit(asked(base), store)
    assert [one.id for one in store.all()] == [base.id]


def test_without_its_image_a_container_cannot_be_committed(store: ImageStore, base: Image) -> None:
    container(store, base)
    remove_image(store, "base:1", [], force=True)
    with pytest.raises(NotFound, match=f"No such image: {base.id}"):
        commit(asked(base), store)


def test_the_image_of_a_commit_keeps_its_parents_layers(store: ImageStore, base: Image) -> None:
    container(store, base)
    image = commit(asked(base, reference=parse("new:1")), store)
    store.overlay.remove(KEY)
    remove_image(store, "base:1", [])
    gc.collect(store)
    assert all(store.overlay.exists(chain) for chain in image.chain_ids)
    assert all(store.content.has(digest) for digest in store.layer_blobs(image))


def test_history_has_the_id_and_the_names_of_what_an_image_was_committed_from(store: ImageStore) -> None:
    lines = [
        {"created_by": "add"},
        {"created_by": "env", "empty_layer": True},
        {"created_by": "cmd", "empty_layer": True},
    ]
    config = t.image_config([BASE], history=lines)
    archive.load([t.docker_archive([BASE], ["base:1"], config=config)], store)
    base = store.get("base:1")
    container(store, base)
    image = commit(asked(base, command="sh -c x", reference=parse("new:1")), store)
    assert [(line.id, line.created_by, line.tags) for line in history(store, image)] == [
        (image.id, "sh -c x", ("new:1",)),
        (base.id, "cmd", ("base:1",)),
        ("<missing>", "env", ()),
        ("<missing>", "add", ()),
    ]
    remove_image(store, "base:1", [])
    assert [(line.id, line.tags) for line in history(store, image)][:2] == [(image.id, ("new:1",)), (base.id, ())]
