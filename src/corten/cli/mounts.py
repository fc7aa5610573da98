"""`-v` and `--mount` arguments (docs of `docker run`, "Mount volume", "Add bind mounts or volumes using --mount")."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from typing import Any, NoReturn

from corten import errors
from corten.cli.flags import go_integer
from corten.cli.units import parse_bytes
from corten.spec.words import BOOLEANS


def parse_volume(text: str) -> str:
    """A bind whose relative source (`./x`) is made absolute, as Docker's CLI does.  Raises `InvalidArgument`."""
    if not text:
        raise errors.InvalidArgument("invalid empty volume spec")
    if text.count(":") > 2:
        raise errors.InvalidArgument(f"invalid spec: {text}: too many colons")
    source, colon, rest = text.partition(":")
    if colon and source.startswith((".", "~")):
        source = os.path.abspath(os.path.expanduser(source))
    return f"{source}{colon}{rest}"


def parse_mount(text: str) -> dict[str, Any]:
    """One Mount of the Docker API.  Raises `InvalidArgument` with Docker's reason."""
    mount: dict[str, Any] = {"Type": "volume"}
    for field in next(csv.reader([text]), []) or _refuse("EOF"):
        name, equals, value = field.partition("=")
        name = name.lower()
        if not equals and name in ("readonly", "ro", "volume-nocopy", "bind-nonrecursive"):
            value = "true"
        elif not equals:
            _refuse(f"invalid field '{field}' must be a key=value pair")
        setter = _FIELDS.get(name)
        if setter is None:
            _refuse(f"unexpected key '{name}' in '{field}'")
        try:
            setter(mount, value)
        except (ValueError, KeyError, errors.InvalidArgument):
            _refuse(f"invalid value for {name}: {value}{_CHOICES.get(name, '')}")
    _check(mount)
    return mount


def _check(mount: dict[str, Any]) -> None:
    kind = mount["Type"]
    id_map = mount.pop(_ID_MAP, "")
    if id_map and kind not in ("bind", "volume"):
        _refuse(f"idmap is of binds and volumes, not of mount type '{kind}'")
    if id_map:
        mount.setdefault(f"{kind.title()}Options", {})[_ID_MAP] = id_map
    if not kind:
        _refuse("type is required")
    if not mount.get("Target"):
        _refuse("target is required")
    for owner in ("volume", "image", "bind", "tmpfs"):
        if f"{owner.title()}Options" in mount and kind != owner:
            _refuse(f"cannot mix '{owner}-*' options with mount type '{kind}'")
    bind = mount.get("BindOptions", {})
    for field, word in (("ReadOnlyNonRecursive", "writable"), ("ReadOnlyForceRecursive", "readonly")):
        if bind.get(field) and not mount.get("ReadOnly"):
            _refuse(f"option 'bind-recursive={word}' requires 'readonly' to be specified in conjunction")
    if bind.get("ReadOnlyForceRecursive") and bind.get("Propagation") != "rprivate":
        _refuse("option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction")


def _refuse(reason: str) -> NoReturn:
    raise errors.InvalidArgument(reason)


def _set_readonly(mount: dict[str, Any], value: str) -> None:
    mount["ReadOnly"] = BOOLEANS[value]


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


def _mode(value: str) -> int:
    return go_integer(value, 1 << 32, is_signed=False, base=8)


_RECURSION: dict[str, dict[str, bool]] = {
    "enabled": {},
    "disabled": {"NonRecursive": True},
    "writable": {"ReadOnlyNonRecursive": True},
    "readonly": {"ReadOnlyForceRecursive": True},
}
_CHOICES = {"bind-recursive": ' (must be "enabled", "disabled", "writable", or "readonly")'}


def _recursive(mount: dict[str, Any], value: str) -> None:
    if value not in _RECURSION:
        raise ValueError(value)
    mount.setdefault("BindOptions", {}).update(_RECURSION[value])


def _id_map(mount: dict[str, Any], value: str) -> None:
    """Corten's own: `idmap=uids=DISK-SEEN-COUNT[#…][;gids=…]`, of a bind or a volume."""
    mount[_ID_MAP] = value


_ID_MAP = "IdMap"


def _volume_label(mount: dict[str, Any], value: str) -> None:
    name, _, text = value.partition("=")
    mount.setdefault("VolumeOptions", {}).setdefault("Labels", {})[name] = text


def _driver(field: str) -> Callable[[dict[str, Any], str], None]:
    def put(mount: dict[str, Any], value: str) -> None:
        config = mount.setdefault("VolumeOptions", {}).setdefault("DriverConfig", {})
        name, _, text = value.partition("=")
        if field == "Name":
            config["Name"] = value
        else:
            config.setdefault("Options", {})[name] = text

    return put


_FIELDS: dict[str, Callable[[dict[str, Any], str], None]] = {
    "type": lambda mount, value: mount.update(Type=value.lower()),
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
    "bind-nonrecursive": _nested("BindOptions", "NonRecursive", BOOLEANS.__getitem__),
    "idmap": _id_map,
    "volume-nocopy": _nested("VolumeOptions", "NoCopy", BOOLEANS.__getitem__),
    "volume-driver": _driver("Name"),
    "volume-opt": _driver("Options"),
    "image-subpath": _nested("ImageOptions", "Subpath", str),
    "volume-subpath": _nested("VolumeOptions", "Subpath", str),
    "volume-label": _volume_label,
    "tmpfs-size": _nested("TmpfsOptions", "SizeBytes", parse_bytes),
    "tmpfs-mode": _nested("TmpfsOptions", "Mode", _mode),
}
