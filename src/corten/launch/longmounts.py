"""A new file system whose options are longer than fsconfig(2) takes: mount(2) has a page for them.

An overlay of many layers has them, and `podman -v …:O`.
"""

from __future__ import annotations

from corten.errors import InvalidArgument
from corten.launch.mountops import MOUNT_ATTR_ATIME, MS_PRIVATE, MS_RDONLY, MountDetached, MountSetattr
from corten.launch.options import SUPERBLOCK

# of mount(2)'s source and of its data, with the NUL; the kernel would cut the data off
PAGE_BYTES = 4096
SUPER_FLAGS = {**SUPERBLOCK, "ro": (MS_RDONLY, 0), "rw": (0, MS_RDONLY)}


def long_mount(
    slot: str, fstype: str, source: str, words: tuple[str, ...], attrs: int, *, magic: int, on: str
) -> tuple[MountDetached, MountSetattr]:
    """What `FsMount` would do with these words; raises `InvalidArgument` for more than a page.

    It is private like what fsmount(2) makes: the `/` that it is on for a moment may be shared.
    """
    flags, data = super_flags(words)
    if max(len(text.encode("utf-8", "surrogateescape")) for text in (source, data)) >= PAGE_BYTES:
        raise InvalidArgument(f"mount {fstype} on {on}: its source or its options are longer than a page")
    return (
        MountDetached(slot, fstype, source, flags, data, magic=magic, on=on),
        MountSetattr(slot, attrs, MOUNT_ATTR_ATIME, MS_PRIVATE, 0, on=on),
    )


def super_flags(words: tuple[str, ...]) -> tuple[int, str]:
    """`flags` and `data` of mount(2) for what fsconfig(2) takes word by word."""
    flags = 0
    data: list[str] = []
    for word in words:
        bits = SUPER_FLAGS.get(word)
        if bits:
            flags = flags & ~bits[1] | bits[0]
        else:
            data.append(word)
    return flags, ",".join(data)
