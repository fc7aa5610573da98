"""bpf(2) and perf_event_open(2), as far as a program at a tracepoint needs them: hash maps, the program, its link.

A pinned object lives as long as its file in a bpf file system, whoever made it (kernel documentation, "BPF objects").
Every descriptor returned here is close-on-exec and belongs to the caller.  Source: linux/bpf.h, linux/perf_event.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct
from collections.abc import Iterator
from typing import Final

from corten.sys import mount
from corten.sys.bpf import LOG_BYTES, SYS_BPF
from corten.sys.libc import syscall

_SYS_PERF_EVENT_OPEN: Final = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "ppc64le": 319, "s390x": 331}
_MAP_CREATE, _LOOKUP, _UPDATE, _DELETE, _NEXT_KEY = 0, 1, 2, 3, 4
_PROG_LOAD, _OBJ_PIN, _OBJ_GET, _LINK_CREATE = 5, 6, 7, 28
_MAP_TYPE_HASH: Final = 1
_PROG_TYPE_TRACEPOINT: Final = 5
_ATTACH_PERF_EVENT: Final = 41  # BPF_PERF_EVENT
_PERF_TYPE_TRACEPOINT: Final = 2
_PERF_ATTR_BYTES: Final = 112  # PERF_ATTR_SIZE_VER5
_PERF_FLAG_FD_CLOEXEC: Final = 8
_PERF_IOC_ENABLE: Final = 0x2400
_NAME_BYTES: Final = 15
_LICENSE: Final = b"Apache-2.0"
_LINK_SINCE: Final = "a link of a program and a tracepoint needs Linux 5.15"


class HashMap:
    """A map with keys and values of fixed size.  Its descriptor is closed with `close`."""

    def __init__(self, fd: int, *, key_bytes: int, value_bytes: int) -> None:
        self.fd = fd
        self._key_bytes = key_bytes
        self._value_bytes = value_bytes

    @classmethod
    def create(cls, name: str, *, key_bytes: int, value_bytes: int, entries: int) -> HashMap:
        """A new one, whose memory is taken at once.  Raises OSError."""
        named = name.encode()[:_NAME_BYTES].ljust(_NAME_BYTES + 1, b"\0")
        head = struct.pack("=7I", _MAP_TYPE_HASH, key_bytes, value_bytes, entries, 0, 0, 0)
        return cls(_bpf(_MAP_CREATE, head + named), key_bytes=key_bytes, value_bytes=value_bytes)

    def update(self, key: bytes, value: bytes) -> None:
        """Put it in.  Raises OSError with E2BIG when the map is full."""
        self._on(_UPDATE, key, ctypes.create_string_buffer(value, self._value_bytes))

    def lookup(self, key: bytes) -> bytes | None:
        """Its value; None where there is none."""
        value = ctypes.create_string_buffer(self._value_bytes)
        return value.raw if self._found(_LOOKUP, key, value) else None

    def delete(self, key: bytes) -> None:
        """Take it out; one that is not there is fine."""
        self._found(_DELETE, key, None)

    def keys(self) -> Iterator[bytes]:
        """Every key; what is put in or taken out meanwhile may be missed or seen."""
        following = ctypes.create_string_buffer(self._key_bytes)
        key: bytes | None = None
        while self._found(_NEXT_KEY, key, following):
            key = following.raw
            yield key

    def close(self) -> None:
        """Let go of the descriptor; a pinned map lives on."""
        os.close(self.fd)

    def _found(self, command: int, key: bytes | None, value: ctypes.Array[ctypes.c_char] | None) -> bool:
        try:
            self._on(command, key, value)
        except FileNotFoundError:
            return False
        return True

    def _on(self, command: int, key: bytes | None, value: ctypes.Array[ctypes.c_char] | None) -> None:
        kept = ctypes.create_string_buffer(key, self._key_bytes) if key is not None else None
        _bpf(command, struct.pack("=I4xQQQ", self.fd, _address(kept), _address(value), 0))


def load_tracepoint_program(name: str, program: bytes) -> int:
    """Its descriptor.  Raises OSError, whose text has the last words of the kernel's verifier."""
    code = ctypes.create_string_buffer(program, len(program))
    license = ctypes.create_string_buffer(_LICENSE)
    log = ctypes.create_string_buffer(LOG_BYTES)
    named = name.encode()[:_NAME_BYTES].ljust(_NAME_BYTES + 1, b"\0")

    def attributes(level: int) -> bytes:
        texts = (_address(code), _address(license), level, LOG_BYTES if level else 0, _address(log) if level else 0)
        head = struct.pack("=IIQQIIQII", _PROG_TYPE_TRACEPOINT, len(program) // 8, *texts, 0, 0)
        return head + named

    try:
        return _bpf(_PROG_LOAD, attributes(0))
    except OSError as error:
        try:
            return _bpf(_PROG_LOAD, attributes(1))
        except OSError:
            said = log.value.decode(errors="replace").strip().rpartition("\n")[2]
            raise OSError(error.errno, f"{os.strerror(error.errno or 0)}: {said}".rstrip(": ")) from None


def link_to_tracepoint(program_fd: int, event_id: int) -> int:
    """Have a program run at a tracepoint (its `id` in tracefs), on every CPU, until the link is gone.

    Returns the link's descriptor.  Raises OSError; older kernels than 5.15 have no such link.
    """
    attributes = struct.pack("=IIQ", _PERF_TYPE_TRACEPOINT, _PERF_ATTR_BYTES, event_id).ljust(_PERF_ATTR_BYTES, b"\0")
    number = _number(_SYS_PERF_EVENT_OPEN, "perf_event_open(2)")
    buffer = ctypes.create_string_buffer(attributes, _PERF_ATTR_BYTES)
    event_fd = syscall(number, ctypes.addressof(buffer), -1, 0, -1, _PERF_FLAG_FD_CLOEXEC)
    try:
        link_fd = _link(program_fd, event_fd)
        fcntl.ioctl(event_fd, _PERF_IOC_ENABLE, 0)
    finally:
        os.close(event_fd)  # the link keeps it
    return link_fd


def _link(program_fd: int, event_fd: int) -> int:
    try:
        return _bpf(_LINK_CREATE, struct.pack("=4I", program_fd, event_fd, _ATTACH_PERF_EVENT, 0))
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EBADF):
            raise OSError(error.errno, _LINK_SINCE) from None
        raise


