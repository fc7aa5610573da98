"""Rest: what a forked process drops of its memory, and what it must not."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time

from corten.shim.rest import Rest, heap_regions
from support import paths

MAPS = """\
00400000-0041f000 r--p 00000000 fe:00 1 /usr/bin/python3.11
00945000-00a84000 rw-p 00544000 fe:00 1 /usr/bin/python3.11
00a84000-00ac9000 rw-p 00000000 00:00 0
1f000000-1f200000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000100000 rw-p 00000000 00:00 0
7f0000200000-7f0000202000 rw-p 00000000 00:00 0
7f0000300000-7f0000301000 rw-p 001d4000 fe:00 2 /usr/lib/x86_64-linux-gnu/libc.so.6
7f0000400000-7f0000500000 rw-s 00000000 00:00 0
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                  [stack]
"""

# private dirty kB of a forked child after it has read every object, and after its rest; a sum that must be right
PLAY = """
import os, select, sys, time
sys.path.insert(0, sys.argv[1])
from corten.shim.rest import Rest
words = [str(number) + "." for number in range(60000)]
counts = [0] * 1000
rest = Rest()
if not rest.take_base():
    sys.exit("no library")
ready, go = os.pipe()
done, over = os.pipe()
if os.fork() == 0:
    kept = [list(words), list(words)]  # every word's count
    del kept
    counts[7] = len(words)
    os.write(go, b"x")
    epoll = select.epoll()
    epoll.register(done, select.EPOLLIN)
    found = rest.poll(epoll, None)
    total = sum(map(len, words)) + counts[7]
    os.write(1, f"{found == [(done, select.EPOLLIN)]} {total}\\n".encode())
    os._exit(0)
child = int(open(f"/proc/self/task/{os.getpid()}/children").read())
def dirty():
    rows = open(f"/proc/{child}/smaps_rollup").read().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("Private_Dirty"))
os.read(ready, 1)
before = dirty()
deadline = time.monotonic() + 60
while dirty() > before / 3 and time.monotonic() < deadline:
    time.sleep(0.05)
print(before, dirty(), flush=True)
os.write(over, b"x")
os.wait()
"""


def test_the_memory_of_the_interpreter_is_found_in_its_maps() -> None:
    assert heap_regions(MAPS) == [
        (0x945000, 0xA84000),
        (0xA84000, 0xAC9000),
        (0x1F000000, 0x1F200000),
        (0x7F0000000000, 0x7F0000100000),
    ]


def test_a_forked_process_that_rests_shares_again_what_it_only_read_and_keeps_what_it_wrote() -> None:
    source = str(paths.REPOSITORY / "src")
    done = subprocess.run(
        [sys.executable, "-ISE", "-c", PLAY, source], check=True, capture_output=True, text=True, timeout=60
    )
    first, second = sorted(done.stdout.splitlines(), key=lambda line: line.startswith("True"))
    before, after = map(int, first.split())
    assert before > 2000  # kB: 60 000 objects
    assert after < before / 3
    assert second == f"True {sum(len(str(number)) + 1 for number in range(60000)) + 60000}"


def test_without_a_base_it_waits_as_epoll_does() -> None:
    epoll = select.epoll()
    ready, go = os.pipe()
    epoll.register(ready, select.EPOLLIN)
    began = time.monotonic()
    assert Rest().poll(epoll, 0.01) == []
    assert time.monotonic() - began < 5
    os.write(go, b"x")
    assert Rest().poll(epoll, None) == [(ready, select.EPOLLIN)]
    epoll.close()
    os.close(ready)
    os.close(go)


def test_a_missing_library_is_no_error() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-ISE", "-c"),
            "import sys; sys.path.insert(0, sys.argv[1]); from corten.shim.rest import Rest\n"
            "print(Rest().take_base('/nonexistent.so'))",
            str(paths.REPOSITORY / "src"),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "0\n"
