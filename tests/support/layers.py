"""A base layer, upper layers over it, and what a mount of both must show: for our unpacking and for the peers'."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from corten.core.snapshots import Overlay
from corten.sys import mount
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


def describe(root: Path) -> dict[str, str]:
    """path: type, mode, owner, and target, content or device of everything below `root`."""
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
    """The base layer less some names."""
    return {key: value for key, value in BASE_SHOWN.items() if key not in names}


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
    "a directory in place of a link below that led to a file": (
        (t.entry(b"lib/foo", data=b"1"), t.directory(b"lib"), t.entry(b"lib/bar", data=b"2")),
        {
            **BASE_SHOWN,
            **{"usr/lib/foo": "-rw-r--r-- 0:0 1", "lib": "drwxr-xr-x 0:0", "lib/bar": "-rw-r--r-- 0:0 2"},
        },
    ),
    "another link in place of one below that led to a file": (
        (t.entry(b"lib/foo", data=b"1"), t.symlink(b"lib", b"usr"), t.entry(b"lib/bar", data=b"2")),
        {
            **BASE_SHOWN,
            **{"usr/lib/foo": "-rw-r--r-- 0:0 1", "lib": "lrwxrwxrwx 0:0 usr", "usr/bar": "-rw-r--r-- 0:0 2"},
        },
    ),
    "a whiteout of a link below that led to a file": (
        (t.entry(b"lib/foo", data=b"1"), t.entry(b".wh.lib"), t.entry(b"lib/bar", data=b"2")),
        {
            **BASE_SHOWN,
            **{"usr/lib/foo": "-rw-r--r-- 0:0 1", "lib": "drwxr-xr-x 0:0", "lib/bar": "-rw-r--r-- 0:0 2"},
        },
    ),
    "a hard link to a file below": (
        (t.hard_link(b"usr/hl", b"plain", uid=9, gid=8, mode=0o4755),),
        {**BASE_SHOWN, "usr/hl": "-rwsr-xr-x 9:8 plain"},
    ),
    "a hard link's entry changes the file below": (
        (t.hard_link(b"hl", b"plain", uid=3, gid=4, mode=0o2711),),
        {**BASE_SHOWN, "hl": "-rwx--s--x 3:4 plain", "plain": "-rwx--s--x 3:4 plain"},
    ),
    "a hard link through a link below": (
        (t.hard_link(b"hl", b"lib/keep"),),
        {**BASE_SHOWN, "hl": "-rw-r--r-- 0:0 keep"},
    ),
    "a hard link to a link below": ((t.hard_link(b"hl", b"slink"),), {**BASE_SHOWN, "hl": "lrwxrwxrwx 0:0 plain"}),
    "a hard link to a device below": (
        (t.hard_link(b"hl", b"null", mode=0o666),),
        {**BASE_SHOWN, "hl": "crw-rw-rw- 0:0 1,3"},
    ),
}
