"""`corten-runtime` beneath podman and conmon: every row gives what runc gives there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images, paths, peers
from support.podman import Podman

IMAGE = images.BUSYBOX_REF
CORTEN = "corten-runtime"

RUNS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str | None]] = {
    "output": ((), ("echo", "hi"), None),
    "exit status": ((), ("sh", "-c", "exit 4"), None),
    "stdin": (("-i",), ("cat",), "abc"),
    "terminal": (("-t",), ("tty",), None),
    "no such command": ((), ("nosuch",), None),
    "a directory as command": ((), ("/etc",), None),
    "limits": (
        ("--pids-limit", "44", "-m", "100m"),
        ("cat", "/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        None,
    ),
    "privileges": (("-u", "1000"), ("grep", "-E", "Cap|NoNewPrivs|Seccomp|Groups", "/proc/self/status"), None),
    "read-only": (("--read-only", "--read-only-tmpfs=false"), ("touch", "/x"), None),
}

LIFE: list[tuple[str, ...]] = [
    ("exec", "NAME", "echo", "in"),
    ("exec", "NAME", "nosuch"),
    ("exec", "-t", "NAME", "tty"),
    ("exec", "NAME", "sh", "-c", "exit 5"),
    ("pause", "NAME"),
    ("inspect", "-f", "{{.State.Status}}", "NAME"),
    ("unpause", "NAME"),
    ("top", "NAME", "comm"),
    ("stats", "--no-stream", "--format", "{{.PIDs}}", "NAME"),
    ("kill", "-s", "USR1", "NAME"),
    ("stop", "-t", "1", "NAME"),
    ("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "NAME"),
    ("start", "NAME"),
    ("kill", "NAME"),
    ("wait", "NAME"),
    ("rm", "NAME"),
]


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    with Podman() as instance:
        yield instance


def normal(text: str) -> str:
    """Each runtime is named by its path and by itself."""
    for name in (str(paths.COMMANDS / CORTEN), str(peers.binary("runc")), CORTEN, "corten"):
        text = text.replace(name, "runc")
    return text


@pytest.mark.parametrize("name", RUNS)
def test_podman_run_gives_what_it_gives_with_runc(podman: Podman, name: str) -> None:
    options, command, stdin = RUNS[name]
    found = []
    for runtime in ("runc", CORTEN):
        done = podman(runtime, "run", "--rm", *options, *podman.own_cgroup, IMAGE, *command, stdin=stdin)
        found.append((done.returncode, normal(done.stdout), normal(done.stderr)))
    assert found[0] == found[1]


def test_a_container_of_podman_lives_as_it_does_with_runc(podman: Podman) -> None:
    found: list[list[tuple[tuple[str, ...], int, str, str]]] = []
    for runtime, name in (("runc", "runc"), (CORTEN, "corten")):
        podman(runtime, "run", "-d", "--name", name, *podman.own_cgroup, IMAGE, "sleep", "1000", check=True)
        rows = []
        for words in LIFE:
            done = podman(runtime, *(word.replace("NAME", name) for word in words))
            stderr = "".join(line for line in done.stderr.splitlines() if "level=warning" not in line)
            rows.append((words, done.returncode, normal(done.stdout), normal(stderr)))
        found.append(rows)
    assert found[0] == found[1]


def test_a_container_may_do_without_cgroups(podman: Podman) -> None:
    done = podman(
        CORTEN, "run", "--rm", "--cgroups", "disabled", "--network", "none", IMAGE, "cat", "/proc/self/cgroup"
    )
    assert done.returncode == 0, done.stderr
    own = dict(line.split(":", 1) for line in Path("/proc/self/cgroup").read_text().splitlines())
    assert {line.split(":", 1)[0] for line in done.stdout.splitlines()} == set(own)
