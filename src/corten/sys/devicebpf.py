"""A container's device rules as an eBPF program of type CGROUP_DEVICE: the v2 form of devices.allow.

The kernel runs the program with a `struct bpf_cgroup_dev_ctx { u32 access_type, major, minor; }`, whose
access_type is (access << 16) | type, and asks for 1 (allowed) or 0.  Rules are tried from the last to the first,
so that the last one that matches decides, as with the files of v1.  Loading and attaching is the launcher's
(`bpf(2)` cannot be called from Python without ctypes); `update` does it by `corten.sys.bpf`.

Sources: linux/bpf.h, Documentation/bpf/standardization/instruction-set.rst.
"""

from __future__ import annotations

from corten.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# opcodes: class | source | operation
LDX_MEM_W = 0x61  # dst = *(u32 *)(src + off)
MOV64_IMM = 0xB7
AND32_IMM, RSH32_IMM = 0x54, 0x74
MOV32_REG = 0xBC
JNE_IMM = 0x55
JNE_REG = 0x5D
JEQ_IMM = 0x15
EXIT = 0x95

TYPES = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_BLOCK, BPF_DEVCG_DEV_CHAR
ACCESS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_MKNOD, _READ, _WRITE
ALL_ACCESS = 7

R0, R1, R2, R3, R4, R5 = range(6)


def instruction(opcode: int, dst: int = 0, src: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    """One eBPF instruction, 8 bytes, little endian as every machine that we run on."""
    registers = src << 4 | dst
    return (
        bytes((opcode, registers))
        + (offset & 0xFFFF).to_bytes(2, "little")
        + (immediate & 0xFFFFFFFF).to_bytes(4, "little")
    )


# r2 = type, r3 = access, r4 = major, r5 = minor
PROLOGUE = b"".join(
    (
        instruction(LDX_MEM_W, R2, R1, 0),
        instruction(AND32_IMM, R2, immediate=0xFFFF),
        instruction(LDX_MEM_W, R3, R1, 0),
        instruction(RSH32_IMM, R3, immediate=16),
        instruction(LDX_MEM_W, R4, R1, 4),
        instruction(LDX_MEM_W, R5, R1, 8),
    )
)


def compile_rules(rules: Iterable[tuple[bool, str]], *, allows_by_default: bool) -> bytes:
    """The program for rules as v1 writes them (`(True, "c 1:3 rwm")`), in their order, and the default."""
    blocks = [_block(allow, kind, numbers, mask) for allow, kind, numbers, mask in _merged(rules)]
    blocks.reverse()
    return PROLOGUE + b"".join(blocks) + _answer(allows_by_default)


def _merged(rules: Iterable[tuple[bool, str]]) -> list[tuple[bool, str, str, int]]:
    """Rules parsed; read and write of one device given in two lines count as given in one, as in v1."""
    merged: list[tuple[bool, str, str, int]] = []
    for allow, text in rules:
        kind, _, rest = text.partition(" ")
        numbers, _, letters = rest.partition(" ")
        if kind not in TYPES or ":" not in numbers or not letters or letters.strip("rwm"):
            raise InvalidArgument(f"device rule {text!r}: expected a type, two numbers and an access")
        mask = sum({ACCESS[letter] for letter in letters})
        for earlier in reversed(merged):
            if earlier[0] != allow:
                break
            if earlier[1:3] == (kind, numbers):
                mask |= earlier[3]
        merged.append((allow, kind, numbers, mask))
    return merged


def _answer(allow: bool) -> bytes:
    return instruction(MOV64_IMM, R0, immediate=int(allow)) + instruction(EXIT)


def _block(allow: bool, kind: str, numbers: str, mask: int) -> bytes:
    """One rule: its tests, each jumping behind the answer when it fails, then the answer.

    An allowing rule matches when every asked access is among its own, a denying one when any is.
    """
    major, _, minor = numbers.partition(":")
    parts = [_answer(allow)]
    after = 2  # instructions from the next test to the end of the block
    if mask != ALL_ACCESS:
        jump = instruction(JNE_REG, R1, R3, after) if allow else instruction(JEQ_IMM, R1, 0, after, 0)
        parts += [jump, instruction(AND32_IMM, R1, immediate=mask), instruction(MOV32_REG, R1, R3)]
        after += 3
    for register, number in ((R5, minor), (R4, major), (R2, str(TYPES[kind]))):
        if number != "*":
            parts.append(instruction(JNE_IMM, register, 0, after, int(number)))
            after += 1
    parts.reverse()
    return b"".join(parts)
