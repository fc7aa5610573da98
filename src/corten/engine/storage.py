"""How much a container's own files may take: `--storage-opt size=…`, and daemon.json's `storage-opts`.

Options and words of dockerd's overlay2 (moby daemon/graphdriver/overlay2): `size` of a container, `overlay2.size` of
those that name none.  Both need project quotas (`corten.core.projects`).

Whoever owns a file may put it into another project by an ioctl, where nothing counts for him, unless he is in a user
namespace.  So the built-in seccomp profile of a container with a size, or with a volume that has one, refuses these
calls (`RULES`); one that is privileged, or has a profile of its own or none, is not kept from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from corten.engine.mountspec import MountPoint
from corten.errors import Internal, InvalidArgument
from corten.spec.units import parse_size

SIZE: Final = "size"
DRIVER_SIZE: Final = "overlay2.size"
_IGNORED: Final = "overlay2.override_kernel_check"

# ioctl_iflags(2) and ioctl_fsxattr(2): what sets a file's project, or ends that new files have their directory's
_FSSETXATTR, _SETFLAGS, _SETFLAGS_32 = 0x401C5820, 0x40086602, 0x40046602
_SAME: Final = ~(_FSSETXATTR ^ _SETFLAGS | _FSSETXATTR ^ _SETFLAGS_32) & 0xFFFFFFFF
# One condition, on the bits that all three have: a rule takes no more of one argument.  Only the 32 bits that the
# kernel looks at count.  What else has these bits are writes to devices that a container is not given.
RULES: Final[Sequence[dict[str, Any]]] = (
    {
        "names": ["ioctl"],
        "action": "SCMP_ACT_ERRNO",
        "errnoRet": 1,
        "args": [{"index": 1, "value": _SAME, "valueTwo": _FSSETXATTR & _SAME, "op": "SCMP_CMP_MASKED_EQ"}],
    },
)


def check_options(options: Mapping[str, str], *, has_quotas: bool) -> None:
    """HostConfig.StorageOpt.  Raises Internal, as dockerd answers."""
    for key, value in options.items():
        if key.lower() != SIZE:
            raise Internal(f"Unknown option {key}")
        if not has_quotas:
            raise Internal("--storage-opt is supported only for overlay over xfs with 'pquota' mount option")
        try:
            parse_size(value, 1024)
        except ValueError as error:
            raise Internal(str(error)) from None


def size_of(options: Mapping[str, str] | None) -> int:
    """Bytes that a container's own files may take; 0 is no limit.  The options were checked."""
    return next((parse_size(value, 1024) for key, value in (options or {}).items() if key.lower() == SIZE), 0)


def driver_options(options: Sequence[str]) -> dict[str, str]:
    """daemon.json's `storage-opts` by key.  Raises InvalidArgument in dockerd's words."""
    found = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise InvalidArgument(f"unable to parse key/value option: {option}")
        key, value = key.strip().lower(), value.strip()
        if key not in (DRIVER_SIZE, _IGNORED):
            raise InvalidArgument(f"overlay2: unknown option {key}")
        if key == DRIVER_SIZE:
            try:
                parse_size(value, 1024)
            except ValueError as error:
                raise InvalidArgument(str(error)) from None
        found[key] = value
    return found


def default_options(options: Sequence[str]) -> dict[str, str]:
    """HostConfig.StorageOpt of a container that names no size; `options` were checked."""
    size = driver_options(options).get(DRIVER_SIZE, "0")
    return {SIZE: size} if parse_size(size, 1024) else {}


def is_confined(options: Mapping[str, str] | None, points: Iterable[MountPoint]) -> bool:
    """Whether something of a container has a size that its processes must not get out of."""
    return size_of(options) > 0 or any(point.has_size for point in points)
