"""Runs a compiled seccomp filter: what it answers to a system call."""

from __future__ import annotations

import struct

from corten.launch.seccomp_compile import INSTRUCTION

X86_64, I386 = 0xC000003E, 0x40000003
ALLOW, ERRNO = 0x7FFF0000, 0x00050000


def run(program: bytes, number: int, *args: int, arch: int = X86_64) -> int:
    """What a filter answers (bpf(4) in the form that seccomp(2) allows)."""
    data = struct.pack("=iIQ6Q", number, arch, 0, *(args + (0,) * 6)[:6])
    code = list(INSTRUCTION.iter_unpack(program))
    accumulator, at = 0, 0
    while True:
        what, yes, no, k = code[at]
        at += 1
        match what:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, k)
            case 0x15:
                at += yes if accumulator == k else no
            case 0x25:
                at += yes if accumulator > k else no
            case 0x35:
                at += yes if accumulator >= k else no
            case 0x45:
                at += yes if accumulator & k else no
            case 0x54:
                accumulator &= k
            case 0x05:
                at += k
            case 0x06:
                return int(k)
            case _:
                raise AssertionError(f"instruction {what:#x}")
