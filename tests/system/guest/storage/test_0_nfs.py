"""Volumes of the driver `local` on a server of NFS: the machine's own, by the kernel's server."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.guestlook import IMAGE, run

SHARE = Path("/srv/share")
STATE = Path("/var/lib/nfs")
CONTROL = Path("/proc/fs/nfsd")
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def share(extra: Path) -> Iterator[Path]:
    """A directory that is exported as the root of NFS 4."""
    SHARE.mkdir(parents=True)
    (STATE / "v4recovery").mkdir(parents=True)
    for name in ("etab", "rmtab"):
        (STATE / name).touch()
    shutil.copy(extra / "nfs/netconfig", "/etc/netconfig")
    run("mount", "-t", "nfsd", "nfsd", str(CONTROL))
    for name in ("nfsv4leasetime", "nfsv4gracetime"):
        (CONTROL / name).write_text("10")
    own = {**os.environ, "LD_LIBRARY_PATH": str(extra / "nfs")}

    def program(name: str, *words: str) -> None:
        done = subprocess.run(
            [str(extra / "nfs" / name), *words], env=own, check=False, capture_output=True, timeout=120
        )
        assert done.returncode == 0, (name, done.stderr)

    Path("/etc/exports").write_text(f"{SHARE} *(rw,no_root_squash,fsid=0,insecure,no_subtree_check)\n")
    program("exportfs", "-a")
    program("rpc.mountd", "-N", "3")
    program("rpc.nfsd", "-N", "3", "--port", "2049", "2")
    (CONTROL / "v4_end_grace").write_text("Y")
    yield SHARE
    program("rpc.nfsd", "0")


def mounts() -> list[str]:
    """Of NFS, in the machine's namespace."""
    return [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[2] == "nfs4"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ext4"], indirect=True)
def test_a_volume_on_a_server_is_mounted_while_somebody_runs(engine: Any, share: Path) -> None:
    options = ("-o", "type=nfs", "-o", "device=:/", "-o", "o=addr=localhost,vers=4.2,rw")
    engine.docker("volume", "create", *options, "remote", check=True)
    assert mounts() == []
    for name in ("one", "two"):
        engine.docker("run", "-d", "--name", name, "-v", "remote:/r", IMAGE, "sleep", "1000", check=True)
    engine.docker("exec", "one", "sh", "-c", "echo hello > /r/f", check=True)
    assert engine.docker("exec", "two", "cat", "/r/f", check=True).stdout == "hello\n"
    assert (share / "f").read_text() == "hello\n"
    assert mounts() == [f"{engine.data_root}/volumes/remote/_data"]
    engine.kill9()
    engine.start()
    engine.docker("rm", "-f", "one", check=True)
    assert engine.docker("exec", "two", "cat", "/r/f", check=True).stdout == "hello\n"
    engine.docker("rm", "-f", "two", check=True)
    deadline = time.monotonic() + PATIENCE_S
    while mounts():
        assert time.monotonic() < deadline, mounts()
        time.sleep(0.1)
    engine.docker("volume", "rm", "remote", check=True)
    assert (share / "f").read_text() == "hello\n"


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ext4"], indirect=True)
def test_a_share_that_is_not_there_is_told_in_dockerds_words(engine: Any, share: Path) -> None:
    options = ("-o", "type=nfs", "-o", "device=:/nope", "-o", "o=addr=127.0.0.1,vers=4.2")
    engine.docker("volume", "create", *options, "wrong", check=True)
    done = engine.docker("run", "--rm", "-v", "wrong:/r", IMAGE, "true")
    place = f"{engine.data_root}/volumes/wrong/_data"
    words = (
        f"failed to mount local volume: mount :/nope:{place}, data: addr=127.0.0.1,vers=4.2: no such file or directory"
    )
    assert f"error while mounting volume '{place}': {words}" in done.stderr
    engine.docker("volume", "rm", "wrong", check=True)
