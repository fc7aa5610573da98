"""What the tests inside the machine look at: cgroup files, network, and what is left at the end."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support import images
from support.engine import CortenEngine

IMAGE = images.BUSYBOX_REF
CGROUPS = Path("/sys/fs/cgroup")
SECCOMP_CACHE = "corten-runtime-seccomp"  # compiled profiles, of the machine and not of an engine


def inspect(engine: CortenEngine, name: str) -> dict[str, Any]:
    """`docker inspect` of a container."""
    found: dict[str, Any] = json.loads(engine.docker("inspect", name, check=True).stdout)[0]
    return found


def cgroup(engine: CortenEngine, name: str) -> Path:
    """A container's cgroup as its init's own file names it."""
    line = Path(f"/proc/{inspect(engine, name)['State']['Pid']}/cgroup").read_text().strip()
    assert line.startswith("0::/"), line
    return CGROUPS / line.removeprefix("0::/")


def read(folder: Path, name: str) -> str:
    """One file of a cgroup."""
    return (folder / name).read_text().strip()


def run(*argv: str) -> str:
    """The output of a program that must succeed."""
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{argv}: {done.returncode}: {done.stderr}"
    return done.stdout


def get(url: str, timeout: float = 20) -> bytes:
    """The body of an answer over HTTP."""
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        body: bytes = answer.read()
        return body


def status(text: str) -> dict[str, str]:
    """/proc/PID/status, or what looks like it."""
    return {line.partition(":")[0]: line.partition(":")[2].strip() for line in text.splitlines() if ":" in line}


def state() -> dict[str, set[str]]:
    """What an engine must not leave behind: cgroups, mounts, links, tables, processes, namespaces."""
    return {
        "cgroups": {base for base, _, _ in os.walk(CGROUPS)},
        "mounts": {line.split()[4] for line in Path("/proc/1/mountinfo").read_text().splitlines()},
        "links": {entry.name for entry in Path("/sys/class/net").iterdir()},
        "tables": set(run("nft", "list", "tables").splitlines()),
        "processes": {text for text in _commands() if "corten" in text and "pytest" not in text},
        "folders": {entry.name for top in ("/run", "/tmp") for entry in Path(top).iterdir()} - {SECCOMP_CACHE},
    }


def _commands() -> Sequence[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found
