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
ENOENT, ENODEV, ENOTDIR, ELOOP = 2, 19, 20, 40


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


def lines_of(path: str) -> list[str] | None:
    """The lines of a file that the kernel makes, None where there is none or nobody may read it."""
    try:
        return read_text(path).splitlines()
    except OSError:
        return None


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
    fd = _create(temporary, mode)
    try:
        try:
            write_all(fd, data)
        finally:
            posix.close(fd)
        posix.rename(temporary, path)
    except OSError:
        posix.unlink(temporary)
        raise


def _create(path: str, mode: int) -> int:
    """A new file, never what somebody put there (a link to a file of others'); the rest of a dead process goes."""
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | O_CLOEXEC
    try:
        return posix.open(path, flags, mode)
    except FileExistsError:
        posix.unlink(path)
        return posix.open(path, flags, mode)


def why(error: OSError) -> str:
    """The kernel's reason in our style: lower case, no number."""
    return (error.strerror or "unknown error").lower()


def sentence(error: OSError) -> str:
    """`why`, behind the file where the error names one."""
    return f"{error.filename}: {why(error)}" if error.filename else why(error)


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
    """mkdir -p; the directories that were missing and now exist, outermost first, but for those that others make at
    the same time."""
    try:
        posix.mkdir(path, mode)
    except FileExistsError:
        return []
    except FileNotFoundError:
        made = make_directories(parent(path), mode)
        try:
            posix.mkdir(path, mode)
        except FileExistsError:
            return made
        return [*made, path]
    return [path]


def parent(path: str) -> str:
    """The directory part of an absolute path."""
    return path.rstrip("/").rpartition("/")[0] or "/"


def directories_below(path: str) -> Iterator[tuple[int, str]]:
    """Every directory below `path`, children before parents: (descriptor of the one that holds it, its name).

    The descriptor is good until the next step.  There is one at a time, and no path but the first: whoever owns the
    tree may have made it deeper than RLIMIT_NOFILE, PATH_MAX and the interpreter's stack allow.  A directory that
    vanishes is skipped; one whose parent is not where it was (renamed meanwhile) ends the walk.
    """
    above: list[tuple[tuple[int, int], list[str]]] = []  # (identity, names left) of the directories on the way
    here = open_directory(path)
    try:
        names = subdirectories(here)
        while names or above:
            if names:
                below = open_directory(names[-1], here)
                if below < 0:
                    names.pop()
                    continue
                above.append((identity(here), names))
                posix.close(here)
                here = below
                names = subdirectories(here)
                continue
            up = open_directory("..", here)
            posix.close(here)
            here = up
            known, names = above.pop()
            if here < 0 or identity(here) != known:
                return
            yield here, names.pop()
    finally:
        if here >= 0:
            posix.close(here)


def open_directory(path: str, dir_fd: int | None = None) -> int:
    """A descriptor of a directory, -1 when there is none (any more); a link at its place is none."""
    flags = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW | O_CLOEXEC
    try:
        return posix.open(path, flags, dir_fd=dir_fd)
    except OSError as error:
        if error.errno not in (ENOENT, ENOTDIR, ELOOP, ENODEV):
            raise
        return -1


def subdirectories(fd: int) -> list[str]:
    """The names of the directories in an open one, none for -1."""
    if fd < 0:
        return []
    try:
        return [entry.name for entry in posix.scandir(fd) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []  # removed since it was opened


def identity(fd: int) -> tuple[int, int]:
    """Device and inode of what a descriptor is open on."""
    found = posix.fstat(fd)
    return found.st_dev, found.st_ino


def remove_tree(path: str) -> None:
    """Removes a directory and all that is in it, whoever made it, never through a link; absent is fine."""
    for place, name in directories_below(path):
        _empty(open_directory(name, place))
        posix.rmdir(name, dir_fd=place)
    _empty(open_directory(path))
    try:
        posix.rmdir(path)
    except FileNotFoundError:
        return


def _empty(fd: int) -> None:
    """Removes what is in an open directory, directories apart, and closes it; nothing for -1."""
    if fd < 0:
        return
    try:
        for entry in list(posix.scandir(fd)):
            if not entry.is_dir(follow_symlinks=False):
                posix.unlink(entry.name, dir_fd=fd)
    finally:
        posix.close(fd)


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
