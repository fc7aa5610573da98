"""`userns-remap`: the user whose ids containers have, and the ranges that are his (subuid(5), subgid(5)).

dockerd documentation, "Isolate containers with a user namespace"; rules and texts are those of its parseRemappedRoot
and LoadIdentityMapping: `default`, USER, UID, USER:GROUP, UID:GID, root for nobody; lines of the uid go before those of
the name, and the ranges follow each other inside.  The group is looked up, and /etc/subgid is searched for the user.
"""

from __future__ import annotations

import grp
import logging
import os
import pwd
import shutil
import subprocess
from typing import Final

from msgspec.structs import replace

from corten.core.owners import IdMap, IdRange
from corten.engine.settings import Settings
from corten.engine.usernamespaces import UserNamespaces
from corten.errors import CortenError, FailedPrecondition, Internal, InvalidArgument
from corten.runtime.hostfacts import kernel_version
from corten.shim import idmapped

log = logging.getLogger("corten.daemon")

SETTING: Final = "userns-remap"
DEFAULT: Final = "default"
DEFAULT_USER: Final = "dockremap"
SUBUID: Final = "/etc/subuid"
SUBGID: Final = "/etc/subgid"
MAX_RANGES: Final = 340  # of a map: user_namespaces(7)
_LAST_ID: Final = (1 << 32) - 2
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TIMEOUT_S: Final = 60


def applied(settings: Settings) -> Settings:
    """The settings with the map that `userns-remap` means.  Raises what `load` does, FailedPrecondition."""
    id_map = load(settings.userns_remap)
    if id_map is None:
        return settings
    _check_kernel(settings, id_map)
    return replace(settings, id_map=id_map)


