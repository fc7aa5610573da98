"""The one binary encoding of a launch plan, read by `launcher/plan.c`.

    header   magic (8 bytes), u32 ops, u32 slots, i32 trace descriptor, u32 kept descriptors from 3 on,
             u32 size of everything, u32 0, i32 descriptor of each slot (-1: filled by an op), padding to 8
    op       u16 code, u16 0, u32 size of this op with its header, then its fields, each on a multiple of 8 bytes

    letter   field                 bytes
    n        number                u64
    d        slot                  u64, all ones for none
    s        text                  u32 length, the bytes, NUL, padding to 8
    b        bytes                 the same
    l        tuple of texts        u64 count, then each as s
    g        tuple of numbers      u64 count, then each as n
    D        tuple of slots        u64 count, then each as d

Numbers are in the byte order of the machine: a plan never leaves it.
"""

from __future__ import annotations

from _struct import Struct

from corten.errors import Internal
from corten.launch.ops import Op, Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAGIC = b"CORTEN\0\1"
HEADER = Struct("=8sIIiIII")
OP_HEADER = Struct("=HHI").pack
U64 = Struct("=Q").pack
U32 = Struct("=I").pack
# NUL and what is missing to a multiple of 8, by the bytes that are there
PADDING = tuple(bytes(8 - used) for used in range(8))
NO_SLOT = 0xFFFFFFFFFFFFFFFF
MAX_SLOTS = 1024


def encode(plan: Plan, fds: Mapping[str, int], trace_fd: int) -> bytes:
    """The plan with the descriptors of its inputs, which must all be in `fds`; raises `Internal` for a missing one."""
    slots: dict[str, int] = {}
    body = b"".join([_op(op, slots) for op in plan.ops])
    if len(slots) > MAX_SLOTS:
        raise Internal(f"launch plan: {len(slots)} descriptors, more than {MAX_SLOTS}")
    missing = [name for name in plan.inputs if name not in fds]
    if missing:
        raise Internal(f"launch plan: no descriptor for {', '.join(missing)}")
    numbers = [fds[name] if name in plan.inputs else -1 for name in slots]
    table = Struct(f"={len(numbers)}i").pack(*numbers)
    table += bytes(-(HEADER.size + len(table)) % 8)
    size = HEADER.size + len(table) + len(body)
    head = HEADER.pack(MAGIC, len(plan.ops), len(slots), trace_fd, plan.preserve_fds, size, 0)
    return head + table + body


def _op(op: Op, slots: dict[str, int]) -> bytes:
    parts = [FIELDS[letter](value, slots) for letter, value in zip(op.form, op.fields(), strict=True)]
    fields = b"".join(parts)
    return OP_HEADER(op.code, 0, 8 + len(fields)) + fields


def _number(value: int, slots: dict[str, int]) -> bytes:
    return U64(value)


def _slot(name: str, slots: dict[str, int]) -> bytes:
    return U64(slots.setdefault(name, len(slots)) if name else NO_SLOT)


def _bytes(value: bytes, slots: dict[str, int]) -> bytes:
    size = len(value)
    return U32(size) + value + PADDING[(size + 4) % 8]


def _text(value: str, slots: dict[str, int]) -> bytes:
    data = value.encode("utf-8", "surrogateescape")
    size = len(data)
    return U32(size) + data + PADDING[(size + 4) % 8]


def _texts(values: tuple[str, ...], slots: dict[str, int]) -> bytes:
    return U64(len(values)) + b"".join([_text(value, slots) for value in values])


def _numbers(values: tuple[int, ...], slots: dict[str, int]) -> bytes:
    return U64(len(values)) + b"".join([U64(value) for value in values])


def _slots(names: tuple[str, ...], slots: dict[str, int]) -> bytes:
    return U64(len(names)) + b"".join([_slot(name, slots) for name in names])


FIELDS: dict[str, Callable[..., bytes]] = {
    "n": _number,
    "d": _slot,
    "s": _text,
    "b": _bytes,
    "l": _texts,
    "g": _numbers,
    "D": _slots,
}
