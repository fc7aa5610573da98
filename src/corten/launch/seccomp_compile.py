"""The half of `corten.launch.seccomp` that loads libseccomp: compiles a profile to BPF.

libseccomp(3) does the compiling; the prologue that answers ENOSYS for system calls newer than the profile is ours
(bpf(4) instructions as in seccomp(2)).
"""

from __future__ import annotations

import ctypes
import os
import struct

from corten.errors import Internal, InvalidArgument
from corten.launch.context import PERMISSIVE
from corten.spec.reader import Reader

ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
WITH_DATA = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
OPERATORS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
# `SCMP_ARCH_…` of runtime-spec 1.3; which of them a profile may name, libseccomp knows (`architectures`)
ARCHITECTURES = (
    "AARCH64", "ARM", "LOONGARCH64", "M68K", "MIPS", "MIPS64", "MIPS64N32", "MIPSEL", "MIPSEL64", "MIPSEL64N32",
    "PARISC", "PARISC64", "PPC", "PPC64", "PPC64LE", "RISCV64", "S390", "S390X", "SH", "SHEB", "X32", "X86", "X86_64",
)  # fmt: skip
SCMP_ARCH_X32 = 0x4000003E
AUDIT_ARCH_X86_64 = 0xC000003E
X32_SYSCALL_BIT = 0x40000000
SCMP_FLTATR_CTL_OPTIMIZE = 8
BINARY_TREE = 2
EPERM, EEXIST, EINVAL, ENOSYS, EOPNOTSUPP = 1, 17, 22, 38, 95

# a BPF instruction: code, jump if true, jump if false, operand
INSTRUCTION = struct.Struct("=HBBI")
LOAD_WORD, JUMP_EQUAL, JUMP_GREATER, JUMP_SET, JUMP, RETURN = 0x20, 0x15, 0x25, 0x45, 0x05, 0x06
OFFSET_NUMBER, OFFSET_ARCH = 0, 4  # struct seccomp_data


class ArgCompare(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


class Library:
    """libseccomp with the signatures that are used here."""

    def __init__(self) -> None:
        try:
            lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        except OSError as error:
            raise Internal(f"seccomp: {error}") from error
        lib.seccomp_init.restype = ctypes.c_void_p
        lib.seccomp_init.argtypes = (ctypes.c_uint32,)
        lib.seccomp_release.argtypes = (ctypes.c_void_p,)
        lib.seccomp_release.restype = None
        lib.seccomp_arch_resolve_name.restype = ctypes.c_uint32
        lib.seccomp_arch_resolve_name.argtypes = (ctypes.c_char_p,)
        lib.seccomp_arch_native.restype = ctypes.c_uint32
        lib.seccomp_arch_add.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
        lib.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
        lib.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
        lib.seccomp_syscall_resolve_name_arch.argtypes = (ctypes.c_uint32, ctypes.c_char_p)
        lib.seccomp_rule_add_array.argtypes = (
            ctypes.c_void_p,
            ctypes.c_uint32,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.POINTER(ArgCompare),
        )
        lib.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
        self.lib = lib


def compile_profile(profile: dict[str, object]) -> bytes:
    """The BPF program of an OCI profile; raises `InvalidArgument` naming the field."""
    reader = Reader.of(profile, "linux.seccomp")
    lib = Library().lib
    default_name, default = _action(reader, "defaultAction", "defaultErrnoRet")
    context = lib.seccomp_init(default)
    if not context:
        raise Internal("seccomp: libseccomp refuses the default action")
    try:
        archs = _add_architectures(lib, context, reader)
        # a tree: installing takes a third of the time, because the kernel runs the filter once for every number
        _check(lib.seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE, BINARY_TREE), "optimize", EINVAL, EOPNOTSUPP)
        names: list[str] = []
        for rule in reader.children("syscalls"):
            _add_rule(lib, context, rule, default)
            names += rule.strings("names")
        filter = _export(lib, context)
    finally:
        lib.seccomp_release(context)
    if default_name in PERMISSIVE or default == ACTIONS["SCMP_ACT_ERRNO"] | ENOSYS:
        return filter
    return newer_calls_prologue({arch: _last_number(lib, arch, names) for arch in archs}) + filter


