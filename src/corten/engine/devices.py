"""`--device`, `--device-cgroup-rule` and the devices of a privileged container."""

from __future__ import annotations

import functools
import os
import re
import stat
from collections.abc import Iterable, Iterator
from typing import Any, Final

from corten.engine.looks import Looks
from corten.errors import Internal, InvalidArgument
from corten.spec.docker import DeviceMapping, DeviceRequest

_RULE: Final = re.compile(r"^([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})$")
_ALL_ACCESS: Final = "rwm"
CDI_DRIVER: Final = "cdi"  # engine.cdi
# What containerd leaves out of a privileged container's devices: file systems of their own, and the console.
_SKIPPED_DIRECTORIES: Final = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"})
_SKIPPED_FILES: Final = frozenset({"console"})

Device = dict[str, Any]
Rule = dict[str, Any]
ALLOW_ALL: Final[Rule] = {"allow": True, "access": _ALL_ACCESS}


def mapped(mapping: DeviceMapping) -> tuple[list[Device], list[Rule]]:
    """The nodes and cgroup rules of one `--device HOST[:CONTAINER[:PERMISSIONS]]`; a directory gives all in it.

    Raises Internal with dockerd's text (it answers 500).
    """
    host, inside = mapping.path_on_host, mapping.path_in_container or mapping.path_on_host
    access = mapping.cgroup_permissions or _ALL_ACCESS
    source = os.path.realpath(host)
    try:
        info = os.stat(source)
    except OSError as error:
        raise _gather_error(host, (error.strerror or "").lower()) from error
    if stat.S_ISDIR(info.st_mode):
        found = [_device(path, inside + path[len(source) :]) for path in _walk(source)]
        devices = [device for device in found if device is not None]
    else:
        device = _device(source, inside)
        devices = [device] if device is not None else []
    if not devices:
        raise _gather_error(host, "not a device node")
    return devices, [_allow(device, access) for device in devices]


async def look(looks: Looks, mapping: DeviceMapping) -> tuple[list[Device], list[Rule]]:
    """`mapped` in a thread of its path; raises NoAnswer as well."""
    return await looks.look("device", os.path.normpath(mapping.path_on_host), functools.partial(mapped, mapping))


def _gather_error(path: str, reason: str) -> Internal:
    return Internal(f'error gathering device information while adding custom device "{path}": {reason}')


def _allow(device: Device, access: str) -> Rule:
    kind = "c" if device["type"] == "u" else device["type"]
    return {"allow": True, "type": kind, "major": device["major"], "minor": device["minor"], "access": access}


def _device(source: str, inside: str) -> Device | None:
    info = os.stat(source)
    if not (stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode)):
        return None
    return {
        "path": inside,
        "type": "c" if stat.S_ISCHR(info.st_mode) else "b",
        "major": os.major(info.st_rdev),
        "minor": os.minor(info.st_rdev),
        "fileMode": stat.S_IMODE(info.st_mode),
        "uid": info.st_uid,
        "gid": info.st_gid,
    }


def node_type(mode: int) -> str:
    """`c`, `b` or `p` as config.json has it, "" for what is no device node."""
    kinds = ((stat.S_ISCHR, "c"), (stat.S_ISBLK, "b"), (stat.S_ISFIFO, "p"))
    return next((kind for test, kind in kinds if test(mode)), "")


def _walk(directory: str) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in _SKIPPED_DIRECTORIES:
                yield from _walk(entry.path)
        elif not entry.is_symlink() and entry.name not in _SKIPPED_FILES:
            yield entry.path


def every_device() -> list[Device]:
    """All device nodes of the host's /dev, for --privileged."""
    found = (_device(path, path) for path in _walk("/dev"))
    return [device for device in found if device is not None]


def refuse_requests(requests: Iterable[DeviceRequest]) -> None:
    """`--gpus`: no driver but that of CDI serves here.  Raises InvalidArgument with dockerd's text."""
    for request in requests:
        if request.driver == CDI_DRIVER:
            continue
        sets = " ".join(f"[{' '.join(names)}]" for names in request.capabilities or ())
        raise InvalidArgument(f'could not select device driver "{request.driver}" with capabilities: [{sets}]')


def cgroup_rules(rules: Iterable[str]) -> list[Rule]:
    """`--device-cgroup-rule 'c 13:* rwm'`; raises Internal with dockerd's text (it answers 500)."""
    out = []
    for text in rules:
        found = _RULE.match(text)
        if not found:
            raise Internal(f"invalid device cgroup rule format: '{text}'")
        rule: Rule = {"allow": True, "type": found[1], "access": found[4]}
        for key, number in (("major", found[2]), ("minor", found[3])):
            if number != "*":
                rule[key] = int(number)
        out.append(rule)
    return out
