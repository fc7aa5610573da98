"""`-H ssh://`: the clients run ssh, and on the far side our `system dial-stdio`.

The far side is Debian's sshd in the engine's network namespace, in a mount namespace of its own: it wants a user `sshd`
and /run/sshd, which the machine need not have.  `corten` and `docker` of its PATH are both our program.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support import images, paths, peers, process
from support.dockerd import client_environment
from support.engine import CortenEngine

PORT = 2222
IMAGE = images.BUSYBOX_REF
# sshd wants to be started by its whole path, a folder for privilege separation and a user for it
PREPARE = (
    "mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd && cp -a /etc /run/etc && mount --bind /run/etc /etc"
    " && (grep -q ^sshd: /etc/passwd || echo 'sshd:x:65533:65534::/run/sshd:/bin/false' >> /etc/passwd)"
    ' && exec "$0" "$@"'
)


class Far:
    """An engine, and an sshd beside it."""

    def __init__(self, folder: Path, engine: CortenEngine) -> None:
        self.folder = folder
        self.engine = engine
        for name in ("host", "client"):
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(argv, check=True, timeout=30)
        shutil.copy(folder / "client.pub", folder / "authorized_keys")
        (folder / "bin").mkdir()
        for name in ("corten", "docker"):  # what the clients ask for
            wrapper = folder / "bin" / name
            wrapper.write_text(f'#!/bin/sh\nDOCKER_HOST={self.engine.host} exec {paths.COMMANDS}/corten "$@"\n')
            wrapper.chmod(0o755)
        (folder / "sshd_config").write_text(self._configuration())
        (folder / "ssh_config").write_text(
            f"Host far\n HostName 127.0.0.1\n Port {PORT}\n User root\n IdentityFile {folder}/client\n"
            f" StrictHostKeyChecking no\n UserKnownHostsFile {folder}/known\n LogLevel ERROR\n"
        )
        (folder / "local").mkdir()
        wrapper = folder / "local" / "ssh"
        wrapper.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {folder}/ssh_config "$@"\n')
        wrapper.chmod(0o755)
        sshd = peers.binary("sshd")
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LD_LIBRARY_PATH": peers.tree("bookworm").libraries}
        argv = [*self.engine.netns.enter, "unshare", "--mount", "--propagation", "slave", "sh", "-c", PREPARE]
        self.sshd = process.Daemon(
            [*argv, str(sshd), "-D", "-e", "-f", f"{folder}/sshd_config"], folder / "log", environment
        )

    def _configuration(self) -> str:
        return (
            f"Port {PORT}\nListenAddress 127.0.0.1\nHostKey {self.folder}/host\nPidFile none\nStrictModes no\n"
            f"AuthorizedKeysFile {self.folder}/authorized_keys\nPasswordAuthentication no\nUsePAM no\n"
            f"SetEnv PATH={self.folder}/bin:/usr/sbin:/usr/bin:/sbin:/bin\nPermitRootLogin yes\nAllowUsers root\n"
        )

    def run(
        self, program: str, *args: str, stdin: bytes = b"", host: str = "ssh://far"
    ) -> subprocess.CompletedProcess[bytes]:
        """One of the two clients."""
        path = peers.docker_cli() if program == "docker" else paths.COMMANDS / "corten"
        environment = client_environment()
        environment["PATH"] = f"{self.folder}/local:{environment['PATH']}"
        argv = [*self.engine.netns.enter, str(path), "-H", host, *args]
        return subprocess.run(argv, input=stdin, capture_output=True, check=False, timeout=60, env=environment)

    def ok(self, program: str, *args: str, stdin: bytes = b"", host: str = "ssh://far") -> bytes:
        done = self.run(program, *args, stdin=stdin, host=host)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def far() -> Iterator[Far]:
    """For the whole file."""
    folder = paths.scratch("ssh")
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        engine = stack.enter_context(CortenEngine())
        engine.docker("load", "-i", str(images.busybox()), check=True)
        made = Far(folder, engine)
        stack.callback(made.sshd.stop)
        made.sshd.wait_until(lambda: "Server listening" in (folder / "log").read_text(), "sshd")
        yield made


both = pytest.mark.parametrize("program", ["corten", "docker"])


@both
def test_a_client_reaches_the_engine_through_ssh(far: Far, program: str) -> None:
    assert far.ok(program, "info", "--format", "{{.DockerRootDir}}") == f"{far.engine.data_root}\n".encode()


@both
def test_stdin_of_a_container_ends_and_what_goes_through_is_whole(far: Far, program: str) -> None:
    data = os.urandom(1 << 20)
    back = far.ok(program, "run", "--rm", "-i", IMAGE, "sh", "-c", "cat; sleep 0.2; echo after", stdin=data)
    assert hashlib.sha256(back).digest() == hashlib.sha256(data + b"after\n").digest()


def test_a_socket_may_be_named(far: Far) -> None:
    with CortenEngine() as other:
        host = f"ssh://root@far{other.socket}"
        assert far.ok("corten", "info", "--format", "{{.DockerRootDir}}", host=host) == f"{other.data_root}\n".encode()


def test_a_far_side_that_refuses_is_told_in_its_own_words(far: Far) -> None:
    done = far.run("corten", "ps", host="ssh://nobody@far")
    assert done.returncode == 1
    assert b"Permission denied" in done.stderr
    assert b"the engine at ssh://nobody@far closed the connection" in done.stderr
