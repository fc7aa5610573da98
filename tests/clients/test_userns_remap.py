"""`userns-remap` beside dockerd 26.1: the same commands on both, what they say and what is on the host afterwards."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support import images
from support.dockerd import Dockerd
from support.engine import CortenEngine
from support.remapped import SETTING, RemappedEngine, dockerd

IMAGE = images.BUSYBOX_REF
NAMES = "/etc/hosts /etc/hostname /etc/resolv.conf /dev/shm /dev/null /proc /sys /home/user/.keep"
SCRIPT = (
    ("run", "--rm", IMAGE, "cat", "/proc/self/uid_map", "/proc/self/gid_map"),
    ("run", "--rm", IMAGE, "sh", "-c", f"stat -c '%n %u:%g %a' {NAMES}"),
    (
        "run",
        "--rm",
        IMAGE,
        "cat",
        "/proc/sys/net/ipv4/ping_group_range",
        "/proc/sys/net/ipv4/ip_unprivileged_port_start",
    ),
    ("run", "--rm", IMAGE, "grep", "Cap", "/proc/self/status"),
    ("run", "--rm", "--privileged", IMAGE, "true"),
    ("run", "--rm", "--network", "host", IMAGE, "true"),
    ("run", "--rm", "--pid", "host", IMAGE, "true"),
    ("run", "--rm", "--uts", "host", IMAGE, "id"),
    ("run", "--rm", "--userns", "host", IMAGE, "cat", "/proc/self/uid_map"),
    ("run", "--rm", "--userns", "host", "--privileged", "--network", "host", "--pid", "host", IMAGE, "id"),
    ("run", "--rm", "--userns", "private", IMAGE, "id"),
    ("run", "--rm", "--tmpfs", "/t", IMAGE, "stat", "-c", "%u:%g %a", "/t"),
    ("run", "--rm", "--device", "/dev/zero:/dev/zero:r", IMAGE, "stat", "-c", "%u:%g", "/dev/zero"),
    ("run", "--rm", "-v", "data:/home/user", IMAGE, "ls", "-ln", "/home/user"),
    ("run", "--rm", "-v", "data:/v", "--userns", "host", IMAGE, "stat", "-c", "%u:%g", "/v"),
    ("run", "--rm", "-v", "/etc:/b:ro", IMAGE, "stat", "-c", "%u:%g", "/b/passwd"),
    ("run", "--rm", "--cap-add", "net_admin", IMAGE, "ip", "addr", "add", "10.99.0.1/32", "dev", "lo"),
    ("run", "-d", "--name", "box", "--ipc", "shareable", IMAGE, "sleep", "1000"),
    ("exec", "box", "sh", "-c", "echo a >/x; chown 5:6 /x; chmod 4755 /x; ls -ln /x"),
    ("exec", "-u", "1000", "box", "sh", "-c", "id; echo a >/dev/stdout"),
    ("inspect", "-f", "{{.HostConfig.UsernsMode}} {{json .HostConfig.SecurityOpt}}", "box"),
    ("commit", "box", "kept:1"),
    ("run", "--rm", "kept:1", "ls", "-ln", "/x"),
    ("run", "--rm", "--network", "container:box", IMAGE, "cat", "/proc/self/uid_map"),
    ("run", "--rm", "--pid", "container:box", IMAGE, "cat", "/proc/self/uid_map"),
    ("run", "--rm", "--ipc", "container:box", IMAGE, "stat", "-c", "%u:%g", "/dev/shm"),
    ("run", "--rm", "--userns", "host", "--network", "container:box", IMAGE, "cat", "/proc/self/uid_map"),
    ("run", "--rm", "--userns", "host", "--pid", "container:box", IMAGE, "cat", "/proc/self/uid_map"),
    ("diff", "box"),
    ("rm", "-f", "box"),
)


def played(engine: Dockerd | CortenEngine) -> list[tuple[int, str]]:
    """Exit code and words of each command; no ids."""
    engine.docker("load", "-i", str(images.busybox()), check=True)
    rows = []
    for words in SCRIPT:
        done = engine.docker(*words)
        text = "".join(sorted((done.stdout + done.stderr).splitlines(keepends=True)))
        rows.append((done.returncode, re.sub(r"[0-9a-f]{64}|\w{3} [ \d]\d \d\d:\d\d", "…", text)))
    return rows


def volume_owners(data: Path) -> list[tuple[int, int, int]]:
    root = data / "volumes/data/_data"
    return [(path.stat().st_uid, path.stat().st_gid, path.stat().st_mode) for path in (root, root / ".keep")]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_same_script_says_the_same_as_with_dockerd() -> None:
    with dockerd() as reference, RemappedEngine(config=SETTING) as engine:
        theirs, ours = played(reference), played(engine)
        rows = zip(SCRIPT, theirs, ours, strict=True)
        assert not [row for row in rows if row[1] != row[2]]
        folder = Path(reference.docker("info", "-f", "{{.DockerRootDir}}", check=True).stdout.strip())
        assert volume_owners(engine.data_root) == volume_owners(folder)
