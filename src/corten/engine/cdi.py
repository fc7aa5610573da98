"""CDI devices: which there are in the directories of `cdi-spec-dirs`, and what they change of config.json.

A directory further back goes before one further ahead; two files of one directory with the same device make nobody have
it.  A file that cannot be read is told (`Found.errors`), and the devices of the others are there.  Files are read again
when they have changed.  All here blocks: for threads.
Sources: CDI specification, "CDI JSON Specification", "OCI Edits"; moby daemon/cdi.go.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

import msgspec

from corten.engine import cdispec, devices
from corten.engine.cdispec import Edits, Spec
from corten.engine.looks import Looks
from corten.engine.settings import Settings
from corten.errors import CortenError, Internal, InvalidArgument
from corten.spec.docker import DeviceRequest

_WHAT: Final = "CDI specifications"
_FAILED: Final = "CDI device injection failed"

Json = dict[str, Any]
_Stamp = tuple[int, int, int]


class Found(msgspec.Struct, frozen=True):
    """`devices`: qualified name → its file's edits and its own; `errors`: (path, what is wrong) of files."""

    devices: dict[str, tuple[Edits, Edits]] = {}
    errors: tuple[tuple[str, str], ...] = ()


class Registry:
    """The files of directories, kept while they do not change."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[_Stamp, Spec | str]] = {}

    def find(self, directories: Sequence[str]) -> Found:
        """Every device."""
        known: dict[str, tuple[int, str, tuple[Edits, Edits]]] = {}
        errors: list[tuple[str, str]] = []
        conflicts: set[str] = set()
        for priority, path in _files(directories):
            spec = self._spec(path)
            if isinstance(spec, str):
                errors.append((path, f"failed to load CDI Spec {spec}"))
                continue
            for device in spec.devices or ():
                name = f"{spec.kind}={device.name}"
                other = known.get(name)
                if other is not None and other[0] == priority:
                    conflicts.add(name)
                    errors.append((path, f'conflicting device "{name}" (specs "{path}", "{other[1]}")'))
                else:
                    conflicts.discard(name)
                known[name] = (priority, path, (spec.container_edits, device.container_edits))
        found = {name: edits for name, (_, _, edits) in sorted(known.items()) if name not in conflicts}
        return Found(found, tuple(errors))

    def _spec(self, path: str) -> Spec | str:
        try:
            info = os.stat(path)
            stamp = (info.st_ino, info.st_size, info.st_mtime_ns)
            kept = self._read.get(path)
            if kept is not None and kept[0] == stamp:
                return kept[1]
            spec: Spec | str = _load(path)
        except OSError as error:
            return f'failed to read CDI Spec "{path}": {(error.strerror or "").lower()}'
        except InvalidArgument as error:
            spec = f'failed to parse CDI Spec "{path}": {error.text}'
        self._read[path] = (stamp, spec)
        return spec

    def edits(self, requests: Iterable[DeviceRequest], directories: Sequence[str]) -> Edits:
        """What `requests` change.  Raises InvalidArgument and Internal with dockerd's texts."""
        own = [request for request in requests if request.driver == devices.CDI_DRIVER]
        names = [name for request in own for name in _names(request)]
        if not names:
            return Edits()
        if not directories:
            raise Internal(f"{_FAILED}: no CDI specification directories specified")
        found = self.find(directories).devices
        if missing := [name for name in names if name not in found]:
            raise Internal(f"{_FAILED}: unresolvable CDI devices {', '.join(missing)}")
        parts: list[Edits] = []
        for name in names:
            common, alone = found[name]
            parts += [alone] if any(common is one for one in parts) else [common, alone]
        return _together(parts)


class Sharer(Protocol):
    """What an engine shares: its settings, its looks at the host, what it has read."""

    settings: Settings
    host_looks: Looks
    cdi: Registry


async def look(parts: Sharer, requests: Sequence[DeviceRequest]) -> tuple[Edits, list[Json]]:
    """For `apply`; raises as `refuse_requests`, `Registry.edits` and `nodes`, and NoAnswer."""
    devices.refuse_requests(requests)
    if not requests:
        return Edits(), []
    directories = parts.settings.cdi_directories

    def work() -> tuple[Edits, list[Json]]:
        edits = parts.cdi.edits(requests, directories)
        return edits, nodes(edits)

    return await parts.host_looks.look(_WHAT, " ".join(directories), work)


async def found(parts: Sharer) -> Found:
    """Every device, for SystemInfo; also when a directory does not answer."""
    directories = parts.settings.cdi_directories
    if not directories:
        return Found()
    try:
        return await parts.host_looks.look(_WHAT, " ".join(directories), lambda: parts.cdi.find(directories))
    except CortenError as error:
        return Found(errors=((" ".join(directories), error.text),))


def _files(directories: Sequence[str]) -> Iterable[tuple[int, str]]:
    for priority, directory in enumerate(directories):
        try:
            names = sorted(os.listdir(directory))
        except OSError:  # most machines have none
            continue
        for name in names:
            path = f"{directory}/{name}"
            if name.endswith((".json", ".yaml")) and not os.path.isdir(path):
                yield priority, path


