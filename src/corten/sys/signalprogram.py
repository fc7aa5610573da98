"""The program at the tracepoint signal:signal_generate: who sends what to the processes that are watched.

    r6 = the event, r7 = pid of the target, r8 = number of the signal
    a watched target                 → seen[target, signal] = record
    killed by its own seccomp filter → seen[its cgroup, SIGSYS] = record, where that cgroup is watched

`watched` has keys of 8 bytes: a pid, or the id of a v2 cgroup with the highest bit set.  `seen` has 16: such a key and
the signal's number.  What the kernel did not deliver (the target ignores it, one is pending already) is no signal, and
what ends no process by default is left out, as are real-time signals: a target has 23 records at most.

Sources: include/trace/events/signal.h, bpf-helpers(7), instruction-set.rst.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from typing import Final

from corten.sys.devicebpf import instruction

GROUP, EVENT = "signal", "signal_generate"
RECORD: Final = struct.Struct("=QIIIIii16sQ")
"""ns of CLOCK_BOOTTIME; thread, process, uid and gid of the sender; signal, si_code; comm; id of its v2 cgroup."""
CGROUP_BIT: Final = 1 << 63
KEY_BYTES: Final = 8
SEEN_KEY: Final = struct.Struct("=QQ")

_DELIVERED, _LOSE_INFO = 0, 4  # TRACE_SIGNAL_DELIVERED, TRACE_SIGNAL_LOSE_INFO
_SIGSYS, _SYS_SECCOMP = 31, 1
_LAST: Final = 31
_HARMLESS: Final = (17, 18, 19, 20, 21, 22, 23, 28)  # CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG, WINCH
ENDING: Final = tuple(number for number in range(1, _LAST + 1) if number not in _HARMLESS)
_MASK: Final = sum(1 << number for number in ENDING)
_FIELDS: Final = ("sig", "code", "pid", "result")
_FIELD: Final = re.compile(r"\bfield:\S.*?\b(\w+)(?:\[\d+\])?;\s*offset:(\d+);\s*size:(\d+);")

# opcodes
_MOV, _MOV_IMM, _ADD_IMM, _OR_REG, _LSH_IMM = 0xBF, 0xB7, 0x07, 0x4F, 0x67
_LOAD_W, _STORE_W, _STORE_DW = 0x61, 0x63, 0x7B
_LOAD_DW, _RSH_REG, _MOV32_IMM = 0x79, 0x7F, 0xB4
_JEQ_IMM, _JNE_IMM, _JGT_IMM, _JSET_IMM = 0x15, 0x55, 0x25, 0x45
_JA, _CALL, _EXIT, _LOAD_MAP = 0x05, 0x85, 0x95, 0x18
_PSEUDO_MAP_FD: Final = 1
# helpers
_LOOKUP, _UPDATE, _PID_TGID, _UID_GID, _COMM, _CGROUP_ID, _BOOT_NS = 1, 2, 14, 15, 16, 80, 125
# the stack, from r10 down: the key of `watched`, that of `seen`, the record
_KEY, _SEEN, _RECORD = -8, -24, -24 - RECORD.size

Jump = tuple[int, int, int, str]  # opcode, register, immediate, label
Piece = bytes | Jump | str  # instructions, a jump to a label, a label


def offsets(format: str) -> dict[str, int]:
    """Where the fields are in the event, by tracefs's `format`.  Raises ValueError for one that is not as expected."""
    found = {name: (int(offset), int(size)) for name, offset, size in _FIELD.findall(format)}
    missing = [name for name in _FIELDS if found.get(name, (0, 0))[1] != 4]
    if missing:
        raise ValueError(f"{GROUP}:{EVENT} has no field {missing[0]} of 4 bytes")
    return {name: found[name][0] for name in _FIELDS}


