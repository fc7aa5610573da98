"""Rest: the pages that a shim only looked at are shared again while it sleeps (launcher/rest.c).

The zygote's heap, once everything is loaded and played, goes behind a memfd; a forked process that has had nothing to
do for a moment drops its private copies of pages that are still what they were, and sleeps.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import select
import sys
import time

from corten.errors import Internal
from corten.sys import files

LIBRARY = "corten-rest.so"
AFTER_S = 0.3  # of idleness; a page dropped too early is a fault that comes back
EVERY_S = 5.0  # at most, of a process that is woken again and again
MIN_REGION_BYTES = 128 * 1024  # smaller ones are the C library's own
_MS = 1000
_SMALLEST, _LARGEST, _STEP = 48, 512, 16  # of pymalloc; smaller than any bytes object there is only the tiny rest
_BYTES_OVERHEAD = sys.getsizeof(b"")
_POOL_BYTES, _POOL_HEADER = 16384, 48
_FILL_LIMIT = 20000


class Rest:
    """`wait` in place of `epoll.poll` rests; before `take_base`, and where the library is missing, it is just that."""

    __slots__ = ("_kept", "_last", "_memfd", "_wait")

    def __init__(self) -> None:
        self._wait: ctypes._NamedFuncPointer | None = None
        self._kept: list[bytes] = []
        self._last = 0.0
        self._memfd = -1

    def take_base(self, path: str = "") -> int:
        """The heap as it is now, frozen, is what forked processes share; its size in bytes, 0 without the library."""
        gc.collect()
        self._kept = fill_holes()
        gc.freeze()
        try:
            library = ctypes.CDLL(path or library_path())
        except OSError:
            return 0
        take, wait = library.rest_base, library.rest_wait
        take.restype = wait.restype = ctypes.c_long
        words = ctypes.POINTER(ctypes.c_uint64)
        take.argtypes = (ctypes.c_int, words, ctypes.c_uint64)
        wait.argtypes = (ctypes.c_int, ctypes.c_int)
        memfd = self._memfd = os.memfd_create("corten-shim-heap", os.MFD_CLOEXEC)
        regions = _words(heap_regions(files.read_text("/proc/self/maps")))
        size: int = take(memfd, regions, len(regions) // 2)
        if size < 0:
            raise Internal(f"heap of the zygote: {os.strerror(-size)}")
        self._wait = wait
        return size

    def forget(self) -> None:
        """In a forked child that never rests: it keeps no descriptor of the base."""
        self._wait = None
        if self._memfd >= 0:
            os.close(self._memfd)
            self._memfd = -1

    def poll(self, epoll: select.epoll, timeout_s: float | None) -> list[tuple[int, int]]:
        """As `epoll.poll(timeout_s)`."""
        if self._wait is None:
            return epoll.poll(timeout_s)
        patience_s = max(AFTER_S, self._last + EVERY_S - time.monotonic())
        if timeout_s is not None and timeout_s <= patience_s:
            return epoll.poll(timeout_s)
        ready = epoll.poll(patience_s)
        if ready:
            return ready
        self._last = time.monotonic()
        self._wait(epoll.fileno(), -1 if timeout_s is None else int((timeout_s - patience_s) * _MS))
        return epoll.poll(0)


def _words(pairs: list[tuple[int, int]]) -> ctypes.Array[ctypes.c_uint64]:
    return (ctypes.c_uint64 * (2 * len(pairs)))(*itertools.chain.from_iterable(pairs))


def fill_holes() -> list[bytes]:
    """Objects in every hole that earlier ones left in the interpreter's small-object pools (Objects/obmalloc.c), to be
    kept: what is made from now on lies side by side in new pools, and not one by one in pages that are shared."""
    kept: list[bytes] = []
    for size in range(_SMALLEST, _LARGEST + 1, _STEP):
        last: list[bytes] = []
        for _ in range(_FILL_LIMIT):
            filler = bytes(size - _BYTES_OVERHEAD)
            if id(filler) % _POOL_BYTES == _POOL_HEADER:
                kept += last
                last = []
            last.append(filler)
            if len(last) == _POOL_BYTES // size - 1 and _is_row(last, size):
                break  # a whole pool in one row: there are no holes any more; it is given back
    return kept


def _is_row(fillers: list[bytes], size: int) -> bool:
    return id(fillers[-1]) - id(fillers[0]) == (len(fillers) - 1) * size


def heap_regions(maps: str) -> list[tuple[int, int]]:
    """The private writable memory of the interpreter: its data, the heap, the arenas (proc_pid_maps(5))."""
    found: list[tuple[int, int]] = []
    program_end = 0
    for line in maps.splitlines():
        words = line.split(maxsplit=5)
        start, end = (int(word, 16) for word in words[0].split("-"))
        name = words[5] if len(words) > 5 else ""
        if "/python" in name:
            program_end = end
        is_data = "/python" in name or (not name and start == program_end)
        is_arena = not name and end - start >= MIN_REGION_BYTES
        if words[1] == "rw-p" and (is_data or is_arena or name == "[heap]"):
            found.append((start, end))
    return found


def library_path() -> str:
    """The built library: beside the installed package, else in the checkout's `build`."""
    package = __file__.rpartition("/")[0].rpartition("/")[0]
    installed = f"{package}/launch/{LIBRARY}"
    return installed if files.exists(installed) else f"{package}/../../build/launcher/{LIBRARY}"
