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
from contextlib import ExitStack, contextmanager
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
from corten.sys import mount
from support import paths, peers
from support import tarballs as t

BASE = (
    t.directory(b"./", 0o755),
    t.symlink(b"lib", b"usr/lib"),
    t.directory(b"usr"),
    t.directory(b"usr/lib"),
    t.entry(b"usr/lib/keep", data=b"keep"),
    t.pax({b"SCHILY.xattr.user.k": b"v"}),
    t.directory(b"secret", 0o2710, uid=5, gid=6),
    t.entry(b"secret/f"),
    t.entry(b"plain", data=b"plain", uid=9, gid=8, mode=0o4755),
    t.directory(b"od"),
    t.entry(b"od/low"),
    t.directory(b"od/sub"),
    t.entry(b"od/sub/x"),
    t.entry(b"removed"),
    t.symlink(b"slink", b"plain"),
    t.entry(b"null", t.CHAR, device=(1, 3), mode=0o666),
    t.entry(b"blk", t.BLOCK_DEVICE, device=(7, 200), mode=0o660, gid=6),
)


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


@contextmanager
def merged(overlay: Overlay, key: str) -> Iterator[Path]:
    """The mounted snapshot, by a descriptor that no mount namespace shows."""
    (described,) = overlay.mounts(key)
    context = mount.fsopen("overlay")
    with ExitStack() as stack:
        stack.callback(os.close, context)
        for option in described.options:
            name, _, value = option.partition("=")
            for part in value.split(":"):
                mount.fsconfig_string(context, "lowerdir+" if name == "lowerdir" else name, part)
        mount.fsconfig_create(context)
        fd = mount.fsmount(context, 0)
        stack.callback(os.close, fd)
        yield Path(f"/proc/self/fd/{fd}")


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


def describe(root: Path) -> dict[str, str]:
    found = {}
    for directory, names, files in os.walk(f"{root}/."):
        for name in (*names, *files):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            kind = stat.filemode(status.st_mode)
            what = f"{kind} {status.st_uid}:{status.st_gid}"
            if stat.S_ISLNK(status.st_mode):
                what += f" {os.readlink(path)}"
            elif stat.S_ISREG(status.st_mode):
                what += f" {Path(path).read_text()}"
            elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                what += f" {os.major(status.st_rdev)},{os.minor(status.st_rdev)}"
            found[os.path.relpath(path, f"{root}/.")] = what
    return found


BASE_SHOWN = {
    "lib": "lrwxrwxrwx 0:0 usr/lib",
    "usr": "drwxr-xr-x 0:0",
    "usr/lib": "drwxr-xr-x 0:0",
    "usr/lib/keep": "-rw-r--r-- 0:0 keep",
    "secret": "drwx--s--- 5:6",
    "secret/f": "-rw-r--r-- 0:0 ",
    "plain": "-rwsr-xr-x 9:8 plain",
    "od": "drwxr-xr-x 0:0",
    "od/low": "-rw-r--r-- 0:0 ",
    "od/sub": "drwxr-xr-x 0:0",
    "od/sub/x": "-rw-r--r-- 0:0 ",
    "removed": "-rw-r--r-- 0:0 ",
    "slink": "lrwxrwxrwx 0:0 plain",
    "null": "crw-rw-rw- 0:0 1,3",
    "blk": "brw-rw---- 0:6 7,200",
}


def without(*names: str) -> dict[str, str]:
    return {key: value for key, value in BASE_SHOWN.items() if key not in names}


def test_a_base_layer_shows_owners_set_id_bits_and_devices(store: ImageStore) -> None:
    assert shown(store, t.archive(*BASE), t.archive(t.entry(b"nothing"))) == {
        **BASE_SHOWN,
        "nothing": "-rw-r--r-- 0:0 ",
    }