def newer_calls_prologue(last: dict[int, int]) -> bytes:
    """Instructions that return ENOSYS for numbers above the last known one, by libseccomp's architecture token."""
    code: list[tuple[int, int, int, int]] = [(LOAD_WORD, 0, 0, OFFSET_ARCH)]
    enosys = ACTIONS["SCMP_ACT_ERRNO"] | ENOSYS
    for arch, number in last.items():
        if arch == SCMP_ARCH_X32 or number < 0:
            continue
        block: list[tuple[int, int, int, int]] = [(LOAD_WORD, 0, 0, OFFSET_NUMBER)]
        if arch == AUDIT_ARCH_X86_64:
            # both ABIs come with this architecture; x32 says so in a bit of the number
            other = last.get(SCMP_ARCH_X32, -1)
            block += [(JUMP_SET, 0, 1, X32_SYSCALL_BIT), (JUMP_GREATER, 1, 2, other | X32_SYSCALL_BIT)]
            if other < 0:
                block[-1] = (JUMP, 0, 0, 2)
        block += [(JUMP_GREATER, 0, 1, number), (RETURN, 0, 0, enosys)]
        code.append((JUMP_EQUAL, 0, len(block), arch))
        code += block
        # the accumulator holds the number now: load the architecture again for the next block
        code.append((LOAD_WORD, 0, 0, OFFSET_ARCH))
    return b"".join(INSTRUCTION.pack(*line) for line in code)


def _action(reader: Reader, name: str, errno_name: str) -> tuple[str, int]:
    word = reader.string(name, required=True)
    if word not in ACTIONS:
        raise InvalidArgument(f"{reader.where}.{name}: {word!r} is not supported")
    value = ACTIONS[word]
    data = reader.optional_integer(errno_name, high=0xFFFF)
    if word in WITH_DATA:
        value |= EPERM if data is None else data
    elif data is not None:
        raise InvalidArgument(f"{reader.where}.{errno_name}: {word} takes no errno")
    return word, value


def _add_architectures(lib: ctypes.CDLL, context: int, reader: Reader) -> list[int]:
    archs = [lib.seccomp_arch_native()]
    for name in reader.strings("architectures"):
        token = _architecture(lib, name)
        if not token:
            raise InvalidArgument(f"{reader.where}.architectures: {name!r} is not supported")
        _check(lib.seccomp_arch_add(context, token), f"architecture {name}", EEXIST)
        if token not in archs:
            archs.append(token)
    return archs


def _architecture(lib: ctypes.CDLL, name: str) -> int:
    """libseccomp's token of a name, 0 for one that the specification or this libseccomp does not know."""
    prefix, _, rest = name.partition("SCMP_ARCH_")
    if prefix or rest not in ARCHITECTURES:
        return 0
    token: int = lib.seccomp_arch_resolve_name(rest.lower().encode())
    return token


def architectures(lib: ctypes.CDLL) -> list[str]:
    """The names that a profile may use here."""
    names = [f"SCMP_ARCH_{name}" for name in ARCHITECTURES]
    return [name for name in names if _architecture(lib, name)]


def _add_rule(lib: ctypes.CDLL, context: int, rule: Reader, default: int) -> None:
    _, action = _action(rule, "action", "errnoRet")
    if action == default:
        return
    conditions = [_condition(item) for item in rule.children("args")]
    indexes = [condition.arg for condition in conditions]
    repeated = len(set(indexes)) != len(indexes)
    alternatives = [[condition] for condition in conditions] if repeated else [conditions]
    for name in rule.strings("names"):
        number = lib.seccomp_syscall_resolve_name(os.fsencode(name))
        if number == -1:
            continue
        for args in alternatives:
            array = (ArgCompare * len(args))(*args)
            _check(lib.seccomp_rule_add_array(context, action, number, len(args), array), f"rule for {name}", EEXIST)


def _condition(reader: Reader) -> ArgCompare:
    word = reader.string("op", required=True)
    if word not in OPERATORS:
        raise InvalidArgument(f"{reader.where}.op: {word!r} is not supported")
    u64 = 0xFFFFFFFFFFFFFFFF
    return ArgCompare(
        reader.integer("index", high=5),
        OPERATORS[word],
        reader.integer("value", high=u64),
        reader.integer("valueTwo", high=u64),
    )


def _last_number(lib: ctypes.CDLL, arch: int, names: list[str]) -> int:
    """The highest system call number that the profile names; -1 for none.  x32's come without their bit."""
    numbers = [lib.seccomp_syscall_resolve_name_arch(arch, os.fsencode(name)) for name in names]
    return max([number & ~X32_SYSCALL_BIT for number in numbers if number >= 0], default=-1)


def _export(lib: ctypes.CDLL, context: int) -> bytes:
    fd = os.memfd_create("bpf", os.MFD_CLOEXEC)
    with open(fd, "rb", buffering=0) as file:
        _check(lib.seccomp_export_bpf(context, fd), "export")
        file.seek(0)
        return file.readall()


def _check(result: int, what: str, *allowed: int) -> None:
    if result < 0 and -result not in allowed:
        raise Internal(f"seccomp: {what}: {os.strerror(-result).lower()}")