def _check_kernel(settings: Settings, id_map: IdMap) -> None:
    """Raises FailedPrecondition where nothing could be started: an old kernel, the file system of the data root."""
    kernel = kernel_version(os.uname().release)
    if kernel < idmapped.OLDEST:
        raise FailedPrecondition(f"{SETTING}: kernel {kernel[0]}.{kernel[1]}: mapped users need 5.19 or later")
    os.makedirs(settings.data_root, 0o710, exist_ok=True)
    namespaces = UserNamespaces()
    try:
        userns_fd = os.open(namespaces.path(id_map), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.close(idmapped.mapped(settings.data_root, userns_fd))
        finally:
            os.close(userns_fd)
    except CortenError as error:
        raise FailedPrecondition(f"{SETTING}: {error.text}") from error
    finally:
        namespaces.close()


def load(value: str, *, subuid: str = SUBUID, subgid: str = SUBGID) -> IdMap | None:
    """The map that a value of `userns-remap` means, None for none; makes the user of `default` where he is not.

    Raises InvalidArgument in dockerd's words, Internal.
    """
    if not value:
        return None
    user = _user(value)
    if user.pw_name == "root":
        log.warning("User namespaces: root cannot be remapped with itself; user namespaces are OFF")
        return None
    log.info("User namespaces: ID ranges will be mapped to subuid/subgid ranges of: %s", user.pw_name)
    try:
        return IdMap(
            _ranges(subuid, "subuid", user.pw_name, user.pw_uid), _ranges(subgid, "subgid", user.pw_name, user.pw_uid)
        )
    except InvalidArgument as error:
        raise InvalidArgument(f"Can't create ID mappings: {error.text}") from error


def _user(value: str) -> pwd.struct_passwd:
    """Whose ranges are meant; his group has been looked up."""
    name, colon, group = value.partition(":")
    if ":" in group:
        raise InvalidArgument(f'Invalid user/group specification in --userns-remap: "{value}"')
    number = _number(name)
    user = _by_uid(number) if number is not None else _by_name(name)
    if not colon:
        group = str(number) if number is not None else DEFAULT_USER if name == DEFAULT else name
    gid = _number(group)
    try:
        if gid is None:
            grp.getgrnam(group)
        else:
            grp.getgrgid(gid)
    except KeyError:
        unable = f'getent unable to find entry "{group}" in group database'
        if gid is not None:
            raise InvalidArgument(f"Gid {gid} has no entry in /etc/group: {unable}") from None
        what = "groupname" if colon else "gid"
        raise InvalidArgument(f'Error during {what} lookup for "{group}": {unable}') from None
    return user


def _by_uid(uid: int) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        unable = f'getent unable to find entry "{uid}" in passwd database'
        raise InvalidArgument(f"Uid {uid} has no entry in /etc/passwd: {unable}") from None


def _by_name(name: str) -> pwd.struct_passwd:
    looked = DEFAULT_USER if name == DEFAULT else name
    try:
        return pwd.getpwnam(looked)
    except KeyError:
        if name != DEFAULT:
            unable = f'getent unable to find entry "{name}" in passwd database'
            raise InvalidArgument(f'Error during uid lookup for "{name}": {unable}') from None
    _make_user()
    try:
        return pwd.getpwnam(looked)
    except KeyError:
        raise Internal(f'Error during "{DEFAULT_USER}" user creation: it is not there') from None


def _make_user() -> None:
    """A system's user and group with that name, and ranges for him, by the distribution's program as dockerd does.

    adduser makes no ranges for a system's user: usermod adds the first that nobody has.
    """
    failed = f'Error during "{DEFAULT_USER}" user creation'
    program = shutil.which("adduser", path=_PATH) or shutil.which("useradd", path=_PATH)
    if program is None:
        raise Internal(f"{failed}: cannot add user; no useradd/adduser binary found")
    if os.path.basename(program) == "adduser" and os.path.realpath(program).endswith("adduser"):
        argv = [program, "--system", "--shell", "/bin/false", "--no-create-home", "--disabled-login"]
        argv += ["--disabled-password", "--group", DEFAULT_USER]
    else:
        program = shutil.which("useradd", path=_PATH) or program
        argv = [program, "-r", "-s", "/bin/false", "-U", DEFAULT_USER]
    _run(argv, failed)
    for path, option in ((SUBUID, "-v"), (SUBGID, "-w")):
        if not _lines(path, DEFAULT_USER):
            first = _free(path)
            _run(["usermod", option, f"{first}-{first + 65535}", DEFAULT_USER], failed)


def _run(argv: list[str], failed: str) -> None:
    program = shutil.which(argv[0], path=_PATH)
    if program is None:
        raise Internal(f"{failed}: no {argv[0]} binary found")
    try:
        done = subprocess.run(
            [program, *argv[1:]],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
            env={"PATH": _PATH},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Internal(f"{failed}: {error}") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise Internal(f"{failed}: {os.path.basename(program)}: {said or f'exit status {done.returncode}'}")


def _free(path: str) -> int:
    """The first id behind all ranges of a file, 100000 at least."""
    ends = [first + count for _, first, count in _parsed(path)]
    return max([100000, *ends])


def _ranges(path: str, what: str, name: str, uid: int) -> tuple[IdRange, ...]:
    rows = _lines(path, str(uid)) or _lines(path, name)
    if not rows:
        raise InvalidArgument(f'no {what} ranges found for user "{name}"')
    if len(rows) > MAX_RANGES:
        raise InvalidArgument(f"{path}: more than {MAX_RANGES} ranges of {name}")
    found, inside = [], 0
    for first, count in rows:
        if count <= 0 or first < 0 or first + count - 1 > _LAST_ID or inside + count - 1 > _LAST_ID:
            raise InvalidArgument(f"{path}: {name}:{first}:{count}: beyond the ids there are")
        if not first:
            raise InvalidArgument(f"{path}: {name}:{first}:{count}: this gives containers the host's root")
        found.append(IdRange(inside, first, count))
        inside += count
    return tuple(found)


def _lines(path: str, name: str) -> list[tuple[int, int]]:
    return [(first, count) for owner, first, count in _parsed(path) if owner == name]


def _parsed(path: str) -> list[tuple[str, int, int]]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError as error:
        raise InvalidArgument(f"open {path}: {(error.strerror or '').lower()}") from error
    rows = []
    for line in map(str.strip, text.splitlines()):
        if not line or line.startswith("#"):
            continue
        parts = line.split(":")
        if len(parts) != 3:
            raise InvalidArgument(f"Cannot parse subuid/gid information: Format not correct for {path} file")
        rows.append((parts[0], _id(path, parts[1]), _id(path, parts[2])))
    return rows


def _id(path: str, text: str) -> int:
    number = _number(text)
    if number is None:
        failed = f"String to int conversion failed during subuid/gid parsing of {path}"
        raise InvalidArgument(f'{failed}: strconv.Atoi: parsing "{text}": invalid syntax')
    return number


def _number(text: str) -> int | None:
    """Digits alone, of a size that an id may have."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else None
