"""Root of a container whose users are mapped, with every capability and no filter: what is the host's stays so.

Each attack's twin is the same with `--userns host`, where root is the host's.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images
from support.engine import CortenEngine
from support.remapped import FIRST, SETTING, RemappedEngine

IMAGE = images.BUSYBOX_REF
ALL = ("--cap-add", "ALL", "--security-opt", "seccomp=unconfined")
HOST = ("--userns", "host")


@pytest.fixture(scope="module")
def mapped() -> Iterator[CortenEngine]:
    with RemappedEngine(config=SETTING) as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        yield engine


def tried(engine: CortenEngine, script: str, *options: str) -> subprocess.CompletedProcess[str]:
    return engine.docker("run", "--rm", *ALL, *options, IMAGE, "sh", "-c", script)


@pytest.mark.parametrize("name", ["engine-id", "corten.db", "snapshots", "containers", "volumes", "content"])
def test_the_data_root_is_closed_to_a_mapped_root(mapped: CortenEngine, name: str) -> None:
    bind = ("-v", f"{mapped.data_root}:/d")
    done = tried(mapped, f"ls -R /d/{name}/ /d/{name}", *bind)
    assert done.returncode != 0
    assert "Permission denied" in done.stderr
    assert done.stdout == ""


def test_twin_the_hosts_root_reads_the_data_root(mapped: CortenEngine) -> None:
    assert tried(mapped, "cat /d/engine-id", "-v", f"{mapped.data_root}:/d", *HOST).returncode == 0


def test_a_mapped_root_makes_no_device_and_opens_none(mapped: CortenEngine) -> None:
    script = "mknod /m c 1 1 && head -c1 /m; mknod /b b 254 0 && head -c1 /b"
    done = tried(mapped, script)
    assert done.returncode != 0
    assert done.stderr.count("Operation not permitted") == 2


def test_twin_the_hosts_root_makes_devices(mapped: CortenEngine) -> None:
    assert tried(mapped, "mknod /m c 1 1", *HOST).returncode == 0


def test_a_device_that_a_mapped_root_finds_in_its_layer_cannot_be_opened(mapped: CortenEngine, tmp_path: Path) -> None:
    """A node comes with an image, or with `docker cp`: the cgroup is asked before any map."""
    with_node = images.layer([images.Entry("memory", kind=b"3", mode=0o666, device=(1, 1))])
    archive = images.docker_archive(["node:1"], [*images.busybox_layers(), with_node], {"Cmd": ["sh"]})
    mapped.docker("load", stdin=archive, check=True)
    done = mapped.docker("run", "--rm", *ALL, "node:1", "head", "-c1", "/memory")
    assert "Operation not permitted" in done.stderr or "Permission denied" in done.stderr


def planted(mapped: CortenEngine, volume: str, *options: str) -> int:
    """The owner on the host of a program with the set-id bit that a container leaves in a volume."""
    tried(mapped, "cp /bin/busybox /v/sh && chmod 4755 /v/sh", "-v", f"{volume}:/v", *options)
    return (mapped.data_root / f"volumes/{volume}/_data/sh").stat().st_uid


def test_what_a_mapped_root_leaves_in_a_volume_is_not_the_hosts_roots(mapped: CortenEngine) -> None:
    assert planted(mapped, "planted") == FIRST


def test_twin_what_the_hosts_root_leaves_in_a_volume_is_his(mapped: CortenEngine) -> None:
    assert planted(mapped, "planted-by-root", *HOST) == 0


def test_a_link_in_a_volume_leads_copies_and_subpaths_nowhere(mapped: CortenEngine, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of the host")
    tried(mapped, f"ln -s {tmp_path} /v/way", "-v", "links:/v")
    mapped.docker("create", "--name", "linked", "-v", "links:/v", IMAGE, "true", check=True)
    done = mapped.docker("cp", "linked:/v/way/secret", "-")
    assert "Could not find the file" in done.stderr
    mount = "type=volume,src=links,dst=/s,volume-subpath=way"
    assert "escapes the base directory" in tried(mapped, "ls /s", "--mount", mount).stderr
    (tmp_path / "given").write_text("x")
    mapped.docker("cp", str(tmp_path / "given"), "linked:/v/way/")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given", "secret"]
    mapped.docker("rm", "-f", "linked", check=True)


def test_the_kernels_settings_stay_the_hosts(mapped: CortenEngine) -> None:
    script = (
        "unshare -m sh -c 'mount -t proc p /mnt; mount -o remount,rw,bind /proc/sys; echo 1 >/proc/sys/kernel/panic'"
    )
    done = tried(mapped, f"mkdir /mnt; {script}")
    assert done.returncode != 0
    assert "/proc/sys/kernel/panic: Permission denied" in done.stderr


def test_twin_the_hosts_root_reaches_the_kernels_settings(mapped: CortenEngine) -> None:
    script = (
        "unshare -m sh -c 'mount -o remount,rw,bind /proc/sys && cat /proc/sys/kernel/panic >/proc/sys/kernel/panic'"
    )
    assert tried(mapped, script, *HOST).returncode == 0


def test_the_engines_files_that_it_owns_are_no_way_to_others(mapped: CortenEngine) -> None:
    """It may write into its hosts file, and cannot put a link in its place: the next start writes the file anew."""
    name = mapped.docker(
        "create", IMAGE, "sh", "-c", "echo x >>/etc/hosts; rm -f /etc/hosts; ln -s /etc/passwd /etc/hosts"
    )
    container = name.stdout.strip()
    for _ in range(2):
        done = mapped.docker("start", "-a", container)
        assert "busy" in done.stderr
    hosts = mapped.data_root / "containers" / container / "hosts"
    assert not hosts.is_symlink()
    assert hosts.stat().st_uid == FIRST
    mapped.docker("rm", container, check=True)
