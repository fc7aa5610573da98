"""OCI runtimes run by command line, ours and the peers, over bundles of busybox."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from support import paths, process

BUSYBOX = Path("/bin/busybox")
APPLETS = ("sh", "sleep", "true", "false", "cat", "echo", "ls", "id", "env", "ps", "tty", "stty", "kill", "head", "wc")
CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "cgroup")


@dataclass(slots=True)
class Bundle:
    """A bundle directory; `config` is written by `save`."""

    path: Path
    config: dict[str, Any] = field(default_factory=dict)

    def save(self) -> Bundle:
        """Writes config.json."""
        (self.path / "config.json").write_text(json.dumps(self.config))
        return self

    def cgroup(self, controller: str, file: str) -> str:
        """A file of the container's cgroup."""
        return self._cgroup(controller).joinpath(file).read_text().strip()

    def has_cgroup(self, controller: str = "pids") -> bool:
        """Whether the container's cgroup exists."""
        return self._cgroup(controller).exists()

    def _cgroup(self, controller: str) -> Path:
        path: str = self.config["linux"]["cgroupsPath"]
        return process.CGROUPS / controller / path.lstrip("/")


def bundle(*args: str, folder: Path, terminal: bool = False) -> Bundle:
    """A bundle below `folder` that runs `args` in busybox, with the namespaces and mounts of a usual container."""
    rootfs = folder / "rootfs"
    for name in ("bin", "proc", "sys", "dev", "tmp", "etc"):
        (rootfs / name).mkdir(parents=True, exist_ok=True)
    if not (rootfs / "bin/busybox").exists():
        shutil.copy(BUSYBOX, rootfs / "bin/busybox")
        for name in APPLETS:
            (rootfs / "bin" / name).symlink_to("busybox")
        (rootfs / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    return Bundle(folder, starter(args, terminal)).save()


def sleeper(folder: Path) -> Bundle:
    """A bundle below `folder` whose process does nothing for a long time."""
    return bundle("sleep", "1000", folder=folder / "bundle")


def starter(args: Sequence[str], terminal: bool) -> dict[str, Any]:
    """A configuration as runc's `spec` writes it."""
    guarded = ["nosuid", "noexec", "nodev"]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": terminal,
            "user": {"uid": 0, "gid": 0},
            "args": list(args),
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {name: list(CAPABILITIES) for name in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            },
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*guarded, "mode=1777"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": guarded},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*guarded, "ro"]},
        ],
        "linux": {
            "cgroupsPath": f"/{paths.mark()}runtime/{os.urandom(4).hex()}",
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in NAMESPACES],
            "maskedPaths": [],
            "readonlyPaths": ["/proc/bus", "/proc/sys"],
        },
    }


class Runtime:
    """One runtime program with a state root of its own; `close` removes what its containers left."""

    patience_s = 90.0  # of a verb: only a verb that never ends needs it

    def __init__(self, program: Path | str, root: Path) -> None:
        self.program = str(program)
        self.root = root

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def argv(self, *words: str) -> list[str]:
        """The command line of a call."""
        return [self.program, "--root", str(self.root), *words]

    def __call__(
        self,
        *words: str,
        cwd: Path | None = None,
        stdin: bytes | None = None,
        check: bool = False,
        pass_fds: Sequence[int] = (),
        timeout: float = 0,
    ) -> subprocess.CompletedProcess[str]:
        """Runs one verb; its stdio is captured, so it must not leave a process behind (see `detached`)."""
        pipe = subprocess.PIPE
        options = {"cwd": cwd, "stdout": pipe, "stderr": pipe, "pass_fds": pass_fds}
        done = process.finish(self.argv(*words), timeout or self.patience_s, stdin=stdin, **options)
        text = subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
        assert not check or text.returncode == 0, f"{words}: {text.returncode}: {text.stderr}"
        return text

    def detached(self, *words: str, output: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a verb whose process goes on with stdio of /dev/null, or of the file `output`; stderr as text."""
        errors = self.root.parent / f"stderr-{os.urandom(3).hex()}"
        with (output or Path(os.devnull)).open("ab") as stdout, errors.open("wb") as stderr:
            done = process.finish(self.argv(*words), self.patience_s, stdout=stdout, stderr=stderr)
        text = subprocess.CompletedProcess(done.args, done.returncode, "", errors.read_text())
        errors.unlink()
        assert not check or text.returncode == 0, f"{words}: {text.returncode}: {text.stderr}"
        return text

    def state(self, id: str) -> dict[str, Any]:
        """The object that `state` prints."""
        found: dict[str, Any] = json.loads(self("state", id, check=True).stdout)
        return found

    def wait_for(self, id: str, status: str, timeout_s: float = 60) -> dict[str, Any]:
        """The state, once it has the status."""
        deadline = time.monotonic() + timeout_s
        while (found := self.state(id))["status"] != status:
            assert time.monotonic() < deadline, f"{id} is {found['status']}, not {status}"
            time.sleep(0.01)
        return found

    def close(self) -> None:
        """Deletes every container."""
        for id in self("list", "-q").stdout.split():
            self("delete", "--force", id)


@contextmanager
def folder_of_containers(kind: str) -> Iterator[Path]:
    """A new folder for bundles and state roots, removed with the cgroups of its containers."""
    made = paths.scratch(kind)
    try:
        yield made
    finally:
        remove_cgroups()
        shutil.rmtree(made)


def remove_cgroups() -> None:
    """Removes the cgroups of this test process's bundles."""
    process.remove_cgroups(f"{paths.mark()}runtime")
