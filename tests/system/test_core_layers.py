"""Layers as root: what only root can make, and what overlayfs shows of it.  umoci is the second opinion."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.core import archive, dataroot, init
from corten.core.content import ContentStore
from corten.core.images import ImageStore
from corten.core.journal import Journal
from corten.core.layers import Layer
from corten.core.layers import unpack as unpack_layers
from corten.core.lower import OPAQUE_XATTR, LowerView
from corten.core.metadata import Database
from corten.core.snapshots import Overlay
from corten.core.unpack import NeedsLower, apply_layer, settle
from corten.errors import InvalidArgument
from support import paths, peers
from support import tarballs as t
from support.layers import BASE, BASE_SHOWN, UPPER, describe, merged


@pytest.fixture
def folder() -> Iterator[Path]:
    path = paths.scratch("core")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def store(folder: Path) -> Iterator[ImageStore]:
    root = dataroot.open_data_root(str(folder / "data"))
    database = Database(root.join("corten.db"))
    overlay = Overlay(root.join("snapshots"), database, Journal(database))
    yield ImageStore(database, ContentStore(root.join("content")), overlay)
    database.close()
    root.close()


def put_layers(store: ImageStore, *layers: bytes) -> str:
    """Unpacks uncompressed archives over each other; the key of the top one."""
    described = [Layer(store.content.put(data).digest, t.digest(data)) for data in layers]
    return unpack_layers(described, store.content, store.overlay)[-1]


def shown(store: ImageStore, *layers: bytes) -> dict[str, str]:
    """path: type, mode, owner, content of everything that the mounted layers show."""
    key = put_layers(store, *layers)
    store.overlay.prepare("look", key)
    try:
        with merged(store.overlay, "look") as root:
            return describe(root)
    finally:
        store.overlay.remove("look")


def test_a_base_layer_shows_owners_set_id_bits_and_devices(store: ImageStore) -> None:
    assert shown(store, t.archive(*BASE), t.archive(t.entry(b"nothing"))) == {
        **BASE_SHOWN,
        "nothing": "-rw-r--r-- 0:0 ",
    }


@pytest.mark.parametrize("case", UPPER)
def test_an_upper_layer(store: ImageStore, case: str) -> None:
    parts, expected = UPPER[case]
    assert shown(store, t.archive(*BASE), t.archive(*parts)) == expected


@pytest.mark.parametrize("case", UPPER)
def test_an_upper_layer_ends_the_same_when_the_lower_is_there_before(store: ImageStore, case: str) -> None:
    parts, expected = UPPER[case]
    put_layers(store, t.archive(*BASE))
    assert shown(store, t.archive(*BASE), t.archive(*parts)) == expected


def test_a_hard_link_below_is_one_file_with_two_names(store: ImageStore) -> None:
    key = put_layers(store, t.archive(*BASE), t.archive(t.hard_link(b"usr/hl", b"plain")))
    layer = Path(store.overlay.fs_path(store.overlay.stat(key).id))
    assert (layer / "usr/hl").stat().st_ino == (layer / "plain").stat().st_ino


def test_a_parent_that_is_left_out_has_the_attributes_below(store: ImageStore) -> None:
    key = put_layers(store, t.archive(*BASE), t.archive(t.entry(b"secret/new")))
    layer = Path(store.overlay.fs_path(store.overlay.stat(key).id))
    assert os.getxattr(layer / "secret", "user.k") == b"v"


def test_three_layers_look_through_each_other(store: ImageStore) -> None:
    found = shown(
        store,
        t.archive(*BASE),
        t.archive(t.entry(b".wh.lib"), t.entry(b".wh.od")),
        t.archive(t.entry(b"lib/foo", data=b"1"), t.entry(b"od/n")),
    )
    assert found["lib"] == "drwxr-xr-x 0:0"
    assert sorted(name for name in found if name.startswith(("lib/", "od/"))) == ["lib/foo", "od/n"]


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ((t.hard_link(b"h", b"missing"),), "link /missing /h: no such file or directory"),
        ((t.hard_link(b"h", b"od"),), "link /od /h: operation not permitted"),
        ((t.entry(b".wh.plain"), t.hard_link(b"h", b"plain")), "link /plain /h: no such file or directory"),
    ],
)
def test_an_upper_layer_that_cannot_be_is_refused_and_leaves_nothing(
    store: ImageStore, parts: tuple[bytes, ...], text: str
) -> None:
    with pytest.raises(InvalidArgument, match=text):
        put_layers(store, t.archive(*BASE), t.archive(*parts))
    assert store.overlay.all() == []
    assert store.overlay.directories() == store.overlay.staged_directories() == []


def test_capabilities_and_trusted_attributes_survive_but_overlayfs_own_do_not(store: ImageStore) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    records = {
        b"SCHILY.xattr.security.capability": capability,
        b"SCHILY.xattr.trusted.mine": b"1",
        b"SCHILY.xattr.trusted.overlay.opaque": b"y",
        b"SCHILY.xattr.trusted.overlay.redirect": b"/etc",
    }
    key = put_layers(store, t.archive(t.pax(records), t.directory(b"d"), t.pax(records), t.entry(b"f", uid=3)))
    layer = Path(store.overlay.fs_path(store.overlay.stat(key).id))
    assert sorted(os.listxattr(layer / "f")) == ["security.capability", "trusted.mine"]
    assert os.getxattr(layer / "f", "security.capability") == capability
    assert sorted(os.listxattr(layer / "d")) == ["security.capability", "trusted.mine"]


def test_without_knowing_what_is_below_a_layer_settles_later_or_asks(folder: Path) -> None:
    lower, upper = folder / "lower", folder / "upper"
    lower.mkdir()
    lower_fd = os.open(lower, os.O_RDONLY)
    apply_layer([t.archive(*BASE)], lower_fd, lower=LowerView([]))
    for parts, needs in (
        ((t.entry(b"secret/new"), t.entry(b"fresh/.wh.x"), t.entry(b".wh.plain")), False),
        ((t.entry(b"lib/foo"),), True),
    ):
        upper.mkdir()
        upper_fd = os.open(upper, os.O_RDONLY)
        applied = apply_layer([t.archive(*parts)], upper_fd, lower=None)
        if needs:
            with pytest.raises(NeedsLower):
                settle(applied, upper_fd, LowerView([lower_fd]))
        else:
            settle(applied, upper_fd, LowerView([lower_fd]))
            assert stat.S_IMODE((upper / "secret").stat().st_mode) == 0o2710
            assert stat.S_ISCHR((upper / "plain").lstat().st_mode)
            assert os.listdir(upper / "fresh") == []
        os.close(upper_fd)
        shutil.rmtree(upper)
    upper.mkdir()
    upper_fd = os.open(upper, os.O_RDONLY)
    with pytest.raises(NeedsLower):
        apply_layer([t.archive(t.hard_link(b"h", b"plain"))], upper_fd, lower=None)
    os.close(upper_fd)
    os.close(lower_fd)


def test_opaque_is_the_kernels_mark(store: ImageStore) -> None:
    key = put_layers(store, t.archive(*BASE), t.archive(t.directory(b"od"), t.entry(b"od/.wh..wh..opq")))
    layer = Path(store.overlay.fs_path(store.overlay.stat(key).id))
    assert os.getxattr(layer / "od", OPAQUE_XATTR) == b"y"
    assert os.listdir(layer / "od") == []


def test_the_init_layer_covers_what_is_mounted_over(store: ImageStore) -> None:
    parts = (
        t.directory(b"etc", 0o750, uid=3),
        t.entry(b"etc/hosts", data=b"the image's"),
        t.symlink(b"dev", b"/somewhere"),
        t.directory(b"proc", 0o555),
    )
    key = put_layers(store, t.archive(*parts))
    name = init.init_layer(store.overlay, key)
    assert init.init_layer(store.overlay, key) == name
    store.overlay.prepare("c", name)
    with merged(store.overlay, "c") as root:
        found = describe(root)
    assert found == {
        ".dockerenv": "-rwxr-xr-x 0:0 ",
        "dev": "drwxr-xr-x 0:0",
        "dev/console": "-rwxr-xr-x 0:0 ",
        "dev/pts": "drwxr-xr-x 0:0",
        "dev/shm": "drwxr-xr-x 0:0",
        "etc": "drwxr-x--- 3:0",
        "etc/hostname": "-rwxr-xr-x 0:0 ",
        "etc/hosts": "-rwxr-xr-x 0:0 ",
        "etc/mtab": "lrwxrwxrwx 0:0 /proc/mounts",
        "etc/resolv.conf": "-rwxr-xr-x 0:0 ",
        "proc": "dr-xr-xr-x 0:0",
        "sys": "drwxr-xr-x 0:0",
    }
    assert store.overlay.usage("c").inodes == 0


# Side by side with umoci and skopeo, on the same image.


COMPARED = (
    t.archive(*BASE),
    t.archive(
        t.directory(b"od"),
        t.entry(b"od/.wh..wh..opq"),
        t.entry(b"od/n", data=b"n"),
        t.entry(b".wh.removed"),
        t.directory(b"usr"),
        t.entry(b"usr/k", data=b"k", mode=0o2755, uid=7),
        t.hard_link(b"usr/h", b"usr/k", mode=0o2755, uid=7),
        t.entry(b"lib/through", data=b"t"),
    ),
    t.archive(t.entry(b"plain", data=b"other", mode=0o600), t.symlink(b"od/s", b"n"), t.entry(b"usr/.wh.k")),
)


def test_umoci_unpacks_the_same_tree_from_our_content_store(store: ImageStore, folder: Path) -> None:
    (folder / "a.tar").write_bytes(t.docker_archive(COMPARED, gzip_layers=True))
    with (folder / "a.tar").open("rb") as file:
        archive.load(iter(lambda: file.read(65536), b""), store)
    image = store.get("test:1")
    layout = f"{store.content.root}:docker.io/library/test:1"
    bundle = folder / "bundle"
    argv = [str(peers.binary("umoci")), "unpack", "--image", layout, str(bundle)]
    subprocess.run(argv, check=True, capture_output=True)
    store.overlay.prepare("look", image.chain)
    with merged(store.overlay, "look") as root:
        assert describe(root) == describe(bundle / "rootfs")


@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive", "oci"])
def test_what_skopeo_writes_is_loaded_and_is_the_same_image(store: ImageStore, folder: Path, transport: str) -> None:
    (folder / "in.tar").write_bytes(t.docker_archive(COMPARED))
    target = folder / "out"
    name = "example.org/some/name:tag"
    source = f"docker-archive:{folder}/in.tar"
    argv = [str(peers.binary("skopeo")), "--insecure-policy", "copy", source, f"{transport}:{target}:{name}"]
    subprocess.run(argv, check=True, capture_output=True)
    if transport == "oci":
        subprocess.run(["tar", "-C", str(target), "-cf", f"{target}.tar", "."], check=True)
        target = Path(f"{target}.tar")
    (loaded,) = archive.load(iter([target.read_bytes()]), store)
    assert loaded.reference is not None
    assert loaded.reference.familiar == name
    config = t.image_config(COMPARED)
    if transport == "docker-archive":
        assert loaded.image_id == t.digest(config)
    image = store.get(name)
    assert list(image.config.diff_ids) == [t.digest(layer) for layer in COMPARED]


def test_what_umoci_writes_is_loaded(store: ImageStore, folder: Path) -> None:
    layout, bundle = folder / "layout", folder / "bundle"
    umoci = str(peers.binary("umoci"))
    for argv in (
        [umoci, "init", "--layout", str(layout)],
        [umoci, "new", "--image", f"{layout}:made:1"],
        [umoci, "unpack", "--image", f"{layout}:made:1", str(bundle)],
    ):
        subprocess.run(argv, check=True, capture_output=True)
    (bundle / "rootfs/hello").write_text("hello")
    argv = [umoci, "repack", "--image", f"{layout}:made:1", str(bundle)]
    subprocess.run(argv, check=True, capture_output=True)
    data = subprocess.run(["tar", "-C", str(layout), "-cf", "-", "."], check=True, stdout=subprocess.PIPE).stdout
    for packed in (data, gzip.compress(data, 1)):
        (loaded,) = archive.load(iter([packed]), store)
        assert store.get("made:1").id == loaded.image_id
    assert "hello" in os.listdir(store.overlay.fs_path(store.overlay.stat(store.get("made:1").chain).id))


def test_skopeo_copies_out_of_our_content_store(store: ImageStore, folder: Path) -> None:
    archive.load(iter([t.docker_archive(COMPARED)]), store)
    source = f"oci:{store.content.root}:docker.io/library/test:1"
    argv = [str(peers.binary("skopeo")), "--insecure-policy", "copy", source, f"dir:{folder}/copied"]
    subprocess.run(argv, check=True, capture_output=True)
    manifest = json.loads((folder / "copied/manifest.json").read_text())
    for layer in manifest["layers"]:
        data = (folder / "copied" / layer["digest"][7:]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == layer["digest"][7:]


def test_a_hard_links_entry_leaves_capabilities_alone(store: ImageStore) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    parts = (t.pax({b"SCHILY.xattr.security.capability": capability}), t.entry(b"f", mode=0o755))
    key = put_layers(store, t.archive(*parts, t.hard_link(b"h", b"f", mode=0o755)))
    layer = Path(store.overlay.fs_path(store.overlay.stat(key).id))
    assert os.getxattr(layer / "h", "security.capability") == capability


def test_a_hard_link_to_a_file_below_has_its_capabilities(store: ImageStore) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    base = t.archive(t.pax({b"SCHILY.xattr.security.capability": capability}), t.entry(b"f", mode=0o755))
    key = put_layers(store, base, t.archive(t.hard_link(b"h", b"f", mode=0o755)))
    layer = Path(store.overlay.fs_path(store.overlay.stat(key).id))
    assert os.getxattr(layer / "h", "security.capability") == capability


def test_a_damaged_layer_beside_one_that_still_unpacks_is_refused_and_leaves_nothing(store: ImageStore) -> None:
    many = t.archive(*(t.entry(b"d%d/%d" % (number % 50, number)) for number in range(4000)))
    layers = [
        Layer(store.content.put(t.archive(t.entry(b"f"))).digest, t.digest(b"something else")),
        Layer(store.content.put(many).digest, t.digest(many)),
    ]
    with pytest.raises(InvalidArgument, match="invalid diffID for layer 0"):
        unpack_layers(layers, store.content, store.overlay)
    assert store.overlay.staged_directories() == []
