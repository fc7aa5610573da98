"""Binds, volumes, mounts and tmpfs of a container: from Docker's notations to one value.

`-v SOURCE:TARGET[:MODE]` (HostConfig.Binds), `--mount` (HostConfig.Mounts), `--tmpfs` (HostConfig.Tmpfs),
`-v TARGET` and VOLUME of an image (Config.Volumes), `--volumes-from` (HostConfig.VolumesFrom).
Texts and kinds of errors are dockerd's, also where it answers 500 for what is the client's mistake (Binds).
"""

from __future__ import annotations

import os
import posixpath
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal

import msgspec

from corten.core.volumes import is_name
from corten.engine import idmapspec
from corten.engine.names import NAME_CHARS
from corten.errors import CortenError, Internal, InvalidArgument
from corten.spec.docker import DriverConfig, HostConfig, Mount, TmpfsOptions, VolumeOptions

Kind = Literal["bind", "volume", "tmpfs", "image"]
Exists = Callable[[str], bool]

PROPAGATION: Final = frozenset({"private", "rprivate", "shared", "rshared", "slave", "rslave"})
# Each group may be named once in a mode: access, label, propagation, copy, consistency.
_MODE_GROUPS: Final = (
    frozenset({"ro", "rw"}),
    frozenset({"z", "Z"}),
    PROPAGATION,
    frozenset({"nocopy"}),
    frozenset({"consistent", "cached", "delegated"}),
)
VOLUMES_MAX: Final = 512  # of a container: an image asks for as many as it likes, and nothing else is done meanwhile
LOCAL: Final = "local"  # the one volume driver
_READ_ONLY_ANONYMOUS: Final = "must not set ReadOnly mode when using anonymous volumes"
_TMPFS_OPTIONS: Final = frozenset({"exec", "noexec"})
_SIZE_SUFFIXES: Final = ((30, "g"), (20, "m"), (10, "k"))
# moby/sys/mount: what may stand in the options of a tmpfs, beside flags
_TMPFS_KEYS: Final = frozenset({"mode", "uid", "gid", "size", "mpol", "nr_inodes", "nr_blocks"})
_FLAG_PAIRS: Final = (
    ("ro", "rw"), ("suid", "nosuid"), ("dev", "nodev"), ("exec", "noexec"), ("sync", "async"),
    ("dirsync",), ("remount",), ("mand", "nomand"), ("atime", "noatime"), ("diratime", "nodiratime"),
    ("bind",), ("rbind",), ("unbindable",), ("runbindable",), ("private", "rprivate"), ("shared", "rshared"),
    ("slave", "rslave"), ("relatime", "norelatime"), ("strictatime", "nostrictatime"), ("defaults",),
)  # fmt: skip


class MountPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One mount that the user asked for.

    `mode` is the text after the second colon of a bind, as inspect shows it; `data` are a tmpfs's options.
    `explicit_propagation` tells a chosen `rprivate` from the default.  Of a volume `source` is where its data lie,
    known when it is made; `name` is given to an anonymous one here.  Of an image `source` is its id.
    """

    kind: Kind
    target: str
    source: str = ""
    read_only: bool = False
    mode: str = ""
    propagation: str = ""
    explicit_propagation: bool = False
    data: str = ""
    non_recursive: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False
    create_source: bool = False
    from_tmpfs_map: bool = False  # from --tmpfs: inspect's Mounts does not list it
    name: str = ""
    driver: str = ""
    is_anonymous: bool = False  # goes with its last container
    copies: bool = False  # what the image has at `target`, into an empty volume
    subpath: str = ""
    labels: dict[str, str] | None = None
    driver_options: dict[str, str] | None = None
    id_map: str = ""  # idmapspec
    has_size: bool = False  # of a volume: no more than so much goes into it


def parse_all(
    host: HostConfig,
    exists: Exists = os.path.exists,
    *,
    volumes: Iterable[str] = (),
    borrowed: Iterable[MountPoint] = (),
) -> tuple[MountPoint, ...]:
    """Every mount of a request, sorted by depth of its target as they are made.

    `volumes`: Config.Volumes, which yield to everything else on their targets; `borrowed`: of --volumes-from, which
    yield to Binds and Mounts.
    Raises InvalidArgument or Internal in dockerd's words; of two mounts on one target: `Duplicate mount point`.
    """
    points = [parse_bind(raw, host.volume_driver) for raw in host.binds or ()]
    _refuse_duplicates(points)
    points += [parse_mount(mount, exists) for mount in host.mounts or ()]
    _refuse_duplicates(points)
    taken = {point.target for point in points}
    for target, data in (host.tmpfs or {}).items():
        point = parse_tmpfs(target, data)
        if point.target in taken:
            raise InvalidArgument(f"Duplicate mount point: {point.target}")
        points.append(point)
    taken = {point.target for point in points}
    for point in (*_last_of_each(borrowed), *(_anonymous(target, host.volume_driver) for target in volumes)):
        if point.target not in taken:
            taken.add(point.target)
            points.append(point)
    if sum(point.kind == "volume" for point in points) > VOLUMES_MAX:
        raise InvalidArgument(f"more than {VOLUMES_MAX} volumes")
    return tuple(sorted(points, key=lambda point: point.target.rstrip("/").count("/")))


def over_data_root(points: Iterable[MountPoint], data_root: str) -> tuple[MountPoint, ...]:
    """Binds that show the engine's own data get `rslave`: a mount there that ends does so in the container too.

    Raises InvalidArgument for another propagation that was asked for.
    """
    return tuple(_slave(point, data_root) if _shows(point, data_root) else point for point in points)


def _shows(point: MountPoint, data_root: str) -> bool:
    return point.kind == "bind" and (point.source.startswith(data_root) or data_root.startswith(point.source))


def _slave(point: MountPoint, data_root: str) -> MountPoint:
    if not point.explicit_propagation:
        return msgspec.structs.replace(point, propagation="rslave")
    if point.propagation in ("rslave", "rshared"):
        return point
    raise InvalidArgument(
        'invalid mount config: must use either propagation mode "rslave" or "rshared" when mount source is within the '
        f'daemon root, daemon root: "{data_root}", bind mount source: "{point.source}", '
        f'propagation: "{point.propagation}"'
    )


def _last_of_each(points: Iterable[MountPoint]) -> Iterable[MountPoint]:
    return {point.target: point for point in points}.values()


def cleaned(path: str) -> str:
    """By its text alone, as Go's filepath.Clean: of a root there is one, for all the slashes before it."""
    return posixpath.normpath(f"/{path.lstrip('/')}" if path.startswith("/") else path)


def _anonymous(target: str, driver: str) -> MountPoint:
    """One of Config.Volumes."""
    clean = cleaned(f"/{target}")
    if clean == "/":
        raise InvalidArgument(f"invalid volume specification: '{target}': destination can't be '/'")
    return _volume("", clean, driver, copies=True)


def _volume(name: str, target: str, driver: str, **more: Any) -> MountPoint:
    return MountPoint(
        kind="volume",
        name=name or secrets.token_hex(32),
        is_anonymous=not name,
        target=cleaned(target),
        driver=driver or LOCAL,
        **more,
    )


def parse_volumes_from(text: str) -> tuple[str, bool]:
    """`CONTAINER[:ro|rw|z|Z]`: the container, and whether its mounts are read-only.  Raises InvalidArgument."""
    if not text:
        raise InvalidArgument("volumes-from specification cannot be an empty string")
    ref, _, mode = text.partition(":")
    words = mode.split(",") if mode else []
    if not _is_mode(mode) or any(word in PROPAGATION or word in ("nocopy", "copy") for word in words):
        raise InvalidArgument(f"invalid mode: {mode}")
    return ref, "ro" in words


def borrow(points: Iterable[MountPoint], *, read_only: bool) -> list[MountPoint]:
    """The mounts of another container as --volumes-from takes them over: nothing is copied up again."""
    return [
        msgspec.structs.replace(point, read_only=point.read_only or read_only, copies=False, mode="")
        for point in points
        if not point.from_tmpfs_map
    ]


def _refuse_duplicates(points: Iterable[MountPoint]) -> None:
    seen: set[str] = set()
    for point in points:
        if point.target in seen:
            raise InvalidArgument(f"Duplicate mount point: {point.target}")
        seen.add(point.target)


def parse_bind(raw: str, volume_driver: str = "") -> MountPoint:
    """`SOURCE:TARGET[:MODE]`, `NAME:TARGET[:MODE]` or `TARGET`."""
    parts = raw.split(":")
    if not parts[0] or len(parts) > 3 or (len(parts) == 2 and _is_mode(parts[1])):
        raise Internal(f"invalid volume specification: '{raw}'")
    mode = parts[2] if len(parts) == 3 else ""
    if not _is_mode(mode):
        raise Internal(f"invalid mode: {mode}")
    source, target = (parts[0], parts[1]) if len(parts) > 1 else ("", parts[0])
    options = mode.split(",")
    is_bind = source.startswith("/")
    try:
        _check_target("bind" if is_bind else "volume", target)
        _check_bind_words("bind" if is_bind else "volume", options, has_source=bool(source))
    except CortenError as error:
        raise Internal(f"invalid volume specification: '{raw}': {error}") from error
    if not is_bind:
        check_name(source)
        copies = "nocopy" not in options
        return _volume(source, target, volume_driver, mode=mode or "z", read_only="ro" in options, copies=copies)
    chosen = next((option for option in options if option in PROPAGATION), "")
    return MountPoint(
        kind="bind",
        source=cleaned(source),
        target=cleaned(target),
        read_only="ro" in options,
        mode=mode,
        propagation=chosen or "rprivate",
        explicit_propagation=bool(chosen),
        create_source=True,
    )