UPPER: dict[str, tuple[tuple[bytes, ...], dict[str, str]]] = {
    "a whiteout removes": ((t.entry(b".wh.removed"),), without("removed")),
    "a whiteout removes a tree": ((t.entry(b".wh.od"),), without("od", "od/low", "od/sub", "od/sub/x")),
    "a whiteout of nothing shows nothing": (
        (t.entry(b"fresh/.wh.nothing"), t.entry(b".wh.nothing")),
        {**BASE_SHOWN, "fresh": "drwxr-xr-x 0:0"},
    ),
    "an opaque directory hides what is below": (
        (t.directory(b"od"), t.entry(b"od/.wh..wh..opq"), t.entry(b"od/n", data=b"n")),
        {**without("od/low", "od/sub", "od/sub/x"), "od/n": "-rw-r--r-- 0:0 n"},
    ),
    "opaque hides also when it comes last": (
        (t.directory(b"od"), t.entry(b"od/n", data=b"n"), t.entry(b"od/.wh..wh..opq")),
        {**without("od/low", "od/sub", "od/sub/x"), "od/n": "-rw-r--r-- 0:0 n"},
    ),
    "an opaque directory without an entry keeps its look": (
        (t.entry(b"secret/.wh..wh..opq"), t.entry(b"secret/n")),
        {**without("secret/f"), "secret/n": "-rw-r--r-- 0:0 "},
    ),
    "whiteout, then the directory again": (
        (t.entry(b".wh.od"), t.directory(b"od", 0o700), t.entry(b"od/n", data=b"n")),
        {**without("od/low", "od/sub", "od/sub/x"), "od": "drwx------ 0:0", "od/n": "-rw-r--r-- 0:0 n"},
    ),
    "whiteout, then a file in the directory": (
        (t.entry(b".wh.od"), t.entry(b"od/n", data=b"n")),
        {**without("od/low", "od/sub", "od/sub/x"), "od/n": "-rw-r--r-- 0:0 n"},
    ),
    "the directory, then its whiteout": (
        (t.directory(b"od"), t.entry(b"od/n", data=b"n"), t.entry(b".wh.od")),
        {**without("od/low", "od/sub", "od/sub/x"), "od/n": "-rw-r--r-- 0:0 n"},
    ),
    "a file and its whiteout, in both orders": (
        (t.entry(b".wh.plain"), t.entry(b"plain", data=b"1"), t.entry(b"removed", data=b"2"), t.entry(b".wh.removed")),
        {**BASE_SHOWN, "plain": "-rw-r--r-- 0:0 1", "removed": "-rw-r--r-- 0:0 2"},
    ),
    "a file replaces a directory": (
        (t.entry(b"od", data=b"f"),),
        {**without("od/low", "od/sub", "od/sub/x"), "od": "-rw-r--r-- 0:0 f"},
    ),
    "a file, then a directory, hides the directory below": (
        (t.entry(b"od"), t.directory(b"od"), t.entry(b"od/n")),
        {**without("od/low", "od/sub", "od/sub/x"), "od/n": "-rw-r--r-- 0:0 "},
    ),
    "a parent that is left out looks as below": (
        (t.entry(b"secret/new"),),
        {**BASE_SHOWN, "secret/new": "-rw-r--r-- 0:0 "},
    ),
    "a parent that is a link below is followed": (
        (t.entry(b"lib/foo", data=b"1"),),
        {**BASE_SHOWN, "usr/lib/foo": "-rw-r--r-- 0:0 1"},
    ),
    "a whiteout through a link below": ((t.entry(b"lib/.wh.keep"),), without("usr/lib/keep")),
    "a directory entry covers a link below": (
        (t.directory(b"lib"), t.entry(b"lib/foo")),
        {**BASE_SHOWN, "lib": "drwxr-xr-x 0:0", "lib/foo": "-rw-r--r-- 0:0 "},
    ),
    "a hard link to a file below": (
        (t.hard_link(b"usr/hl", b"plain"),),
        {**BASE_SHOWN, "usr/hl": "-rwsr-xr-x 9:8 plain"},
    ),
    "a hard link through a link below": (
        (t.hard_link(b"hl", b"lib/keep"),),
        {**BASE_SHOWN, "hl": "-rw-r--r-- 0:0 keep"},
    ),
    "a hard link to a link below": ((t.hard_link(b"hl", b"slink"),), {**BASE_SHOWN, "hl": "lrwxrwxrwx 0:0 plain"}),
    "a hard link to a device below": ((t.hard_link(b"hl", b"null"),), {**BASE_SHOWN, "hl": "crw-rw-rw- 0:0 1,3"}),
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
        t.hard_link(b"usr/h", b"usr/k"),
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
    subprocess.run([str(peers.binary("umoci")), "unpack", "--image", layout, str(bundle)], check=True, capture_output=True)
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