def _load(path: str) -> Spec:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidArgument("not a file")
        return cdispec.parse(file.read(cdispec.MAX_BYTES + 1), is_json=path.endswith(".json"))


def _names(request: DeviceRequest) -> list[str]:
    if request.count:
        raise InvalidArgument("unexpected count in CDI device request")
    if request.options:
        raise InvalidArgument("unexpected options in CDI device request")
    return request.device_ids or []


def _together(parts: Sequence[Edits]) -> Edits:
    fields = ("env", "device_nodes", "mounts", "hooks", "additional_gids")
    lists = {field: [value for part in parts for value in getattr(part, field) or ()] for field in fields}
    rdt = next((part.intel_rdt for part in reversed(parts) if part.intel_rdt is not None), None)
    return Edits(**lists, intel_rdt=rdt)


def nodes(edits: Edits) -> list[Json]:
    """The device nodes as config.json has them, with what only the host knows.  Raises Internal.

    `access` is no field of config.json: `apply` makes the cgroup's rule of it.
    """
    return [_node(one) for one in edits.device_nodes or ()]


def _node(wanted: cdispec.DeviceNode) -> Json:
    kind, major, minor = wanted.type, wanted.major, wanted.minor
    host = wanted.host_path or wanted.path
    if not kind or (not major and kind != "p"):
        try:
            info = os.lstat(host)
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise Internal(
                f'{_FAILED}: failed to inject devices: failed to stat CDI host device "{host}": {reason}'
            ) from error
        of_host = devices.node_type(info.st_mode)
        if not of_host:
            raise Internal(
                f'{_FAILED}: failed to inject devices: failed to stat CDI host device "{host}": invalid device node'
            )
        if kind and kind != of_host:
            told = f'CDI device ("{wanted.path}", "{host}"), host type mismatch ({kind}, {of_host})'
            raise Internal(f"{_FAILED}: failed to inject devices: {told}")
        kind = of_host
        if kind != "p" and not major:
            major, minor = os.major(info.st_rdev), os.minor(info.st_rdev)
    out: Json = {"path": wanted.path, "type": kind}
    out |= {"major": major, "minor": minor} if kind != "p" else {}
    given = {"fileMode": wanted.file_mode, "uid": wanted.uid, "gid": wanted.gid}
    out |= {key: value for key, value in given.items() if value is not None}
    return out | {"access": wanted.permissions or "rwm"}


def apply(config: Json, edits: Edits, found: Sequence[Json]) -> None:
    """Change config.json, whose device nodes of `edits` are `found`."""
    if edits == Edits():
        return
    process, linux = config["process"], config["linux"]
    process["env"] = _environment(process["env"], edits.env or ())
    _add_nodes(linux, process["user"], found)
    if edits.mounts:
        replaced = {posixpath.normpath(mount.container_path) for mount in edits.mounts}
        kept = [one for one in config["mounts"] if posixpath.normpath(one["destination"]) not in replaced]
        mounts = [*kept, *map(_mount, edits.mounts)]
        config["mounts"] = sorted(mounts, key=lambda one: posixpath.normpath(one["destination"]).count("/"))
    for hook in edits.hooks or ():
        config.setdefault("hooks", {}).setdefault(hook.hook_name, []).append(_hook(hook))
    if edits.intel_rdt is not None:
        linux["intelRdt"] = msgspec.to_builtins(edits.intel_rdt)
    groups = process["user"]["additionalGids"]
    groups += [gid for gid in dict.fromkeys(edits.additional_gids or ()) if gid and gid not in groups]


def _environment(before: Iterable[str], more: Iterable[str]) -> list[str]:
    values = dict(one.partition("=")[::2] for one in (*before, *more))
    return [f"{name}={value}" for name, value in values.items()]


def _add_nodes(linux: Json, user: Json, found: Sequence[Json]) -> None:
    for node in found:
        device = {key: value for key, value in node.items() if key != "access"}
        for key in ("uid", "gid"):
            if key not in device and user[key]:
                device[key] = user[key]
        others = [one for one in linux.get("devices", ()) if one["path"] != device["path"]]
        linux["devices"] = [*others, device]
        if device["type"] in ("b", "c") and node["access"] != cdispec.NO_PERMISSIONS:
            rule = {"allow": True, "type": device["type"], "major": device["major"], "minor": device["minor"]}
            linux["resources"]["devices"] = [*linux["resources"]["devices"], {**rule, "access": node["access"]}]


def _mount(mount: cdispec.Mount) -> Json:
    out: Json = {"destination": mount.container_path, "source": mount.host_path, "options": list(mount.options or ())}
    return out | ({"type": mount.type} if mount.type else {})


def _hook(hook: cdispec.Hook) -> Json:
    given: Json = {"path": hook.path, "args": hook.args, "env": hook.env, "timeout": hook.timeout}
    return {key: value for key, value in given.items() if value is not None}
