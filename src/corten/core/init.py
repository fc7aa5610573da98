"""The layer between an image and its containers: the files and directories that every container gets mounted over.

As dockerd's init layer (moby daemon/initlayer): what is mounted there later finds a place, and a container's own layer
stays empty until it writes something.  One per image, shared by its containers and dropped with the image.  A link or
file where a directory must be is covered, never followed (/dev as a link: CVE-2026-41579).
"""

from __future__ import annotations

import os

from corten.core.gc import INIT_PREFIX
from corten.core.lower import LowerView
from corten.core.snapshots import Adoption, Overlay
from corten.core.tree import copy_attributes
from corten.core.trees import Usage
from corten.sys.openat2 import openat2

DIRECTORIES = (b"dev/pts", b"dev/shm", b"proc", b"sys")
FILES = (b".dockerenv", b"dev/console", b"etc/hostname", b"etc/hosts", b"etc/resolv.conf")
LINKS = {b"etc/mtab": b"/proc/mounts"}

MODE = 0o755  # dockerd's, of files too

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def init_layer(overlay: Overlay, chain: str) -> str:
    """The key of the init layer over an image's top layer (or ''), made when missing: a parent for `prepare`."""
    key = f"{INIT_PREFIX}{chain}"
    if overlay.exists(key):
        return key
    with overlay.stage() as staged:
        root_fd = staged.open()
        try:
            with overlay.below(chain) as lower:
                made = _fill(root_fd, lower)
        finally:
            os.close(root_fd)
        overlay.adopt([Adoption(staged, key, chain, Usage(0, made))])
    return key


def _fill(root_fd: int, lower: LowerView) -> int:
    """Makes what the image does not have, and the files in any case; how many."""
    made = 0
    for path in DIRECTORIES:
        found = lower.find(path)
        if found is None or not found.is_directory:
            made += _directory(root_fd, path, lower)
    for path in (*FILES, *LINKS):
        parent, _, name = path.rpartition(b"/")
        made += _directory(root_fd, parent, lower) + 1
        fd = openat2(root_fd, parent or b".", _DIRECTORY)
        try:
            _leaf(fd, name, LINKS.get(path))
        finally:
            os.close(fd)
    return made


def _leaf(fd: int, name: bytes, target: bytes | None) -> None:
    if target is not None:
        os.symlink(target, name, dir_fd=fd)
        return
    file_fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, MODE, dir_fd=fd)
    os.fchmod(file_fd, MODE)
    os.close(file_fd)


def _directory(root_fd: int, path: bytes, lower: LowerView) -> int:
    """The directory in this layer, looking as below when there is one; how many were made."""
    if not path:
        return 0
    parent, _, name = path.rpartition(b"/")
    made = _directory(root_fd, parent, lower)
    parent_fd = openat2(root_fd, parent or b".", _DIRECTORY)
    try:
        os.mkdir(name, 0o700, dir_fd=parent_fd)
        fd = openat2(parent_fd, name, _DIRECTORY)
    except FileExistsError:
        return made
    finally:
        os.close(parent_fd)
    try:
        os.fchmod(fd, MODE)
        found = lower.find(path)
        if found is not None and found.is_directory:
            copy_attributes(found, fd)
    finally:
        os.close(fd)
    return made + 1
