"""`--blkio-weight`, `--device-read-bps` and their kind.  What the kernel cannot do is discarded with dockerd's warning.

Device paths become numbers at start, for they may be others then.  runtime-spec config-linux.md, "Block IO".
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any, Final

from corten.engine.host import Host
from corten.engine.looks import Looks
from corten.errors import Internal, InvalidArgument
from corten.spec.docker import Resources

# attribute, of Host, what the warning says of it
_DISCARDED: Final = (
    ("blkio_weight", "has_blkio_weight", "Block I/O weight", "Weight"),
    ("blkio_weight_device", "has_blkio_weight_device", "Block I/O weight_device", "Weight-device"),
    ("blkio_device_read_bps", "has_blkio_throttle", "BPS Block I/O read limit", "Block I/O BPS read limit"),
    ("blkio_device_write_bps", "has_blkio_throttle", "BPS Block I/O write limit", "Block I/O BPS write limit"),
    ("blkio_device_read_iops", "has_blkio_throttle", "IOPS Block read limit", "Block I/O IOPS read limit"),
    ("blkio_device_write_iops", "has_blkio_throttle", "IOPS Block write limit", "Block I/O IOPS write limit"),
)
_THROTTLES: Final = (
    ("blkio_device_read_bps", "throttleReadBpsDevice"),
    ("blkio_device_write_bps", "throttleWriteBpsDevice"),
    ("blkio_device_read_iops", "throttleReadIOPSDevice"),
    ("blkio_device_write_iops", "throttleWriteIOPSDevice"),
)
_MIN_WEIGHT: Final = 10
_MAX_WEIGHT: Final = 1000


def adapt(limits: Resources, machine: Host) -> tuple[dict[str, Any], list[str]]:
    """What of HostConfig changes on this machine, and dockerd's warnings.  Raises InvalidArgument for wrong values."""
    change: dict[str, Any] = {}
    warnings = []
    for attribute, ability, title, discarded in _DISCARDED:
        value = getattr(limits, attribute)
        if value and not getattr(machine, ability):
            change[attribute] = [] if isinstance(value, list) else 0
            unable = f"Your kernel does not support {title} or the cgroup is not mounted."
            warnings.append(f"{unable} {discarded} discarded.")
    if limits.blkio_weight and "blkio_weight" not in change:
        _check_weight(limits.blkio_weight)
    return change, warnings


def _check_weight(weight: int) -> None:
    if not _MIN_WEIGHT <= weight <= _MAX_WEIGHT:
        raise InvalidArgument(f"Range of blkio weight is from {_MIN_WEIGHT} to {_MAX_WEIGHT}")


def devices(limits: Resources) -> set[str]:
    """The paths that `block_io` will look at."""
    attributes = ("blkio_weight_device", *(attribute for attribute, _ in _THROTTLES))
    return {item.path for attribute in attributes for item in getattr(limits, attribute) or ()}


def number(path: str) -> tuple[int, int]:
    """(major, minor) of a device.  Raises Internal when it is not there."""
    try:
        found = os.stat(path).st_rdev
    except OSError as error:
        raise Internal(f"stat {path}: {(error.strerror or '').lower()}") from error
    return os.major(found), os.minor(found)


async def look(looks: Looks, host: Resources) -> dict[str, Any]:
    """`block_io` with the numbers of every device, each looked at in a thread of its path; raises NoAnswer as well."""
    numbers = {
        path: await looks.look("device", os.path.normpath(path), functools.partial(number, path))
        for path in devices(host)
    }
    return block_io(host, numbers)


def block_io(limits: Resources, numbers: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """`linux.resources.blockIO`, {} when nothing is asked for; numbers: of each path in `devices`."""
    out: dict[str, Any] = {}
    if limits.blkio_weight:
        out["weight"] = limits.blkio_weight
    if limits.blkio_weight_device:
        out["weightDevice"] = [
            _numbered(numbers[item.path], "weight", item.weight) for item in limits.blkio_weight_device
        ]
    for attribute, name in _THROTTLES:
        if items := getattr(limits, attribute):
            out[name] = [_numbered(numbers[item.path], "rate", item.rate) for item in items]
    return out


def _numbered(device: tuple[int, int], name: str, value: int) -> dict[str, int]:
    return {"major": device[0], "minor": device[1], name: value}
