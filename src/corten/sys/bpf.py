"""bpf(2), as far as device control needs it: load a program of type CGROUP_DEVICE, attach it to a cgroup.

The only module of the runtime that loads ctypes; imported on hosts whose cgroups are version 2, and nowhere else
(design.md §7: `update` and tools by ctypes are outside the import budget).  Source: bpf(2), linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import os
import platform

from corten.errors import Internal

SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
BPF_PROG_LOAD, BPF_PROG_ATTACH = 5, 8
BPF_PROG_TYPE_CGROUP_DEVICE = 15
BPF_CGROUP_DEVICE = 6
BPF_F_ALLOW_MULTI = 2
LOG_BYTES = 65536
LICENSE = b"Apache-2.0"


class LoadAttributes(ctypes.Structure):
    """The head of `union bpf_attr` for BPF_PROG_LOAD."""

    _fields_ = [
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
    ]


class AttachAttributes(ctypes.Structure):
    """The head of `union bpf_attr` for BPF_PROG_ATTACH."""

    _fields_ = [
        ("target_fd", ctypes.c_uint32),
        ("attach_bpf_fd", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32),
    ]


def attach_device_program(directory: str, program: bytes) -> None:
    """Loads a program and attaches it to a v2 cgroup; it lives as long as the cgroup.  Raises Internal."""
    cgroup_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        program_fd = load_device_program(program)
        try:
            attributes = AttachAttributes(cgroup_fd, program_fd, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI)
            _bpf(BPF_PROG_ATTACH, attributes, f"attach device program to {directory}")
        finally:
            os.close(program_fd)
    finally:
        os.close(cgroup_fd)


def load_device_program(program: bytes) -> int:
    """The descriptor of a loaded program; raises Internal with what the kernel's verifier said."""
    instructions = ctypes.create_string_buffer(program, len(program))
    license = ctypes.create_string_buffer(LICENSE)
    attributes = LoadAttributes(
        prog_type=BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt=len(program) // 8,
        insns=ctypes.addressof(instructions),
        license=ctypes.addressof(license),
    )
    try:
        return _bpf(BPF_PROG_LOAD, attributes, "load device program")
    except Internal:
        log = ctypes.create_string_buffer(LOG_BYTES)
        attributes.log_level, attributes.log_size, attributes.log_buf = 1, LOG_BYTES, ctypes.addressof(log)
        try:
            return _bpf(BPF_PROG_LOAD, attributes, "load device program")
        except Internal as error:
            raise Internal(f"{error}: {log.value.decode(errors='replace').strip()}") from error


def _bpf(command: int, attributes: ctypes.Structure, what: str) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    number = SYS_BPF.get(platform.machine())
    if number is None:
        raise Internal(f"{what}: the number of bpf(2) on {platform.machine()} is not known")
    result: int = libc.syscall(number, command, ctypes.byref(attributes), ctypes.sizeof(attributes))
    if result < 0:
        raise Internal(f"{what}: {os.strerror(ctypes.get_errno()).lower()}")
    return result
