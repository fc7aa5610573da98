"""Who a container's process runs as: `users.lookup` over the container's own root filesystem.

The root is looked into through a detached mount of its own, made here for a moment.  What an image alone says
is remembered: containers whose own layer has no /etc have the image's accounts.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from corten.core.snapshots import Mount
from corten.engine.users import Accounts, User, lookup, read_accounts
from corten.shim.rootfs import RootMount, make_detached

_REMEMBERED: Final = 64
_INLINE_BYTES: Final = 64 << 10  # less takes no longer than a thread does


class AccountBook:
    """The accounts of root filesystems, by image."""

    def __init__(self, scratch: str) -> None:
        """`scratch`: an empty directory, used on kernels before 6.7 alone."""
        self._scratch = scratch
        self._by_image: OrderedDict[str, Accounts] = OrderedDict()

    def of(self, image_id: str, mount: Mount) -> Accounts:
        """The accounts of a container at its start."""
        if _has_own_accounts(mount):
            return self._read(mount)
        accounts = self._by_image.get(image_id)
        if accounts is None:
            accounts = self._by_image[image_id] = self._read(mount)
            if len(self._by_image) > _REMEMBERED:
                self._by_image.popitem(last=False)
        return accounts

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


async def find_user(spec: str, accounts: Accounts, group_add: Sequence[str] = ()) -> User:
    """`users.lookup`, in a thread when the files are large.  Raises Internal in dockerd's words for an unknown one."""
    if len(accounts.passwd) + len(accounts.group) <= _INLINE_BYTES:
        return lookup(spec, accounts, group_add)
    return await asyncio.to_thread(lookup, spec, accounts, group_add)
