"""`make bench`: Corten beside its peers in one run, as a table of ratios.

Peers are Debian's, unpacked, not installed.  Rows interleave the contenders.  `--quick` takes few rounds.
Prints Markdown: the table, the budgets that are missed, what was run; `--output docs/performance.md` puts it there,
behind the heading of the last run: the prose before it stays.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests"), str(HERE.parent / "src")]

import daemon  # noqa: E402
import engines  # noqa: E402  (the path is set above: bench is run, not installed)
import images as image_rows  # noqa: E402
import layers  # noqa: E402
import network  # noqa: E402
import resources  # noqa: E402
import runtimes  # noqa: E402
import warm  # noqa: E402
from harness import HEADING, Row, commands, digest, kept, missed, table  # noqa: E402

from support import images, paths, peers  # noqa: E402
from support.dockerd import DockerClient, Dockerd  # noqa: E402
from support.engine import CortenEngine  # noqa: E402

PARTS = "runtimes,warm,layers,engines,resources,daemon,images,network"
COMMANDS = ("corten-runtime", "corten-shim", "cortend", "corten")
LAUNCHER = paths.REPOSITORY / "build" / "launcher" / "corten-launch"


def main() -> int:
    """Runs the chosen parts and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--parts", default=PARTS, help="comma separated")
    parser.add_argument("--output", type=Path, help="also put the report into this page")
    given = parser.parse_args()
    if os.geteuid() != 0:
        print("bench: needs root", file=sys.stderr)
        return 1
    page = given.output.read_text() if given.output and given.output.exists() else f"{HEADING}\n"
    kept(page, "")  # a page without the heading is refused before anything is measured
    report = _report(_rows(given.parts.split(","), 5 if given.quick else 20, 10 if given.quick else 50))
    print(report)
    if given.output:
        given.output.write_text(kept(page, report))
    return 0


def _rows(parts: list[str], rounds: int, containers: int) -> list[Row]:
    """The rows of the chosen parts; what each part took goes to stderr."""
    rows: list[Row] = []
    folder = paths.scratch("bench")
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        found: dict[str, DockerClient] = {}
        if {"engines", "resources", "daemon"} & set(parts):
            found = _engines(stack)
        table: dict[str, Callable[[], list[Row]]] = {
            "runtimes": lambda: runtimes.rows(folder, rounds),
            "warm": lambda: warm.rows(folder, rounds),
            "layers": lambda: layers.rows(folder, min(rounds, 10)),
            "engines": lambda: engines.rows(found, rounds, 2 * containers),
            "resources": lambda: resources.rows(found, 2 * containers),
            "daemon": lambda: daemon.rows(found, rounds, containers),
            "images": lambda: image_rows.rows(folder, rounds),
            "network": lambda: network.rows(folder, rounds),
        }
        for part, make in table.items():
            if part in parts:
                started = time.monotonic()
                rows += make()
                print(f"bench: {part}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return rows


def _engines(stack: ExitStack) -> dict[str, DockerClient]:
    found: dict[str, DockerClient] = {
        "dockerd+runc": stack.enter_context(Dockerd("20.10")),
        "dockerd+crun": stack.enter_context(
            Dockerd(
                "20.10",
                runtimes={"crun": peers.binary("crun")},
                args=("--default-runtime", "crun"),
                prepare="umount /sys/fs/cgroup/unified",
            )
        ),
        "corten": stack.enter_context(CortenEngine()),
    }
    for engine in found.values():
        engine.docker("load", "-i", str(images.busybox()), check=True)
    return found


def _report(rows: list[Row]) -> str:
    """The table with its circumstances."""
    now = datetime.datetime.now(datetime.UTC)
    return "\n".join(
        [
            f"Measured {now:%Y-%m-%d %H:%M} UTC, kernel {os.uname().release}, {os.cpu_count()} cores.",
            "",
            *_programs(),
            "",
            table(rows),
            "",
            missed(rows),
            "",
            commands(rows),
            "",
        ]
    )


def _programs() -> list[str]:
    """Every binary that was measured, with the digest of its bytes; for Corten also of all of its source."""
    versions = peers.versions()
    names = ["runc", "crun", "dockerd-20.10", "containerd-1.6", "containerd-shim-1.6", "dockerd-26.1", "podman"]
    names += ["netavark", "aardvark-dns", "docker-registry", "iperf3"]
    lines = [f"- {name} {versions.get(name, '?')}: sha256 {digest(peers.binary(name))}" for name in names]
    cli = peers.docker_cli()
    version = subprocess.run([cli, "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    lines.append(f"- docker CLI, {version}: sha256 {digest(cli)}")
    for path in (*(paths.COMMANDS / name for name in COMMANDS), LAUNCHER):
        lines.append(f"- {path.name}: sha256 {digest(path)}")
    source = hashlib.sha256()
    for path in sorted((paths.REPOSITORY / "src").rglob("*.py")):
        source.update(path.read_bytes())
    return [*lines, f"- src/corten, every module in order: sha256 {source.hexdigest()}"]


if __name__ == "__main__":
    sys.exit(main())
