"""Which programs decide about a cgroup's devices (bpf(2), BPF_PROG_QUERY)."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from corten.sys import bpf

BPF_PROG_QUERY = 16
MOST = 64


class Query(ctypes.Structure):
    """The head of `union bpf_attr` for BPF_PROG_QUERY."""

    _fields_ = [
        ("target_fd", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("query_flags", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32),
        ("prog_ids", ctypes.c_uint64),
        ("prog_cnt", ctypes.c_uint32),
    ]


def device_programs(cgroup: Path) -> list[int]:
    """The kernel's ids of those that are attached to this very cgroup."""
    ids = (ctypes.c_uint32 * MOST)()
    fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        query = Query(fd, bpf.BPF_CGROUP_DEVICE, prog_ids=ctypes.addressof(ids), prog_cnt=MOST)
        bpf._bpf(BPF_PROG_QUERY, query, f"programs of {cgroup}")
    finally:
        os.close(fd)
    return list(ids[: query.prog_cnt])
