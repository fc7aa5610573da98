"""The BPF programs that the kernel has, by name (bpf(2))."""

from __future__ import annotations

import ctypes
import os
import struct

_SYS_BPF = {"x86_64": 321, "aarch64": 280}
_NEXT_ID, _FD_BY_ID, _INFO = 11, 13, 15
_INFO_BYTES, _NAME_AT = 128, 64  # struct bpf_prog_info


def _bpf(command: int, attributes: ctypes.Array[ctypes.c_char]) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(_SYS_BPF[os.uname().machine], command, attributes, len(attributes))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def names() -> list[str]:
    """Of all of them; one that goes meanwhile is left out."""
    found: list[str] = []
    number = 0
    while True:
        attributes = ctypes.create_string_buffer(struct.pack("=4I", number, 0, 0, 0), 16)
        try:
            _bpf(_NEXT_ID, attributes)
        except FileNotFoundError:
            return found
        (number,) = struct.unpack_from("=I", attributes.raw, 4)
        try:
            fd = _bpf(_FD_BY_ID, ctypes.create_string_buffer(struct.pack("=3I", number, 0, 0), 12))
        except FileNotFoundError:
            continue
        try:
            info = ctypes.create_string_buffer(_INFO_BYTES)
            _bpf(_INFO, ctypes.create_string_buffer(struct.pack("=IIQ", fd, len(info), ctypes.addressof(info)), 16))
            found.append(info.raw[_NAME_AT : _NAME_AT + 16].split(b"\0")[0].decode())
        finally:
            os.close(fd)
