"""What a container, its image and an ordinary user of the machine learn and reach: folders, sockets, metadata, masks.

Each attack has a twin: the same against an engine that was built without the defending step.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from support import images, weakened, weakened_corten
from support.engine import CortenEngine
from support.weakened import Edit

NOBODY = 65534
# CVE-2021-41103, 2024-25621, moby 2021-41091: folders of the engine that others may enter
OPEN_TASKS: tuple[Edit, ...] = (
    ("engine/tasks.py", "os.mkdir(directory, 0o700)", "os.mkdir(directory, 0o755); os.chmod(directory, 0o755)"),
)
# CRI-O 2024-5154: what is mounted over finds its place through links of the image
NO_INIT_FILES: tuple[Edit, ...] = (
    (
        "core/init.py",
        'FILES = (b".dockerenv", b"dev/console", b"etc/hostname", b"etc/hosts", b"etc/resolv.conf")',
        'FILES = (b".dockerenv", b"dev/console")',
    ),
    ("core/init.py", 'LINKS = {b"etc/mtab": b"/proc/mounts"}', "LINKS: dict[bytes, bytes] = {}"),
)


def readable_by_nobody(root: Path) -> list[str]:
    """Files below a folder of which uid 65534 can read a byte, found by names that root knows."""
    files = [os.path.join(base, name) for base, _, names in os.walk(root) for name in names]
    read_fd, write_fd = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        with os.fdopen(write_fd, "w") as found:
            found.write("\n".join(file for file in files if os.access(file, os.R_OK)))
        os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd) as found:
        names = found.read().splitlines()
    os.waitpid(child, 0)
    return names


def seen_by_nobody(engine: CortenEngine) -> list[str]:
    """What an ordinary user reads of an engine that runs a container."""
    engine.docker(
        "run", "-d", "--name", "sleeper", "--network", "none", images.BUSYBOX_REF, "sleep", "1000", check=True
    )
    try:
        return readable_by_nobody(engine.data_root) + readable_by_nobody(engine.exec_root)
    finally:
        engine.docker("rm", "-f", "sleeper", check=True)


def test_an_ordinary_user_reads_nothing_of_the_engine(shared_engine: CortenEngine) -> None:
    assert seen_by_nobody(shared_engine) == []


def test_twin_with_open_folders_he_reads_the_configuration_of_containers() -> None:
    with weakened_corten.build(*OPEN_TASKS) as weak, CortenEngine(commands=weak.commands) as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        assert any(name.endswith("config.json") for name in seen_by_nobody(engine))


def test_no_socket_of_the_engine_is_abstract(shared_engine: CortenEngine) -> None:
    """CVE-2020-15257: an abstract socket is reached from every container in the same network namespace."""
    run = ("run", "-d", "--name", "sleeper", "--network", "host", images.BUSYBOX_REF, "sleep", "1000")
    shared_engine.docker(*run, check=True)
    try:
        done = shared_engine.docker("exec", "sleeper", "cat", "/proc/net/unix", check=True)
        assert [line for line in done.stdout.splitlines() if line.split()[-1].startswith("@")] == []
        assert "shim.sock" in done.stdout  # the probe sees the engine's namespace
    finally:
        shared_engine.docker("rm", "-f", "sleeper", check=True)


def test_containers_of_one_image_do_not_share_their_environment(shared_engine: CortenEngine) -> None:
    """CVE-2021-21334."""
    run = ("run", "--rm", "--network", "none")
    assert "A=secret" in shared_engine.docker(*run, "-e", "A=secret", images.BUSYBOX_REF, "env").stdout
    assert "secret" not in shared_engine.docker(*run, images.BUSYBOX_REF, "env").stdout


@pytest.mark.parametrize("path", ["/proc/interrupts", "/proc/timer_list", "/proc/keys"])
def test_a_path_of_the_kernel_is_masked(shared_engine: CortenEngine, path: str) -> None:
    run = ("run", "--rm", "--network", "none")
    script = f"test -e {path} && wc -c <{path}"
    assert shared_engine.docker(*run, images.BUSYBOX_REF, "sh", "-c", script).stdout.strip() in ("0", "")
    if path == "/proc/interrupts":  # the twin: without masks it says something
        bare = shared_engine.docker(
            *run, "--security-opt", "systempaths=unconfined", images.BUSYBOX_REF, "sh", "-c", script
        )
        assert int(bare.stdout) > 0, bare


# Metadata of an image is data.


def load(engine: CortenEngine, name: str, *entries: images.Entry, **config: Any) -> str:
    layers = [*images.busybox_layers(), images.layer(entries)]
    whole = {"Cmd": ["sh"], "Env": ["PATH=/bin"], **config}
    engine.docker("load", stdin=images.docker_archive([name], layers, whole), check=True)
    return name


CONTROL = {
    "io.containerd.runc.v2.group": "x",
    "org.systemd.property.ExecStartPre": "'/bin/touch /evil'",
    "run.oci.handler": "krun",
    "io.katacontainers.config.hypervisor.path": "/evil",
    "com.docker.log.driver": "binary:///evil",
}


def test_labels_of_an_image_control_nothing(shared_engine: CortenEngine) -> None:
    """CVE-2026-53488, CRI-O 2022-4318, 2026-15809: labels and annotations that reach a logger, systemd, a handler."""
    image = load(shared_engine, "labels:1", Labels=CONTROL)
    id = shared_engine.docker("run", "-d", "--network", "none", image, "sleep", "1000", check=True).stdout.strip()
    try:
        (config,) = shared_engine.exec_root.glob(f"tasks/*/{id}/config.json")
        written = json.loads(config.read_text())
        assert not written.get("annotations")
        assert "evil" not in config.read_text()
        assert shared_engine.docker("inspect", "-f", "{{.HostConfig.LogConfig.Type}}", id).stdout == "json-file\n"
    finally:
        shared_engine.docker("rm", "-f", id, check=True)


def test_a_newline_in_home_is_no_line_of_passwd(shared_engine: CortenEngine) -> None:
    """CRI-O 2022-4318."""
    image = load(shared_engine, "home:1", Env=["PATH=/bin", "HOME=/\nevil:x:0:0::/:/bin/sh"])
    done = shared_engine.docker("run", "--rm", "--network", "none", image, "cat", "/etc/passwd", check=True)
    assert done.stdout.encode() == images.PASSWD


WORDS: dict[str, dict[str, Any]] = {
    "Cmd": {"Cmd": ["echo", "a\0b"]},
    "Env": {"Env": ["PATH=/bin", "A=x\0y"]},
    "WorkingDir": {"WorkingDir": "/tmp\0/x"},
    "User": {"User": "root\0x"},
}


@pytest.mark.parametrize("field", WORDS)
def test_a_word_with_nul_is_refused_and_not_cut_short(shared_engine: CortenEngine, field: str) -> None:
    done = shared_engine.docker("run", "--rm", load(shared_engine, "nul:1", **WORDS[field]))
    assert (done.returncode, done.stdout) == (125, "")
    assert "NUL" in done.stderr or "no matching entries" in done.stderr


def test_volumes_of_an_image_touch_nothing_of_the_host(shared_engine: CortenEngine, outside: Path) -> None:
    """CVE-2022-23648: a volume whose path is a link out of the image."""
    volumes: dict[str, Any] = {"/way": {}, "/../../etc": {}, "/proc": {}}
    image = load(shared_engine, "volumes:1", images.symlink("way", str(outside)), Volumes=volumes)
    done = shared_engine.docker("run", "--rm", "--network", "none", image, "cat", "/way/secret")
    assert "of the host" not in done.stdout
    assert [path.name for path in outside.iterdir()] == ["secret"]


# Files that the engine mounts over.


def mounted_over_links(engine: CortenEngine, outside: Path) -> set[str]:
    """What appears on the host when /etc of an image, with all that is mounted over in it, is a link to there."""
    layers = [*images.busybox_layers(), images.layer([images.Entry(".wh.etc")])]
    layers.append(images.layer([images.symlink("etc", str(outside))]))
    engine.docker("load", stdin=images.docker_archive(["etc:1"], layers, {"Env": ["PATH=/bin"]}), check=True)
    engine.docker("run", "--rm", "etc:1", "cat", "/etc/hosts")
    return {path.name for path in outside.iterdir()} - {"secret"}


def test_links_in_place_of_the_engine_s_files_lead_nowhere(shared_engine: CortenEngine, outside: Path) -> None:
    assert mounted_over_links(shared_engine, outside) == set()
    done = shared_engine.docker("run", "--rm", "etc:1", "grep", "-c", "localhost", "/etc/hosts", check=True)
    assert int(done.stdout) > 0


def test_twin_without_resolver_and_init_layer_they_lead_out(outside: Path) -> None:
    with (
        weakened_corten.build(*NO_INIT_FILES, launcher=weakened.FOLLOW_LINKS) as weak,
        CortenEngine(commands=weak.commands) as engine,
    ):
        assert mounted_over_links(engine, outside) >= {"hosts", "hostname", "resolv.conf"}