def pin(fd: int, path: str) -> None:
    """Give an object a name in a bpf file system.  Raises OSError."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    _bpf(_OBJ_PIN, struct.pack("=QII", _address(name), fd, 0))


def pinned(path: str) -> int:
    """A descriptor of the object of this name.  Raises OSError."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _bpf(_OBJ_GET, struct.pack("=QII", _address(name), 0, 0))


def tracepoint(group: str, event: str) -> tuple[int, str]:
    """(id, format) of a tracepoint, from tracefs, which need not be mounted anywhere.  Raises OSError."""
    context_fd = mount.fsopen("tracefs")
    try:
        mount.fsconfig_create(context_fd)
        root_fd = mount.fsmount(context_fd)
    finally:
        os.close(context_fd)
    try:
        found = [_text(root_fd, f"events/{group}/{event}/{name}") for name in ("id", "format")]
    finally:
        os.close(root_fd)
    return int(found[0]), found[1]


def _text(root_fd: int, path: str) -> str:
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=root_fd), encoding="utf-8", errors="replace") as file:
        return file.read()


def _address(buffer: ctypes.Array[ctypes.c_char] | None) -> int:
    return ctypes.addressof(buffer) if buffer is not None else 0


def _number(numbers: dict[str, int], call: str) -> int:
    machine = platform.machine()
    if machine not in numbers:
        raise OSError(errno.ENOSYS, f"the number of {call} on {machine} is not known")
    return numbers[machine]


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return syscall(_number(SYS_BPF, "bpf(2)"), command, ctypes.addressof(buffer), len(attributes))
