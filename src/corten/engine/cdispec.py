"""A file of the Container Device Interface: text → `Spec`.  Pure; what is wrong is told in one line.

Source: CDI specification 0.3 to 1.0 ("CDI JSON Specification"); which errors there are is the reference library's.
YAML is read with every scalar as text, and the fields say what they are, so that `name: 0` is the name "0", as with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from corten.errors import InvalidArgument
from corten.spec.cdiname import is_device, is_kind

MAX_BYTES: Final = 1 << 20
_MAX_ALIASES: Final = 16  # each may stand for a great part of the file
_VERSIONS: Final = re.compile(r"0\.[3-8]\.0|1\.[01]\.0")
HOOKS: Final = frozenset(
    {"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}
)  # runtime-spec config.md, "POSIX-platform Hooks"
NO_PERMISSIONS: Final = "none"


class _Value(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    pass


class DeviceNode(_Value, frozen=True):
    """`host_path`: where it is on the host, if elsewhere; type and numbers are the host's where not given."""

    path: str
    host_path: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None


class Mount(_Value, frozen=True):
    host_path: str
    container_path: str
    options: list[str] | None = None
    type: str = ""


class Hook(_Value, frozen=True):
    hook_name: str
    path: str
    args: list[str] | None = None
    env: list[str] | None = None
    timeout: int | None = None


class IntelRdt(_Value, frozen=True, omit_defaults=True):
    clos_id: str = msgspec.field(default="", name="closID")
    l3_cache_schema: str = ""
    mem_bw_schema: str = ""
    enable_cmt: bool = msgspec.field(default=False, name="enableCMT")
    enable_mbm: bool = msgspec.field(default=False, name="enableMBM")


class Edits(_Value, frozen=True):
    """What a device changes of a container's config.json."""

    env: list[str] | None = None
    device_nodes: list[DeviceNode] | None = None
    mounts: list[Mount] | None = None
    hooks: list[Hook] | None = None
    intel_rdt: IntelRdt | None = None
    additional_gids: list[int] | None = None


class Device(_Value, frozen=True):
    name: str
    container_edits: Edits = Edits()
    annotations: dict[str, str] | None = None


class Spec(_Value, frozen=True):
    """`container_edits` are those of every device in it."""

    cdi_version: str
    kind: str
    devices: list[Device] | None = None
    container_edits: Edits = Edits()
    annotations: dict[str, str] | None = None


def parse(text: bytes, *, is_json: bool) -> Spec:
    """One file.  Raises InvalidArgument with one line."""
    if len(text) > MAX_BYTES:
        raise InvalidArgument(f"larger than {MAX_BYTES >> 20} MiB")
    try:
        raw = msgspec.json.decode(text) if is_json else _yaml(text)
        spec = msgspec.convert(raw, Spec, strict=False)
    except (msgspec.ValidationError, msgspec.DecodeError, RecursionError, ValueError) as error:
        raise InvalidArgument(f"failed to unmarshal CDI Spec: {' '.join(str(error).split())}") from None
    _check(spec)
    return spec


