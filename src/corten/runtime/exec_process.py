"""The process that `exec` is asked for: a process file, or the container's own process with changes."""

from __future__ import annotations

from corten.errors import InvalidArgument, NotFound
from corten.runtime import fast
from corten.spec.process import CAPABILITIES, Capabilities, User, capability_mask, parse_process
from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.runtime.args import Options
    from corten.runtime.state import State
    from corten.spec.process import Process

U32 = 0xFFFFFFFF
DIGITS = 40  # more, with zeros in front, nobody writes; the interpreter would refuse thousands in its own words


def from_file(path: str) -> Process:
    """The process object in a file; raises NotFound, or InvalidArgument naming the field."""
    try:
        content = files.read(path)
    except FileNotFoundError:
        raise NotFound(f"open {path}: no such file or directory") from None
    return parse_process(fast.loads_from(path, content))


def from_flags(record: State, command: list[str], flags: Options) -> Process:
    """`command` as the container's own process would run it, but for what the flags say."""
    process = record.config().process
    assert process is not None  # create refuses a bundle without one
    process.args = tuple(command)
    process.terminal = flags.is_set("tty")
    process.cwd = flags.text("cwd") or process.cwd
    if not process.cwd.startswith("/"):
        raise InvalidArgument("Cwd must be an absolute path")  # runc's words
    process.env = (*process.env, *flags.items("env"))
    process.no_new_privileges = process.no_new_privileges or flags.is_set("no-new-privs")
    process.apparmor_profile = flags.text("apparmor") or process.apparmor_profile
    process.selinux_label = flags.text("process-label") or process.selinux_label
    if flags.text("user"):
        process.user = user(flags.text("user"), process.user)
    if flags.items("additional-gids"):
        gids = tuple(number(text, "additional-gids") for text in flags.items("additional-gids"))
        process.user = User(process.user.uid, process.user.gid, process.user.umask, gids)
    if flags.items("cap"):
        process.capabilities = with_capabilities(process.capabilities, flags.items("cap"))
    return process


def user(text: str, before: User) -> User:
    """`UID` or `UID:GID`; names are not looked up, and never numbers taken for names (runc 2016-3697)."""
    uid, has_gid, gid = text.partition(":")
    return User(
        number(uid, "user"),
        number(gid, "user") if has_gid else before.gid,
        before.umask,
        before.additional_gids,
    )


def number(text: str, flag: str) -> int:
    """An id of 32 bits in decimal."""
    if not (text.isascii() and text.isdigit()) or len(text) > DIGITS or int(text) >= U32:
        raise InvalidArgument(f"{flag}: {text!r} is not a numeric id")
    return int(text)


def with_capabilities(before: Capabilities | None, names: list[str]) -> Capabilities:
    """Capabilities added to bounding, effective and permitted; an exec makes none inheritable or ambient.

    A name that nobody knows is kept, so that it can be told (`corten.runtime.prepare.warn_of_capabilities`).
    """
    mask = capability_mask(tuple(names))
    unknown = {name for name in names if name not in CAPABILITIES}
    had = before or Capabilities()
    return Capabilities(
        had.bounding | mask,
        had.effective | mask,
        had.inheritable,
        had.permitted | mask,
        had.ambient,
        tuple(sorted(unknown.union(had.unknown))),
    )
