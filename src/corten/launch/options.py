"""Mount options as a configuration writes them: attributes of the mount, propagation, and data for the file system.

Rules: runtime-spec config.md, "Linux mount options"; mount(8); mount_setattr(2).
"""

from __future__ import annotations

from corten.errors import InvalidArgument
from corten.launch.mountops import (
    MOUNT_ATTR_ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_RELATIME,
    MOUNT_ATTR_STRICTATIME,
    MS_DIRSYNC,
    MS_LAZYTIME,
    MS_MANDLOCK,
    MS_PRIVATE,
    MS_REC,
    MS_SHARED,
    MS_SLAVE,
    MS_SYNCHRONOUS,
    MS_UNBINDABLE,
)

# word → (attributes to set, attributes to clear)
ATTRIBUTES = {
    "ro": (MOUNT_ATTR_RDONLY, 0),
    "rw": (0, MOUNT_ATTR_RDONLY),
    "nosuid": (MOUNT_ATTR_NOSUID, 0),
    "suid": (0, MOUNT_ATTR_NOSUID),
    "nodev": (MOUNT_ATTR_NODEV, 0),
    "dev": (0, MOUNT_ATTR_NODEV),
    "noexec": (MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, MOUNT_ATTR_NOEXEC),
    "noatime": (MOUNT_ATTR_NOATIME, MOUNT_ATTR_ATIME),
    "atime": (MOUNT_ATTR_RELATIME, MOUNT_ATTR_ATIME),
    "relatime": (MOUNT_ATTR_RELATIME, MOUNT_ATTR_ATIME),
    "norelatime": (MOUNT_ATTR_RELATIME, MOUNT_ATTR_ATIME),
    "strictatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR_ATIME),
    "nostrictatime": (MOUNT_ATTR_RELATIME, MOUNT_ATTR_ATIME),
    "nodiratime": (MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, MOUNT_ATTR_NOSYMFOLLOW),
}
# with an `r` before it, for the mounts below as well; the kernel has no bit for relatime, so that mount_setattr(2) has
# none to take away from a tree (as in runc)
RECURSIVE = {f"r{word}": bits for word, bits in ATTRIBUTES.items()} | {"rnorelatime": (0, 0)}
# what a remount takes away unless it names it; access times apart
REPLACED = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSYMFOLLOW
ATIMES = MOUNT_ATTR_ATIME | MOUNT_ATTR_NODIRATIME
PROPAGATIONS = {
    "shared": MS_SHARED,
    "rshared": MS_SHARED | MS_REC,
    "slave": MS_SLAVE,
    "rslave": MS_SLAVE | MS_REC,
    "private": MS_PRIVATE,
    "rprivate": MS_PRIVATE | MS_REC,
    "unbindable": MS_UNBINDABLE,
    "runbindable": MS_UNBINDABLE | MS_REC,
}
# word of fsconfig(2) → what it is to mount(2): flags to set and to clear; none where file systems settle it themselves
# and the kernel takes no word for it.  They are of the file system, so a bind cannot change them and passes over them,
# as mount(2) does.
SUPERBLOCK = {
    "sync": (MS_SYNCHRONOUS, 0),
    "async": (0, MS_SYNCHRONOUS),
    "dirsync": (MS_DIRSYNC, 0),
    "lazytime": (MS_LAZYTIME, 0),
    "nolazytime": (0, MS_LAZYTIME),
    "mand": (MS_MANDLOCK, 0),
    "nomand": (0, MS_MANDLOCK),
    "iversion": None,
    "noiversion": None,
    "acl": None,
    "noacl": None,
    "silent": None,
    "loud": None,
}
UNSUPPORTED = ("copy-symlink",)
# bytes of a key or a value in fsconfig(2)
LONGEST = 255


class MountOptions:
    """One mount's options, sorted.  `attr_set` and `attr_clear` are of the mount itself, `all_…` of those below too.

    `is_bind` is given where the mount's type says so.
    """

    __slots__ = (
        "all_clear", "all_set", "attr_clear", "attr_set", "copies_up", "data", "id_mapped", "is_bind", "is_remount",
        "maps_below", "propagation", "recursive",
    )  # fmt: skip

    def __init__(self, options: tuple[str, ...], where: str, *, is_bind: bool = False) -> None:
        self.attr_set = self.attr_clear = self.all_set = self.all_clear = 0
        self.propagation = 0
        self.is_bind = is_bind
        self.id_mapped = self.maps_below = False
        self.is_remount = self.recursive = self.copies_up = False
        superblock: list[str] = []
        data: list[str] = []
        for word in options:
            if word in ATTRIBUTES:
                set_, clear = ATTRIBUTES[word]
                self.attr_set = self.attr_set & ~clear | set_
                self.attr_clear = self.attr_clear & ~set_ | clear
            elif word in RECURSIVE:
                set_, clear = RECURSIVE[word]
                self.all_set = self.all_set & ~clear | set_
                self.all_clear = self.all_clear & ~set_ | clear
            elif word in PROPAGATIONS:
                self.propagation = PROPAGATIONS[word]
            elif word in ("bind", "rbind"):
                self.is_bind = True
                self.recursive = self.recursive or word == "rbind"
            elif word in ("idmap", "ridmap"):
                self.id_mapped = True
                self.maps_below = word == "ridmap"
            elif word == "remount":
                self.is_remount = True
            elif word in SUPERBLOCK:
                superblock.append(word)
            elif word in ("tmpcopyup", "notmpcopyup"):
                self.copies_up = word == "tmpcopyup"
            elif word in UNSUPPORTED:
                raise InvalidArgument(f"{where}: mount option {word!r} is not supported yet")
            elif word and word != "defaults":
                data.append(word)
        if self.is_bind and data:
            raise InvalidArgument(f"{where}: bind mounts cannot have file system options ({', '.join(data)})")
        self.data = () if self.is_bind else (*[word for word in superblock if SUPERBLOCK[word]], *data)

    def replacing(self) -> tuple[int, int]:
        """Attributes to set and to clear where these options replace those of a mount, as `remount` does.

        Access times stay as they are without a word on them (mount(2), MS_REMOUNT).
        """
        set_ = self.attr_set | self.all_set
        clear = REPLACED & ~set_
        if (set_ | self.attr_clear | self.all_clear) & ATIMES:
            clear |= ATIMES & ~(set_ & MOUNT_ATTR_NODIRATIME)
        return set_, clear


def is_long(words: tuple[str, ...]) -> bool:
    """Words that fsconfig(2) does not take: with a key or a value of more than 255 bytes."""
    parts = [part for word in words for part in word.split("=", 1)]
    return any(len(part.encode("utf-8", "surrogateescape")) > LONGEST for part in parts)
