"""The launcher as a file: small, static, with nothing to load."""

from __future__ import annotations

import struct
from pathlib import Path

from corten.launch.spawn import launcher_path

PT_DYNAMIC, PT_INTERP = 2, 3


def test_launcher_is_a_few_tens_of_kilobytes() -> None:
    assert Path(launcher_path()).stat().st_size < 64 * 1024


def test_launcher_is_static() -> None:
    """No program interpreter and no dynamic section (elf(5), Elf64_Phdr)."""
    data = Path(launcher_path()).read_bytes()
    assert data[:4] == b"\x7fELF"
    (offset,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    kinds = {struct.unpack_from("<I", data, offset + index * size)[0] for index in range(count)}
    assert not kinds & {PT_INTERP, PT_DYNAMIC}
