"""Files by plain system calls: what `os`, `pathlib` and `open` do, at a tenth of their cost on a cold start.

Used by everything on the runtime's cold path (design.md §7).  Every descriptor opened here is close-on-exec.
Nothing here may be given a path that lies inside a container: those go through the launcher.
"""

from __future__ import annotations

import _thread
import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK_BYTES = 65536
O_CLOEXEC = posix.O_CLOEXEC
S_IFMT = 0o170000
S_IFDIR = 0o040000


def read(path: str) -> bytes:
    """The whole content of a regular or kernel file; raises OSError."""
    fd = posix.open(path, posix.O_RDONLY | O_CLOEXEC)
    try:
        return read_fd(fd)
    finally:
        posix.close(fd)


def read_fd(fd: int) -> bytes:
    """Everything from `fd` up to end of file."""
    data = posix.read(fd, CHUNK_BYTES)
    if not data:
        return data
    parts = [data]
    while data := posix.read(fd, CHUNK_BYTES):
        parts.append(data)
    return b"".join(parts)


def read_text(path: str) -> str:
    """The content of a file as UTF-8, undecodable bytes kept as surrogates."""
    return read(path).decode("utf-8", "surrogateescape")


def write(path: str, text: str) -> None:
    """One write(2) to an existing file, as kernel files want it; raises OSError."""
    fd = posix.open(path, posix.O_WRONLY | O_CLOEXEC)
    try:
        posix.write(fd, text.encode("utf-8", "surrogateescape"))
    finally:
        posix.close(fd)


def write_all(fd: int, data: bytes) -> None:
    """Writes all of `data` to a blocking descriptor."""
    view = memoryview(data)
    while view:
        view = view[posix.write(fd, view) :]


def replace(path: str, data: bytes, mode: int = 0o600) -> None:
    """Writes `data` beside `path` and renames it there: a reader sees the old content or the new."""
    directory, _, name = path.rpartition("/")
    unique = f".{name}.{_thread.get_native_id()}"  # threads may replace the same file
    temporary = f"{directory}/{unique}" if directory else unique
    fd = posix.open(temporary, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | O_CLOEXEC, mode)
    try:
        write_all(fd, data)
    finally:
        posix.close(fd)
    posix.rename(temporary, path)


def why(error: OSError) -> str:
    """The kernel's reason in our style: lower case, no number."""
    return (error.strerror or "unknown error").lower()


def exists(path: str) -> bool:
    """Whether `path` names anything, a dangling link apart."""
    return posix.access(path, 0)


def is_directory(path: str) -> bool:
    """Whether `path` is a directory, links followed."""
    try:
        return posix.stat(path).st_mode & S_IFMT == S_IFDIR
    except OSError:
        return False


def make_directories(path: str, mode: int = 0o755) -> list[str]:
    """mkdir -p; the directories that were missing and now exist, outermost first."""
    try:
        posix.mkdir(path, mode)
    except FileExistsError:
        return []
    except FileNotFoundError:
        made = make_directories(parent(path), mode)
        posix.mkdir(path, mode)
        return [*made, path]
    return [path]


def parent(path: str) -> str:
    """The directory part of an absolute path."""
    return path.rstrip("/").rpartition("/")[0] or "/"


def subdirectories(path: str) -> Iterator[str]:
    """Every directory below `path`, deepest first, without `path` itself; one that vanishes is skipped."""
    try:
        names = [entry.name for entry in posix.scandir(path) if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        yield from subdirectories(f"{path}/{name}")
        yield f"{path}/{name}"


def remove_tree(path: str) -> None:
    """Removes a directory of ours and the files in it, one level of directories at a time; absent is fine."""
    try:
        entries = list(posix.scandir(path))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            remove_tree(entry.path)
        else:
            posix.unlink(entry.path)
    posix.rmdir(path)


def absolute(path: str) -> str:
    """`path` from the root, `.`, `..` and double slashes taken out by text alone, as runc does it."""
    if not path.startswith("/"):
        path = f"{posix.getcwd()}/{path}"
    kept: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del kept[-1:]
        elif part not in ("", "."):
            kept.append(part)
    return "/" + "/".join(kept)
