"""What `docker cp SRC DEST` means: a pure question of what is at both ends (moby pkg/archive/copy.go).

DEST is        a directory    a file        missing           missing, with / at its end
SRC a file     into it        replaces it   takes the name    no such directory
SRC a dir      into it        refused       takes the name    takes the name
SRC dir/.      contents       refused       takes the name    takes the name
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from dataclasses import dataclass

from corten.cli.command import Failure

_LINKS_MAX = 10


@dataclass(frozen=True, slots=True)
class End:
    """One end of a copy; `rebase` is the name that an archive of it is to have instead of the path's last one."""

    path: str
    exists: bool = False
    is_directory: bool = False
    rebase: str = ""


@dataclass(frozen=True, slots=True)
class Way:
    """Unpack in `folder`; in names the first `old` becomes `new`, unless both are the same."""

    folder: str
    old: str = ""
    new: str = ""

    def renamed(self, name: str) -> str:
        """A name of the archive as it is to be unpacked."""
        return name if self.old == self.new else name.replace(self.old, self.new, 1)


def split_argument(text: str) -> tuple[str, str]:
    """(container, path); no container for a local path."""
    container, colon, path = text.partition(":")
    if text.startswith("/") or not colon or container.startswith("."):
        return "", text
    return container, path


def base(path: str) -> str:
    """Go's filepath.Base."""
    if not path:
        return "."
    return path.rstrip("/").rpartition("/")[2] or "/"


def clean(path: str) -> str:
    """Go's filepath.Clean."""
    cleaned = posixpath.normpath(path) if path else "."
    return cleaned[1:] if cleaned.startswith("//") else cleaned


def preserve(cleaned: str, original: str) -> str:
    """The cleaned path with the `.` or slash at the end of the original one."""
    if base(cleaned) != "." and base(original) == ".":
        cleaned = cleaned.rstrip("/") + "/."
    if not cleaned.endswith("/") and original.endswith("/"):
        cleaned += "/"
    return cleaned


def absolute(path: str) -> str:
    """A local path from the root."""
    return preserve(clean(os.path.join(os.getcwd(), path)), path)


def split(path: str) -> tuple[str, str]:
    """(directory, last component), where `x/.` has the last component `.` and `/` itself."""
    cleaned = clean(path)
    if base(path) == ".":
        cleaned += "/."
    head, slash, _ = cleaned.rpartition("/")
    return clean(head or slash), base(cleaned)


def rebased(path: str, resolved: str) -> tuple[str, str]:
    """(path, name) of a link that was followed: the archive is to have the name that was asked for."""
    if base(path) == "." and base(resolved) != ".":
        resolved += "/."
    if path.endswith("/") and not resolved.endswith("/"):
        resolved += "/"
    return resolved, base(path) if base(path) != base(resolved) else ""


def beside(path: str, target: str) -> str:
    """The target of a link at `path`."""
    return target if target.startswith("/") else clean(posixpath.join(split(path)[0], target))


def local_source(path: str, *, follows: bool) -> End:
    """A local file or directory to be copied.  Raises OSError."""
    rebase = ""
    if follows:
        resolved, rebase = rebased(path, os.path.realpath(path, strict=True))
    else:
        head, _, last = path.rpartition("/")
        resolved = os.path.realpath(head or "/", strict=True).rstrip("/") + "/" + last
        if path.endswith("/") and base(path) != base(resolved):
            rebase = base(path)
    return End(resolved, exists=True, is_directory=stat.S_ISDIR(os.lstat(resolved).st_mode), rebase=rebase)


def local_destination(path: str) -> End:
    """A local place to copy to, links followed; raises OSError, Failure when the directory above is none."""
    original = path
    for _ in range(_LINKS_MAX + 2):
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return _missing(path)
        if not stat.S_ISLNK(mode):
            return End(path, exists=True, is_directory=stat.S_ISDIR(mode))
        path = beside(path, os.readlink(path))
    raise Failure(f"too many symlinks in {original}")


def _missing(path: str) -> End:
    parent = split(path)[0]
    if not stat.S_ISDIR(os.stat(parent).st_mode):
        raise Failure("not a directory")
    return End(path)


def way(source: End, destination: End) -> Way:
    """How an archive of the source is to be unpacked.  Raises Failure where that makes no sense."""
    folder, name = split(destination.path)
    if destination.exists and destination.is_directory:
        return Way(destination.path)
    if destination.exists and source.is_directory:
        raise Failure("cannot copy directory")
    if not destination.exists and not source.is_directory and asserts_directory(destination.path):
        raise Failure("no such directory")
    return Way(folder, source.rebase or renamed_part(source.path), name)


def renamed_part(path: str) -> str:
    """What of the names in an archive of `path` another name takes the place of; those of the root begin with `/`."""
    return split(path)[1].removeprefix("/")


def asserts_directory(path: str) -> bool:
    """Whether a path can only be a directory's."""
    return path.endswith("/") or base(path) == "."


def check_local_output(path: str) -> None:
    """Raises Failure in Docker's words for a place where nothing can be copied to."""
    folder = os.path.dirname(clean(path))
    if folder and not os.path.exists(folder):
        raise Failure(f'invalid output path: directory "{folder}" does not exist')
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise Failure(f"stat {path}: {os.strerror(error.errno or errno.EIO).lower()}") from None
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise Failure(f'invalid output path: "{path}" must be a directory or a regular file: got a device')
