"""From an OCI seccomp profile to a BPF program, compiled by libseccomp once and cached.

Rules: runtime-spec config-linux.md, "Seccomp"; libseccomp's seccomp_rule_add(3), seccomp_export_bpf(3).  As in runc,
names that libseccomp does not know are passed over, an argument index given twice makes alternatives, and system
calls newer than every one that the profile names fail with ENOSYS rather than with the default action: a C library
falls back on ENOSYS alone.

`program` answers from the cache without loading libseccomp: this part is on the runtime's cold path.  The key is the
profile, the architecture, libseccomp's file and the kernel's version.
"""

from __future__ import annotations

import _thread
import posix
from _blake2 import blake2b

from corten.errors import InvalidArgument
from corten.launch.context import NEW_LISTENER
from corten.spec.reader import Reader

# bump when the same profile compiles to another program, or CALLS are made with other arguments
FORMAT = 4

# the end of a cached file, behind the program
CALLS_SIZE = 8

NOTIFY = "SCMP_ACT_NOTIFY"
WAIT_KILLABLE_RECV = 1 << 5
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,  # a single thread has nothing to synchronize
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": WAIT_KILLABLE_RECV,
}
LIBRARY = "libseccomp.so.2"
LIBRARY_DIRECTORIES = ("/usr/lib/{0}-linux-gnu", "/lib/{0}-linux-gnu", "/usr/lib64", "/lib64", "/usr/lib", "/lib")
O_FLAGS = posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW


def program(profile: dict[str, object], cache_dir: str) -> tuple[bytes, int, int]:
    """BPF program and seccomp(2) flags of a profile, and the CALLS of the launcher that the program allows.

    Raises `InvalidArgument` naming the field.  `cache_dir` is made with mode 0700; one that is not ours alone is not
    used.
    """
    flags = filter_flags(profile)
    trusted = _open_cache(cache_dir)
    path = f"{cache_dir}/{cache_key(profile)}"
    data = _read(path) if trusted else b""
    if not data:
        from corten.launch.bpf import allowed_calls  # on a miss only: ctypes and libseccomp, and running the filter
        from corten.launch.seccomp_compile import compile_profile

        filter = compile_profile(profile)
        data = filter + allowed_calls(filter).to_bytes(CALLS_SIZE, "little")
        if trusted:
            _write(path, data)
    return data[:-CALLS_SIZE], flags, int.from_bytes(data[-CALLS_SIZE:], "little")


def filter_flags(profile: dict[str, object]) -> int:
    """seccomp(2) flags of a profile, NEW_LISTENER among them where it has SCMP_ACT_NOTIFY; unknown ones are refused."""
    reader = Reader.of(profile, "linux.seccomp")
    flags = 0
    for name in reader.strings("flags"):
        if name not in FLAGS:
            raise InvalidArgument(f"linux.seccomp.flags: {name!r} is not supported")
        flags |= FLAGS[name]
    return flags | NEW_LISTENER if notifies(reader) else flags & ~WAIT_KILLABLE_RECV


def notifies(reader: Reader) -> bool:
    """A rule of the profile asks an agent; raises `InvalidArgument` for one that cannot, in runc's words.

    `listenerPath` and `listenerMetadata` of a profile that asks nobody are passed over (config-linux.md, "Seccomp").
    """
    if reader.string("defaultAction") == NOTIFY:
        raise InvalidArgument(f"{NOTIFY} cannot be used as default action")
    rules = [rule for rule in reader.children("syscalls") if rule.obj.get("action") == NOTIFY]
    if any("write" in rule.strings("names") for rule in rules):
        raise InvalidArgument(f"{NOTIFY} cannot be used for the write syscall")
    if rules and not reader.string("listenerPath"):
        raise InvalidArgument("listenerPath is not set")
    reader.string("listenerMetadata")
    return bool(rules)


def cache_key(profile: dict[str, object]) -> str:
    """What the compiled program depends on, as a file name."""
    uname = posix.uname()
    facts = repr((FORMAT, profile, uname.machine, uname.release, _library_identity(uname.machine)))
    return blake2b(facts.encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()


def _library_identity(machine: str) -> tuple[int, int]:
    for pattern in LIBRARY_DIRECTORIES:
        try:
            found = posix.stat(f"{pattern.format(machine)}/{LIBRARY}")
        except OSError:
            continue
        return found.st_size, found.st_mtime_ns
    return 0, 0


def _open_cache(path: str) -> bool:
    """The directory is there, belongs to us and nobody else can write to it."""
    try:
        posix.mkdir(path, 0o700)
    except FileExistsError:
        found = posix.lstat(path)
        return (found.st_mode & 0o170077) == 0o040000 and found.st_uid == posix.geteuid()
    return True


def _read(path: str) -> bytes:
    """The cached program and calls, b'' where there is none."""
    try:
        fd = posix.open(path, O_FLAGS)
    except FileNotFoundError:
        return b""
    with open(fd, "rb", buffering=0) as file:
        data = file.readall()
    return data if len(data) % 8 == 0 and len(data) > CALLS_SIZE else b""


def _write(path: str, data: bytes) -> None:
    temporary = f"{path}.{_thread.get_native_id()}"  # the helper's threads are of one process
    with open(temporary, "wb", buffering=0) as file:
        file.write(data)
    posix.rename(temporary, path)
