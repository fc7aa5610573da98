"""The launch of a full container from a warm process, as a shim does it, with where the time goes.

Beside it cold runs of the peers, and a bare clone with the same namespaces in C.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from harness import Budget, Once, Row, Sample, interleave, words
from runtimes import Bundle, Shell

from support import peers

CLONE = {  # sched.h, by the names of config.json
    "pid": 0x20000000,
    "network": 0x40000000,
    "mount": 0x00020000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "cgroup": 0x02000000,
    "user": 0x10000000,
}
FLOOR = "bare C floor"
BUDGET = (Budget("0.6", "crun run (cold)"), Budget("0.25", "runc run (cold)"), Budget("5", FLOOR))


def rows(folder: Path, rounds: int) -> list[Row]:
    """Warm launch beside cold runs of the peers and the C floor, and its breakdown."""
    from corten.runtime import container
    from corten.runtime.options import CreateOptions
    from corten.runtime.prepare import Host

    bundle = Bundle(folder / "warm", ["/bin/true"])
    host = Host()
    parts: dict[str, list[float]] = {"create (plan, cgroup, spawn, steps)": [], "run to exit": [], "delete": []}
    count = 0

    def launch() -> None:
        nonlocal count
        count += 1
        options = CreateOptions(f"warm{count}", str(folder / "root-warm"), str(bundle.folder), wait_for_start=False)
        began = time.perf_counter()
        made = container.create(options, host)
        created = time.perf_counter()
        os.waitpid(made.pid, 0)
        os.close(made.pidfd)
        if made.trace_fd >= 0:
            os.close(made.trace_fd)
        ended = time.perf_counter()
        container.delete(str(folder / "root-warm"), f"warm{count}")
        for name, spent in zip(parts, (created - began, ended - created, time.perf_counter() - ended), strict=True):
            parts[name].append(spent * 1000)

    floor = _floor(folder, bundle.namespaces)
    plain, hybrid = Shell(without_unified=False), Shell(without_unified=True)
    contenders: dict[str, Once] = {
        "runc run (cold)": lambda: plain.time(_run(peers.binary("runc"), bundle, folder)),
        "crun run (cold)": lambda: hybrid.time(_run(peers.binary("crun"), bundle, folder)),
        FLOOR: lambda: _bare(floor),
        "corten": launch,
    }
    try:
        samples = interleave(contenders, rounds, warm=3)
    finally:
        plain.close()
        hybrid.close()
    created = "corten.runtime.container.create(wait_for_start=False)"
    steps = {"create (plan, cgroup, spawn, steps)": created, "run to exit": "waitpid", "delete": "container.delete"}
    texts = {
        "runc run (cold)": words(_run(peers.binary("runc"), bundle, folder)),
        "crun run (cold)": words(_run(peers.binary("crun"), bundle, folder)),
        FLOOR: f"cc -O2 -o floor bench/floor.c; ./floor {floor[1]} ({', '.join(bundle.namespaces)}), what it prints",
        "corten": "; ".join(steps.values()) + ", in the bench's process",
    }
    row = Row("warm launch, in process", "ms", samples, BUDGET, texts)
    return [
        row,
        *(
            Row(f"  of it: {name}", "ms", {"corten": Sample(tuple(taken[3:]))}, (), {"": steps[name]})
            for name, taken in parts.items()
        ),
    ]


def _run(runtime: Path, bundle: Bundle, folder: Path) -> list[str]:
    return [str(runtime), "--root", str(folder / f"root-{runtime.name}-warm"), "run", "-b", str(bundle.folder), "warm"]


def clone_flags(namespaces: Iterable[str]) -> int:
    """What clone(2) takes for the namespaces of a config.json."""
    return sum(CLONE[name] for name in namespaces)


def _floor(folder: Path, namespaces: Iterable[str]) -> tuple[Path, str]:
    """The program of bench/floor.c and its argument."""
    program = folder / "floor"
    subprocess.run(["cc", "-O2", "-o", program, Path(__file__).with_name("floor.c")], check=True)
    return program, hex(clone_flags(namespaces))


def _bare(floor: tuple[Path, str]) -> float:
    """The seconds that the program says; its own start is not among them."""
    return int(subprocess.run(floor, check=True, stdout=subprocess.PIPE, text=True).stdout) / 1e6
