"""Who sent a signal to a container's init: seen by a program of ours at a tracepoint, while cortend is dead as well.

Wanted with `signal-senders` (docs/why.md tells what it costs).  The program is kept by files below the exec root:

    <exec-root>/senders     a bpf file system: link-1, watched-1, seen-1

A container's init, its shim and its cgroup are watched from before its program is executed until its end is recorded.
Nothing here fails an operation: what was not seen is unknown.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import struct
import time
from collections.abc import Iterable, Iterator
from typing import Final

from corten.engine.sending import SIGSYS, Sending, sending
from corten.engine.times import SECOND_NS
from corten.sys import bpfmap, mount
from corten.sys import signalprogram as code
from corten.sys.bpfmap import HashMap

log = logging.getLogger("corten.engine")

FOLDER: Final = "senders"
SETTING: Final = "signal-senders"
_FORM: Final = 1  # of keys and record; another one gets other names
_LINK, _WATCHED, _SEEN = (f"{name}-{_FORM}" for name in ("link", "watched", "seen"))
_WATCHED_ENTRIES: Final = 12288  # three for each container
_SEEN_ENTRIES: Final = 16384
_KEY: Final = struct.Struct("=Q")
_FIRST_PID_NAMESPACE: Final = 0xEFFFFFFC  # linux/proc_ns.h, PROC_PID_INIT_INO
_SLACK_NS: Final = SECOND_NS  # between two looks at two clocks


class Senders:
    """The maps of the program; without them (not wanted, or not to be had: `trouble`) it has seen nothing."""

    def __init__(self, watched: HashMap | None = None, seen: HashMap | None = None, *, trouble: str = "") -> None:
        self._watched = watched
        self._seen = seen
        self.trouble = trouble

    @property
    def is_active(self) -> bool:
        """Whether it sees anything."""
        return self._watched is not None

    def watch(self, *pids: int, cgroup: str = "") -> None:
        """From here on; `cgroup` is the directory of a v2 one."""
        if self._watched is None:
            return
        with _told("watch"):
            for key in _keys(pids, (cgroup,)):
                self._watched.update(key, b"\x01\0\0\0")

    def forget(self, *pids: int, cgroup: str = "") -> None:
        """They have ended, and that is recorded."""
        with _told("forget"):
            for key in _keys(pids, (cgroup,)):
                self._forget(key)

    def keep(self, pids: Iterable[int], cgroups: Iterable[str]) -> None:
        """Forget all others: of containers that have ended meanwhile."""
        if self._watched is None:
            return
        with _told("keep"):
            kept = set(_keys(pids, cgroups))
            for key in list(self._watched.keys()):
                if key not in kept:
                    self._forget(key)

    def seen(self, pid: int, *, since_ns: int, until_ns: int) -> tuple[Sending, ...]:
        """The last one of each number that this process got between two moments (Unix), oldest first."""
        if pid <= 0:
            return ()
        return tuple(self._records(_KEY.pack(pid), code.ENDING, since_ns, until_ns))

    def killed_by_filter(self, cgroup: str, *, since_ns: int, until_ns: int) -> Sending | None:
        """The last process of a v2 cgroup that got SIGSYS as from its own seccomp filter."""
        found = (self._records(key, (SIGSYS,), since_ns, until_ns) for key in _keys((), (cgroup,)))
        return next((one for ones in found for one in ones), None)

    def _records(self, key: bytes, numbers: Iterable[int], since_ns: int, until_ns: int) -> list[Sending]:
        """A number may be of another process by now, and cortend dead meanwhile: the moment tells."""
        out: list[Sending] = []
        if self._seen is None:
            return out
        boot_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        with _told("look"):
            for number in numbers:
                record = self._seen.lookup(key + _KEY.pack(number))
                if record is not None:
                    out.append(sending(record, boot_ns))
        inside = [one for one in out if since_ns - _SLACK_NS <= one.at_ns <= until_ns + _SLACK_NS]
        return sorted(inside, key=lambda one: one.at_ns)

    def _forget(self, key: bytes) -> None:
        if self._watched is not None and self._seen is not None:
            self._watched.delete(key)
            for number in code.ENDING:
                self._seen.delete(key + _KEY.pack(number))


def _keys(pids: Iterable[int], cgroups: Iterable[str]) -> Iterator[bytes]:
    for pid in pids:
        if pid > 0:
            yield _KEY.pack(pid)
    for directory in cgroups:
        with contextlib.suppress(OSError):  # it is gone
            if directory:
                yield _KEY.pack(os.stat(directory).st_ino | code.CGROUP_BIT)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log.warning("%s: cannot %s: %s", SETTING, what, error)


# The program


def open_senders(exec_root: str, engine_id: str) -> Senders:
    """The program that is there already, else a new one.  Of what the kernel refuses `trouble` tells."""
    try:
        _check_namespace()
        folder = _mounted(exec_root)
        if not os.path.exists(f"{folder}/{_LINK}"):
            _remove_files(folder)
            _load(folder, f"ct_{engine_id}")
        watched = HashMap(bpfmap.pinned(f"{folder}/{_WATCHED}"), key_bytes=code.KEY_BYTES, value_bytes=4)
        seen_bytes = code.RECORD.size
        seen = HashMap(bpfmap.pinned(f"{folder}/{_SEEN}"), key_bytes=code.SEEN_KEY.size, value_bytes=seen_bytes)
    except (OSError, ValueError) as error:
        trouble = (error.strerror if isinstance(error, OSError) else None) or str(error)
        log.warning("%s: who sends signals stays unknown: %s", SETTING, trouble)
        return Senders(trouble=trouble)
    return Senders(watched, seen)


def is_there(exec_root: str) -> bool:
    """Whether a program is kept below this exec root."""
    return os.path.realpath(f"{exec_root}/{FOLDER}") in mount.mount_points()


def remove(exec_root: str) -> None:
    """The program ends, and nothing of it is left; none is fine."""
    folder = os.path.realpath(f"{exec_root}/{FOLDER}")
    while folder in mount.mount_points():
        _remove_files(folder)  # a copy of the mount in another namespace does not keep them
        mount.umount(folder, mount.MNT_DETACH)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(folder)


def _check_namespace() -> None:
    """The tracepoint's numbers are those of the first pid namespace."""
    if os.stat("/proc/self/ns/pid").st_ino != _FIRST_PID_NAMESPACE:
        raise OSError(errno.ENOTSUP, "cortend is in a pid namespace of its own")


