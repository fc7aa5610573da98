"""What a seccomp filter answers, by running it: classic BPF over `struct seccomp_data` (seccomp(2), bpf(4)).

The compiler of launch plans asks which of the launcher's own system calls a container's filter allows.  Arguments
that are not known beforehand (descriptors, addresses) have no value: a filter that looks at one is taken to refuse.
Instructions that libseccomp does not write are taken so, too.
"""

from __future__ import annotations

import posix
from _struct import Struct

from corten.launch.context import CALLS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

INSTRUCTION = Struct("=HBBI")
LOAD_WORD, AND, JUMP, RETURN = 0x20, 0x54, 0x05, 0x06
JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_EQUAL, JUMP_SET = 0x15, 0x25, 0x35, 0x45
ACTION_MASK = 0xFFFF0000
ALLOW, LOG = 0x7FFF0000, 0x7FFC0000

# uname -m → AUDIT_ARCH_*, and the numbers of CALLS
MACHINES = {
    "x86_64": (0xC000003E, (1, 3, 126, 56, 231, 228, 112, 157, 271, 13, 59, 16, 302, 0, 203, 46)),
    "aarch64": (0xC00000B7, (64, 57, 91, 220, 94, 113, 157, 167, 73, 134, 221, 29, 261, 63, 122, 211)),
}
# their arguments, None for one that is not known; what is not written down is 0 (launcher/sys.h)
UNKNOWN = (None, None, None)
CLONE_PARENT, CLOCK_MONOTONIC, PR_SET_PDEATHSIG, SIGKILL, SIGPIPE = 0x8000, 1, 1, 9, 13
TIOCSCTTY, RLIMIT_NPROC = 0x540E, 6
ARGUMENTS: dict[str, Sequence[int | None]] = {
    "write": UNKNOWN,
    "close": (None,),
    "capset": (None, None),
    "clone": (CLONE_PARENT,),
    "exit_group": (0,),
    "clock_gettime": (CLOCK_MONOTONIC, None),
    "setsid": (),
    "prctl": (PR_SET_PDEATHSIG, SIGKILL),
    "ppoll": (None, 2, None),
    "rt_sigaction": (SIGPIPE, None, 0, 8),
    "execve": UNKNOWN,
    "ioctl": (0, TIOCSCTTY),
    "prlimit64": (0, RLIMIT_NPROC, None),
    "read": (None, None, 1),
    "sched_setaffinity": (0, None, None),
    "sendmsg": (None, None, None),
}


def allowed_calls(filter: bytes, machine: str = "") -> int:
    """Those of CALLS that the filter allows in the launcher, a bit each; 0 on a machine that is not known."""
    machine = machine or posix.uname().machine
    if machine not in MACHINES:
        return 0
    arch, numbers = MACHINES[machine]
    code = list(INSTRUCTION.iter_unpack(filter))
    mask = 0
    for bit, name in enumerate(CALLS):
        if is_allowed(code, arch, numbers[bit], ARGUMENTS[name]):
            mask |= 1 << bit
    return mask


def is_allowed(code: Sequence[tuple[int, ...]], arch: int, number: int, args: Sequence[int | None]) -> bool:
    """The filter lets the call pass whatever its unknown arguments are."""
    words: dict[int, int | None] = {0: number, 4: arch}
    for i, value in enumerate((*args, *[0] * (6 - len(args)))):
        words[16 + 8 * i] = None if value is None else value & 0xFFFFFFFF
        words[20 + 8 * i] = None if value is None else value >> 32
    accumulator = at = 0
    while at < len(code):
        what, yes, no, k = code[at]
        at += 1
        if what == RETURN:
            return k & ACTION_MASK in (ALLOW, LOG)
        if what == LOAD_WORD:
            word = words.get(k)
            if word is None:
                return False
            accumulator = word
        elif what == JUMP:
            at += k
        elif what == AND:
            accumulator &= k
        elif what in TESTS:
            at += yes if TESTS[what](accumulator, k) else no
        else:
            return False
    return False


TESTS = {
    JUMP_EQUAL: lambda a, k: a == k,
    JUMP_GREATER: lambda a, k: a > k,
    JUMP_GREATER_EQUAL: lambda a, k: a >= k,
    JUMP_SET: lambda a, k: a & k != 0,
}
