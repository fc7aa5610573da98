"""The launch of a full container from a warm process, as a shim does it, with where the time goes."""

from __future__ import annotations

import os
import time
from pathlib import Path

from harness import Once, Row, Sample, interleave, words
from runtimes import Bundle, Shell

from support import peers


def rows(folder: Path, rounds: int) -> list[Row]:
    """Warm launch beside cold runs of the peers, and its breakdown."""
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

    plain, hybrid = Shell(without_unified=False), Shell(without_unified=True)
    contenders: dict[str, Once] = {
        "runc run (cold)": lambda: plain.time(_run(peers.binary("runc"), bundle, folder)),
        "crun run (cold)": lambda: hybrid.time(_run(peers.binary("crun"), bundle, folder)),
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
        "corten": "; ".join(steps.values()) + ", in the bench's process",
    }
    row = Row("warm launch, in process", "ms", samples, "≤ 0.6 × crun run, ≤ 0.25 × runc run", texts)
    return [
        row,
        *(
            Row(f"  of it: {name}", "ms", {"corten": Sample(tuple(taken[3:]))}, "", {"": steps[name]})
            for name, taken in parts.items()
        ),
    ]


def _run(runtime: Path, bundle: Bundle, folder: Path) -> list[str]:
    return [str(runtime), "--root", str(folder / f"root-{runtime.name}-warm"), "run", "-b", str(bundle.folder), "warm"]