def _mounted(exec_root: str) -> str:
    folder = os.path.realpath(f"{exec_root}/{FOLDER}")
    os.makedirs(folder, 0o700, exist_ok=True)
    if folder not in mount.mount_points():
        flags = mount.MS_NOSUID | mount.MS_NODEV | mount.MS_NOEXEC
        mount.mount("bpf", folder, "bpf", flags, "mode=0700")
    return folder


def _remove_files(folder: str) -> None:
    """Ours, of whatever form: the kernel may have some of its own there."""
    for name in os.listdir(folder):
        if name.partition("-")[0] in ("link", "watched", "seen"):
            os.unlink(f"{folder}/{name}")


def _load(folder: str, name: str) -> None:
    """The link comes last: without it the rest is made anew."""
    event_id, form = bpfmap.tracepoint(code.GROUP, code.EVENT)
    seen_bytes = code.RECORD.size
    with contextlib.ExitStack() as made:
        watched = HashMap.create(name, key_bytes=code.KEY_BYTES, value_bytes=4, entries=_WATCHED_ENTRIES)
        made.callback(watched.close)
        seen = HashMap.create(name, key_bytes=code.SEEN_KEY.size, value_bytes=seen_bytes, entries=_SEEN_ENTRIES)
        made.callback(seen.close)
        program = code.program(code.offsets(form), watched_fd=watched.fd, seen_fd=seen.fd)
        program_fd = bpfmap.load_tracepoint_program(name, program)
        made.callback(os.close, program_fd)
        link_fd = bpfmap.link_to_tracepoint(program_fd, event_id)
        made.callback(os.close, link_fd)
        for fd, pin in ((watched.fd, _WATCHED), (seen.fd, _SEEN), (link_fd, _LINK)):
            bpfmap.pin(fd, f"{folder}/{pin}")
