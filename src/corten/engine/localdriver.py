"""The volume driver `local`: its options, and what it mounts for them.

Options as Docker's (volume/local): `type`, `device`, `o`, as of mount(8); `size` needs project quotas (core.projects).
With a type the device is mounted on the volume's directory while a container uses it, else the directory is the volume.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from typing import Final

from corten.errors import Internal, InvalidArgument
from corten.spec.units import parse_size
from corten.sys import mount

Options = Mapping[str, str]

_KNOWN: Final = frozenset({"type", "o", "device", "size"})
_NEEDS: Final = {"device": ("type",), "type": ("device",), "o": ("device", "type")}
_REMOUNT: Final = 32
# mount(2): word → (flag, whether the word takes it away); moby/sys/mount, flags_linux.go
_FLAGS: Final = {
    "ro": (1, False), "rw": (1, True), "nosuid": (2, False), "suid": (2, True), "nodev": (4, False), "dev": (4, True),
    "noexec": (8, False), "exec": (8, True), "sync": (16, False), "async": (16, True), "remount": (32, False),
    "mand": (64, False), "nomand": (64, True), "dirsync": (128, False), "noatime": (1024, False),
    "atime": (1024, True), "nodiratime": (2048, False), "diratime": (2048, True), "bind": (4096, False),
    "rbind": (4096 | 16384, False), "unbindable": (1 << 17, False), "runbindable": (1 << 17 | 16384, False),
    "private": (1 << 18, False), "rprivate": (1 << 18 | 16384, False), "slave": (1 << 19, False),
    "rslave": (1 << 19 | 16384, False), "shared": (1 << 20, False), "rshared": (1 << 20 | 16384, False),
    "relatime": (1 << 21, False), "norelatime": (1 << 21, True), "strictatime": (1 << 24, False),
    "nostrictatime": (1 << 24, True),
}  # fmt: skip
_PROPAGATION: Final = 1 << 17 | 1 << 18 | 1 << 19 | 1 << 20
_READ_ONLY_BIND: Final = mount.MS_BIND | mount.MS_RDONLY
_PASSWORD: Final = re.compile(r"\b(pass(?:word2?)?)=(?:[^,]|,,)*")  # cifs: a comma in it is doubled
_STARS: Final = r"\1=********"
_REMOTE: Final = frozenset({"nfs", "nfs4", "cifs"})


def check_options(options: Options | None, *, has_quotas: bool = False) -> None:
    """Raises InvalidArgument in dockerd's words."""
    given = options or {}
    if any("\0" in value for value in given.values()):
        raise InvalidArgument("options with NUL")
    for name in given:
        if name not in _KNOWN:
            raise InvalidArgument(f'invalid option: "{name}"')
    for name, needed in _NEEDS.items():
        for other in needed if name in given else ():
            if other not in given:
                raise InvalidArgument(f'missing required option: "{other}"')
    if "size" in given:
        _check_size(given["size"], has_quotas=has_quotas)


def _check_size(text: str, *, has_quotas: bool) -> None:
    try:
        size = parse_size(text, 1024)
    except ValueError:
        raise InvalidArgument(f"invalid size: '{text}'") from None
    if size > 0 and not has_quotas:
        raise InvalidArgument("quota size requested but no quota support")


def needs_mount(options: Options | None) -> bool:
    """Whether the directory alone is not the volume."""
    return bool(options) and bool((options or {}).get("device") or (options or {}).get("type"))


def mount_options(text: str) -> tuple[int, str]:
    """Flags of mount(2), and the words that are the file system's."""
    flags, data = 0, []
    for word in text.split(","):
        flag, is_cleared = _FLAGS.get(word, (0, False))
        if not flag:
            data.append(word)
        elif is_cleared:
            flags &= ~flag
        else:
            flags |= flag
    return flags, ",".join(data)


def mount_volume(options: Options, target: str) -> None:
    """Mounts the device of a volume on its directory; blocks, for a file system of the network as long as that takes.

    Raises Internal in dockerd's words.
    """
    device, kind = options.get("device", ""), options.get("type", "")
    text = options.get("o", "")
    if not device:
        raise Internal("missing device in volume options")
    if kind in _REMOTE:
        device, text = _with_numbers(device, kind, text)
    flags, data = mount_options(text)
    plain = flags & ~_PROPAGATION
    _call("mount", device, target, kind, plain, data)
    try:
        if flags & _PROPAGATION:
            _call("remount", "", target, "", flags & (_PROPAGATION | mount.MS_REC), "")
        if plain & _READ_ONLY_BIND == _READ_ONLY_BIND:
            _call("remount-ro", "", target, "", plain | _REMOUNT, "")
    except Internal:
        unmount_volume(target)
        raise


def _call(verb: str, source: str, target: str, kind: str, flags: int, data: str) -> None:
    try:
        mount.mount(source, target, kind, flags, data)
    except OSError as error:
        text = f"failed to mount local volume: {verb} {f'{source}:' if source else ''}{target}"
        text += f", flags: {flags:#x}" if flags else ""
        text += f", data: {_PASSWORD.sub(_STARS, data)}" if data else ""
        raise Internal(f"{text}: {os.strerror(error.errno or 0).lower()}") from error


def _with_numbers(device: str, kind: str, text: str) -> tuple[str, str]:
    """Device and options with a number in place of the name after `addr=`: the kernel knows no names.

    Without that word, the host in the device of cifs.
    """
    words = text.split(",")
    for index, word in enumerate(words):
        key, _, value = word.partition("=")
        if key == "addr" and value:
            words[index] = f"addr={_number_of(value)}"
            return device, ",".join(words)
    host, slash, path = device.removeprefix("//").partition("/")
    if kind == "cifs" and device.startswith("//") and host:
        device = f"//{_number_of(host)}{slash}{path}"
    return device, text


def _number_of(host: str) -> str:
    if _is_number(host):
        return host
    try:
        found = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that none can be, such as a..b
        reason = "no such host"
        if isinstance(error, OSError) and error.errno != socket.EAI_NONAME:
            reason = (error.strerror or "").lower()
        raise Internal(f"error resolving passed in network volume address: lookup {host}: {reason}") from error
    return str(found[0][4][0])


def _is_number(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def is_mounted(target: str) -> bool:
    """Whether something is mounted exactly there."""
    return os.path.realpath(os.path.dirname(target)) + "/" + os.path.basename(target) in mount.mount_points()


def unmount_volume(target: str) -> None:
    """Ends the mount, also while somebody has files open in it.  Raises OSError."""
    mount.umount(target, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
