"""The two C programs as files: static, small, with nothing of a C library, and the same bytes at every build."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from support import paths

BUILT = paths.REPOSITORY / "build" / "launcher"
PROGRAMS = ("corten-launch", "corten-init")
LIMIT = 64 << 10

# elf(5)
ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
ET_EXEC = 2
PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_TLS, PT_GNU_STACK = 1, 2, 3, 7, 0x6474E551
PF_X, PF_W = 1, 2


def segments(data: bytes) -> list[tuple[int, int]]:
    """(type, flags) of every program header."""
    header = ELF_HEADER.unpack_from(data)
    offset, size, count = header[5], header[9], header[10]
    assert size == PROGRAM_HEADER.size
    headers = [PROGRAM_HEADER.unpack_from(data, offset + number * size) for number in range(count)]
    return [(one[0], one[1]) for one in headers]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_static_and_small(name: str) -> None:
    data = (BUILT / name).read_bytes()
    assert data[:5] == b"\x7fELF\x02"
    assert len(data) <= LIMIT
    assert ELF_HEADER.unpack_from(data)[1] == ET_EXEC
    kinds = [kind for kind, _ in segments(data)]
    assert PT_LOAD in kinds
    assert not {PT_INTERP, PT_DYNAMIC, PT_TLS} & set(kinds)
    assert not any(flags & PF_X and flags & PF_W for _, flags in segments(data)), "writable code"
    assert (PT_GNU_STACK, PF_X) not in [(kind, flags & PF_X) for kind, flags in segments(data)]


def make(folder: Path, *settings: str) -> None:
    """Builds both programs into a folder."""
    command = ["make", "-s", "-C", str(paths.REPOSITORY / "launcher"), f"OUT={folder}/corten-launch", *settings]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=100)


def test_a_build_gives_the_same_bytes_wherever_it_is_done(tmp_path: Path) -> None:
    for folder in ("one", "and-another"):
        make(tmp_path / folder)
    for name in PROGRAMS:
        data = (BUILT / name).read_bytes()
        assert (tmp_path / "one" / name).read_bytes() == data
        assert (tmp_path / "and-another" / name).read_bytes() == data


def test_no_symbol_comes_from_a_c_library(tmp_path: Path) -> None:
    """Linked again with its symbols and without --gc-sections: none is undefined, none is one that libc would bring."""
    make(tmp_path, "STRIP=", "GC=")
    for name in PROGRAMS:
        listed = subprocess.run(["nm", tmp_path / name], check=True, capture_output=True, text=True).stdout
        rows = [line.split() for line in listed.splitlines()]
        names = {row[-1] for row in rows}
        assert "_start" in names
        assert not [row for row in rows if row[0] in {"U", "w"}], "undefined"
        assert not {"__libc_start_main", "printf", "malloc", "environ", "errno", "_init", "__stack_chk_fail"} & names