def _check_bind_words(kind: str, options: Sequence[str], *, has_source: bool) -> None:
    """What a mode says must be of its kind."""
    if kind == "bind" and "nocopy" in options:
        raise _config_error(kind, "field VolumeOptions must not be specified")
    if kind == "volume" and PROPAGATION.intersection(options):
        raise _config_error(kind, "field BindOptions must not be specified")
    if kind == "volume" and "ro" in options and not has_source:
        raise _config_error(kind, _READ_ONLY_ANONYMOUS)


def _is_mode(mode: str) -> bool:
    if not mode:
        return True
    options = mode.split(",")
    known = all(any(option in group for group in _MODE_GROUPS) for option in options)
    return known and all(sum(option in group for option in options) <= 1 for group in _MODE_GROUPS)


def check_name(name: str) -> None:
    """Raises InvalidArgument for a volume's name that is none; "" is an anonymous one's."""
    if len(name) == 1:
        raise InvalidArgument(
            f"create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )
    if name and not is_name(name):
        raise InvalidArgument(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only "{NAME_CHARS}"'
            " are allowed. If you intended to pass a host directory, use absolute path"
        )


def _config_error(kind: str, text: str) -> InvalidArgument:
    return InvalidArgument(f'invalid mount config for type "{kind}": {text}')


def _check_target(kind: str, target: str) -> None:
    if not target:
        raise _config_error(kind, "field Target must not be empty")
    if cleaned(target) == "/":
        raise _config_error(kind, "invalid specification: destination can't be '/'")
    if not target.startswith("/"):
        raise _config_error(kind, f"invalid mount path: '{target}' mount path must be absolute")


def parse_mount(mount: Mount, exists: Exists = os.path.exists) -> MountPoint:
    """One `--mount`.  Asks whether a bind's source exists, as dockerd does at create."""
    _check_target(mount.type, mount.target)
    match mount.type:
        case "bind":
            return _bind_mount(mount, exists)
        case "tmpfs":
            return _tmpfs_mount(mount)
        case "volume":
            return _volume_mount(mount)
        case "image":
            return _image_mount(mount)
    raise _config_error(mount.type, "mount type unknown")


def _refuse_options(mount: Mount, *names: str) -> None:
    for name in names:
        attribute = name.replace("Options", "_options").lower()
        if getattr(mount, attribute) is not None:
            raise _config_error(mount.type, f"field {name} must not be specified")


def needs_source(mount: Mount) -> bool:
    """Whether it is a bind whose source must exist."""
    create = mount.bind_options is not None and mount.bind_options.create_mountpoint
    return mount.type == "bind" and mount.source.startswith("/") and not create


def _bind_mount(mount: Mount, exists: Exists) -> MountPoint:
    if not mount.source:
        raise _config_error("bind", "field Source must not be empty")
    options = mount.bind_options
    if options is not None and options.propagation and options.propagation not in PROPAGATION:
        raise _config_error("bind", f"invalid propagation mode: {options.propagation}")
    _refuse_options(mount, "VolumeOptions", "ImageOptions", "TmpfsOptions")
    if not mount.source.startswith("/"):
        raise _config_error("bind", f"invalid mount path: '{mount.source}' mount path must be absolute")
    if needs_source(mount) and not exists(mount.source):
        raise _config_error("bind", f"bind source path does not exist: {mount.source}")
    if options is not None and options.id_map:
        idmapspec.check(options.id_map)
    if options is not None and options.read_only_force_recursive and not mount.read_only:
        raise _config_error("bind", "mount source must be read-only to force recursive read-only")
    return MountPoint(
        kind="bind",
        source=cleaned(mount.source),
        target=cleaned(mount.target),
        read_only=mount.read_only,
        propagation=(options.propagation if options else "") or "rprivate",
        explicit_propagation=bool(options and options.propagation),
        non_recursive=bool(options and options.non_recursive),
        read_only_non_recursive=bool(options and options.read_only_non_recursive),
        read_only_force_recursive=bool(options and options.read_only_force_recursive),
        create_source=options is not None and options.create_mountpoint,
        id_map=options.id_map if options else "",
    )


def _volume_mount(mount: Mount) -> MountPoint:
    _refuse_options(mount, "BindOptions", "ImageOptions", "TmpfsOptions")
    if mount.read_only and not mount.source:
        raise _config_error("volume", _READ_ONLY_ANONYMOUS)
    options = mount.volume_options or VolumeOptions()
    if options.subpath and not mount.source:
        raise _config_error("volume", "must not set Subpath when using anonymous volumes")
    if options.subpath and not is_local(options.subpath):
        raise _config_error("volume", "subpath must be a relative path within the volume")
    check_name(mount.source)
    if options.id_map:
        idmapspec.check(options.id_map)
    driver = options.driver_config or DriverConfig()
    return _volume(
        mount.source,
        mount.target,
        driver.name,
        mode="z",
        read_only=mount.read_only,
        copies=not options.no_copy,
        subpath=options.subpath,
        labels=options.labels,
        driver_options=driver.options,
        id_map=options.id_map,
    )


def _image_mount(mount: Mount) -> MountPoint:
    """Its `name` is the image's as it was asked for; `source` its id, known when the container is made."""
    _refuse_options(mount, "BindOptions", "VolumeOptions", "TmpfsOptions")
    if not mount.source:
        raise _config_error("image", "field Source must not be empty")
    subpath = mount.image_options.subpath if mount.image_options is not None else ""
    if subpath and not is_local(subpath):
        raise _config_error("image", "subpath must be a relative path within the volume")
    target = cleaned(mount.target)
    return MountPoint(kind="image", name=mount.source, target=target, read_only=True, subpath=subpath)


def is_local(path: str) -> bool:
    """Go's filepath.IsLocal: relative, not empty, and `..` does not lead out of it."""
    return bool(path) and not path.startswith("/") and posixpath.normpath(path).partition("/")[0] != ".."


def _tmpfs_mount(mount: Mount) -> MountPoint:
    _refuse_options(mount, "BindOptions", "VolumeOptions", "ImageOptions")
    if mount.source:
        raise _config_error("tmpfs", "field Source must not be specified")
    return MountPoint(
        kind="tmpfs",
        target=cleaned(mount.target),
        read_only=mount.read_only,
        data=_tmpfs_data(mount.tmpfs_options, mount.read_only),
    )


def _tmpfs_data(options: TmpfsOptions | None, read_only: bool) -> str:
    parts = ["ro"] if read_only else []
    if options is None:
        return ",".join(parts)
    if options.mode:
        parts.append(f"mode={options.mode:o}")
    if options.size_bytes:
        parts.append(f"size={_size_text(options.size_bytes)}")
    for option in options.options or ():
        if not 1 <= len(option) <= 2:
            raise _config_error("tmpfs", "invalid option array length")
        if option[0] not in _TMPFS_OPTIONS:
            raise _config_error("tmpfs", f"invalid option: {option[0]}")
        parts.append("=".join(option))
    return ",".join(parts)


def _size_text(size_bytes: int) -> str:
    for shift, suffix in _SIZE_SUFFIXES:
        if size_bytes % (1 << shift) == 0:
            return f"{size_bytes >> shift}{suffix}"
    return str(size_bytes)


def parse_tmpfs(target: str, data: str) -> MountPoint:
    """One `--tmpfs TARGET[:OPTIONS]`."""
    if cleaned(target) == "/":
        raise InvalidArgument("invalid specification: destination can't be '/'")
    if not target.startswith("/"):
        raise InvalidArgument(f"invalid mount path: '{target}' mount path must be absolute")
    return MountPoint(kind="tmpfs", target=cleaned(target), data=data, from_tmpfs_map=True)


def tmpfs_options(data: str) -> list[str]:
    """The OCI options of a tmpfs: Docker's defaults, then the user's, a later word beating an earlier one.

    Raises InvalidArgument for a word that tmpfs does not have.
    """
    words = ["noexec", "nosuid", "nodev", "rprivate", *(data.split(",") if data else ())]
    kept: dict[str, str] = {}
    for word in words:
        key, equals, _ = word.partition("=")
        group = next((pair[0] for pair in _FLAG_PAIRS if word in pair), key if equals else "")
        if not group or (equals and key not in _TMPFS_KEYS):
            raise InvalidArgument(f'invalid tmpfs option "{key}"')
        kept.pop(group, None)
        kept[group] = word
    return list(kept.values())