def _yaml(text: bytes) -> Any:
    import yaml

    class Loader(yaml.BaseLoader):  # type: ignore[misc]  # it has no types
        """Of scalars, only null is more than text; no key twice, few aliases."""

        aliases = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                self.aliases += 1
                if self.aliases > _MAX_ALIASES:
                    raise ValueError("too many aliases")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[str] = set()
            for one, _ in node.value:
                key = getattr(one, "value", None)
                if not isinstance(key, str) or key in seen:
                    raise ValueError(f"key {key!r} twice, or not text")
                seen.add(key)
            return super().construct_mapping(node, deep=deep)

    null = "tag:yaml.org,2002:null"
    Loader.add_implicit_resolver(null, re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
    Loader.add_constructor(null, lambda loader, node: None)
    try:
        return yaml.load(text, Loader)  # a BaseLoader, which makes no objects
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _check(spec: Spec) -> None:
    if not _VERSIONS.fullmatch(spec.cdi_version):
        raise InvalidArgument(f'invalid CDI Spec: invalid version "{spec.cdi_version}"')
    if not is_kind(spec.kind):
        raise InvalidArgument(f'invalid CDI Spec: invalid kind "{spec.kind}"')
    _check_edits(spec.container_edits)
    names: set[str] = set()
    for device in spec.devices or ():
        if not is_device(device.name):
            raise InvalidArgument(f'invalid CDI Spec: failed add device "{device.name}": invalid name')
        if device.name in names:
            raise InvalidArgument(f'invalid CDI Spec: invalid spec, multiple device "{device.name}"')
        if device.container_edits == Edits():
            raise InvalidArgument(f'invalid CDI Spec: failed add device "{device.name}": invalid device, empty edits')
        names.add(device.name)
        _check_edits(device.container_edits)
    if not names:
        raise InvalidArgument("invalid CDI Spec: invalid spec, no devices")
    if spec.cdi_version < (least := _least_version(spec)):  # each part is one digit
        raise InvalidArgument(f"invalid CDI Spec: the spec version must be at least v{least}")


def _least_version(spec: Spec) -> str:
    """That of the youngest part that it has (CDI specification, "Released versions")."""
    every = [spec.container_edits, *(device.container_edits for device in spec.devices or ())]
    if any(edits.intel_rdt is not None or edits.additional_gids for edits in every):
        return "0.7.0"
    if spec.annotations or any(one.annotations for one in spec.devices or ()) or "." in spec.kind.partition("/")[2]:
        return "0.6.0"
    has_host_path = any(node.host_path for edits in every for node in edits.device_nodes or ())
    if has_host_path or any(device.name[:1].isdigit() for device in spec.devices or ()):
        return "0.5.0"
    return "0.4.0" if any(mount.type for edits in every for mount in edits.mounts or ()) else "0.3.0"


def _check_edits(edits: Edits) -> None:
    for text in edits.env or ():
        _check_variable(text, "container edits")
    for check, values in _CHECKS:
        for value in values(edits):
            if wrong := check(value):
                raise InvalidArgument(f"invalid CDI Spec: {wrong}")
    for gid in edits.additional_gids or ():
        if not 0 <= gid < 1 << 32:
            raise InvalidArgument(f"invalid CDI Spec: additionalGids: {gid} is no group")


def _check_variable(text: str, where: str) -> None:
    if text.find("=") <= 0 or "\0" in text:
        raise InvalidArgument(f"invalid CDI Spec: invalid {where}: invalid environment variable {text!r}")


def _wrong_node(node: DeviceNode) -> str:
    if not node.path.startswith("/"):
        return f'device "{node.path}": not an absolute path'
    if node.type not in ("", "b", "c", "u", "p"):
        return f'device "{node.path}": invalid type "{node.type}"'
    if not 0 <= node.major < 1 << 32 or not 0 <= node.minor < 1 << 32:
        return f'device "{node.path}": invalid device number {node.major}:{node.minor}'
    if node.permissions != NO_PERMISSIONS and node.permissions.strip("rwm"):
        return f'device "{node.path}": invalid permissions "{node.permissions}"'
    if any(one is not None and not 0 <= one < 1 << 32 for one in (node.uid, node.gid, node.file_mode)):
        return f'device "{node.path}": a number out of range'
    return ""


def _wrong_hook(hook: Hook) -> str:
    if hook.hook_name not in HOOKS:
        return f'invalid hook name "{hook.hook_name}"'
    if not hook.path:
        return f'invalid hook "{hook.hook_name}" with empty path'
    for text in hook.env or ():
        _check_variable(text, f'hook "{hook.hook_name}"')
    return ""


def _wrong_mount(mount: Mount) -> str:
    if not mount.host_path:
        return "invalid mount, empty host path"
    return "" if mount.container_path else "invalid mount, empty container path"


_CHECKS: Final[tuple[tuple[Callable[[Any], str], Callable[[Edits], Any]], ...]] = (
    (_wrong_node, lambda edits: edits.device_nodes or ()),
    (_wrong_hook, lambda edits: edits.hooks or ()),
    (_wrong_mount, lambda edits: edits.mounts or ()),
)
