"""Who a container's process runs as: `users.lookup` over the container's own root filesystem.

The root is looked into through a detached mount of its own, made here for a moment.  What an image alone says
is remembered: containers whose own layer has no /etc have the image's accounts.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from corten.core.snapshots import Mount
from corten.engine.users import Accounts, User, lookup, read_accounts
from corten.shim.rootfs import RootMount, make_detached

_REMEMBERED: Final = 64


class AccountBook:
    """The accounts of root filesystems, by image."""

    def __init__(self, scratch: str) -> None:
        """`scratch`: an empty directory, used on kernels before 6.7 alone."""
        self._scratch = scratch
        self._by_image: OrderedDict[str, Accounts] = OrderedDict()

    def user(self, spec: str, group_add: Sequence[str], image_id: str, mount: Mount) -> User:
        """The user of a container at its start.  Raises Internal in dockerd's words for an unknown one."""
        if _has_own_accounts(mount):
            return lookup(spec, self._read(mount), group_add)
        accounts = self._by_image.get(image_id)
        if accounts is None:
            accounts = self._by_image[image_id] = self._read(mount)
            if len(self._by_image) > _REMEMBERED:
                self._by_image.popitem(last=False)
        return lookup(spec, accounts, group_add)

    def _read(self, mount: Mount) -> Accounts:
        root = RootMount(mount.type, mount.source, list(mount.options))
        root_fd = make_detached(root, self._scratch)
        try:
            return read_accounts(root_fd)
        finally:
            os.close(root_fd)


def _has_own_accounts(mount: Mount) -> bool:
    upper = next((option.partition("=")[2] for option in mount.options if option.startswith("upperdir=")), "")
    return not upper or os.path.lexists(f"{upper}/etc")


def exec_user(root_fd: int, spec: str, group_add: Sequence[str] = ()) -> User:
    """The user of an exec, as the container's files say now."""
    return lookup(spec, read_accounts(root_fd), group_add)
