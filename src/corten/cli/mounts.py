"""`-v` and `--mount` arguments (docs of `docker run`, "Mount volume", "Add bind mounts or volumes using --mount")."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from typing import Any

from corten import errors
from corten.cli.units import parse_bytes

_TRUE = {"1": True, "true": True, "": True, "0": False, "false": False}


def parse_volume(text: str) -> str:
    """A bind whose relative source (`./x`) is made absolute, as Docker's CLI does."""
    source, colon, rest = text.partition(":")
    if colon and source.startswith((".", "~")):
        source = os.path.abspath(os.path.expanduser(source))
    return f"{source}{colon}{rest}"


def parse_mount(text: str) -> dict[str, Any]:
    """One Mount of the Docker API.  Raises `InvalidArgument` with Docker's words."""
    mount: dict[str, Any] = {"Type": "volume"}
    for field in next(csv.reader([text])):
        name, equals, value = field.partition("=")
        setter = _FIELDS.get(name.lower())
        if setter is None:
            raise _invalid(text, f"unexpected key '{name}' in '{field}'")
        if not equals and setter is not _set_readonly:
            raise _invalid(text, f"invalid field '{field}' must be a key=value pair")
        setter(mount, value)
    if not mount.get("Target"):
        raise _invalid(text, "target is required")
    return mount


def _invalid(text: str, reason: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(f'invalid argument "{text}" for "--mount" flag: {reason}')


def _set_readonly(mount: dict[str, Any], value: str) -> None:
    if value.lower() not in _TRUE:
        raise errors.InvalidArgument(f"invalid value for readonly: {value}")
    mount["ReadOnly"] = _TRUE[value.lower()]


def _set_source(mount: dict[str, Any], value: str) -> None:
    mount["Source"] = os.path.abspath(value) if value.startswith(".") else value


def _plain(field: str) -> Callable[[dict[str, Any], str], None]:
    def put(mount: dict[str, Any], value: str) -> None:
        mount[field] = value

    return put


def _nested(group: str, field: str, convert: Callable[[str], Any]) -> Callable[[dict[str, Any], str], None]:
    def put(mount: dict[str, Any], value: str) -> None:
        mount.setdefault(group, {})[field] = convert(value)

    return put


def _boolean(value: str) -> bool:
    if value.lower() not in _TRUE:
        raise errors.InvalidArgument(f"invalid boolean value: {value}")
    return _TRUE[value.lower()]


def _recursive(mount: dict[str, Any], value: str) -> None:
    options = mount.setdefault("BindOptions", {})
    fields = {
        "enabled": {},
        "disabled": {"NonRecursive": True},
        "writable": {"ReadOnlyNonRecursive": True},
        "readonly": {"ReadOnlyForceRecursive": True},
    }
    if value not in fields:
        raise errors.InvalidArgument(
            f'invalid value for bind-recursive: {value} (must be "enabled", "disabled", "writable", or "readonly")'
        )
    options.update(fields[value])


def _volume_label(mount: dict[str, Any], value: str) -> None:
    name, _, text = value.partition("=")
    mount.setdefault("VolumeOptions", {}).setdefault("Labels", {})[name] = text


_FIELDS: dict[str, Callable[[dict[str, Any], str], None]] = {
    "type": _plain("Type"),
    "source": _set_source,
    "src": _set_source,
    "target": _plain("Target"),
    "dst": _plain("Target"),
    "destination": _plain("Target"),
    "readonly": _set_readonly,
    "ro": _set_readonly,
    "consistency": _plain("Consistency"),
    "bind-propagation": _nested("BindOptions", "Propagation", str),
    "bind-recursive": _recursive,
    "bind-create-src": _nested("BindOptions", "CreateMountpoint", _boolean),
    "volume-nocopy": _nested("VolumeOptions", "NoCopy", _boolean),
    "volume-subpath": _nested("VolumeOptions", "Subpath", str),
    "volume-label": _volume_label,
    "tmpfs-size": _nested("TmpfsOptions", "SizeBytes", parse_bytes),
    "tmpfs-mode": _nested("TmpfsOptions", "Mode", lambda text: int(text, 8)),
}