def program(at: Mapping[str, int], *, watched_fd: int, seen_fd: int) -> bytes:
    """For an event with its fields at these offsets, and these maps."""
    return assembled(
        [
            instruction(_MOV, 6, 1),
            instruction(_LOAD_W, 7, 6, at["pid"]),
            instruction(_LOAD_W, 8, 6, at["sig"]),
            instruction(_LOAD_W, 9, 6, at["result"]),
            (_JEQ_IMM, 9, _DELIVERED, "delivered"),
            (_JNE_IMM, 9, _LOSE_INFO, "out"),
            "delivered",
            instruction(_STORE_DW, 10, 7, _KEY),
            *_lookup(watched_fd),
            (_JNE_IMM, 0, 0, "watched"),
            *_own_filter(at, watched_fd),
            "watched",
            (_JGT_IMM, 8, _LAST, "out"),
            instruction(_MOV32_IMM, 1, immediate=_MASK),
            instruction(_RSH_REG, 1, 8),
            (_JSET_IMM, 1, 1, "record"),
            (_JA, 0, 0, "out"),
            "record",
            instruction(_LOAD_DW, 1, 10, _KEY),
            instruction(_STORE_DW, 10, 1, _SEEN),
            instruction(_STORE_DW, 10, 8, _SEEN + 8),
            *_fill(at),
            *_address(1, seen_fd),
            *_pointers((2, _SEEN), (3, _RECORD)),
            instruction(_MOV_IMM, 4),
            instruction(_CALL, immediate=_UPDATE),
            "out",
            instruction(_MOV_IMM, 0),
            instruction(_EXIT),
        ]
    )


def _own_filter(at: Mapping[str, int], watched_fd: int) -> list[Piece]:
    """Of a process that its filter kills the sender is itself: the current cgroup is the target's."""
    return [
        (_JNE_IMM, 8, _SIGSYS, "out"),
        instruction(_LOAD_W, 1, 6, at["code"]),
        (_JNE_IMM, 1, _SYS_SECCOMP, "out"),
        instruction(_CALL, immediate=_CGROUP_ID),
        instruction(_MOV_IMM, 1, immediate=1),
        instruction(_LSH_IMM, 1, immediate=63),
        instruction(_OR_REG, 0, 1),
        instruction(_STORE_DW, 10, 0, _KEY),
        *_lookup(watched_fd),
        (_JEQ_IMM, 0, 0, "out"),
    ]


def _fill(at: Mapping[str, int]) -> list[Piece]:
    """The record, in the order of its fields.  pid_tgid and uid_gid have the second name in the upper half."""
    return [
        instruction(_CALL, immediate=_BOOT_NS),
        instruction(_STORE_DW, 10, 0, _RECORD),
        instruction(_CALL, immediate=_PID_TGID),
        instruction(_STORE_DW, 10, 0, _RECORD + 8),
        instruction(_CALL, immediate=_UID_GID),
        instruction(_STORE_DW, 10, 0, _RECORD + 16),
        instruction(_STORE_W, 10, 8, _RECORD + 24),
        instruction(_LOAD_W, 1, 6, at["code"]),
        instruction(_STORE_W, 10, 1, _RECORD + 28),
        instruction(_MOV_IMM, 1),
        instruction(_STORE_DW, 10, 1, _RECORD + 32),
        instruction(_STORE_DW, 10, 1, _RECORD + 40),
        *_pointers((1, _RECORD + 32)),
        instruction(_MOV_IMM, 2, immediate=16),
        instruction(_CALL, immediate=_COMM),
        instruction(_CALL, immediate=_CGROUP_ID),
        instruction(_STORE_DW, 10, 0, _RECORD + 48),
    ]


def _lookup(map_fd: int) -> list[Piece]:
    return [*_address(1, map_fd), *_pointers((2, _KEY)), instruction(_CALL, immediate=_LOOKUP)]


def _address(register: int, map_fd: int) -> list[Piece]:
    return [instruction(_LOAD_MAP, register, _PSEUDO_MAP_FD, immediate=map_fd) + instruction(0)]


def _pointers(*places: tuple[int, int]) -> list[Piece]:
    return [
        instruction(_MOV, register, 10) + instruction(_ADD_IMM, register, immediate=place) for register, place in places
    ]


def assembled(pieces: Sequence[Piece]) -> bytes:
    """With every jump's distance, which counts from the instruction behind it."""
    places: dict[str, int] = {}
    count = 0
    for piece in pieces:
        if isinstance(piece, str):
            places[piece] = count
        else:
            count += len(piece) // 8 if isinstance(piece, bytes) else 1
    out: list[bytes] = []
    count = 0
    for piece in pieces:
        if isinstance(piece, tuple):
            opcode, register, immediate, label = piece
            out.append(instruction(opcode, register, 0, places[label] - count - 1, immediate))
            count += 1
        elif isinstance(piece, bytes):
            out.append(piece)
            count += len(piece) // 8
    return b"".join(out)
