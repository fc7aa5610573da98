"""podman of Debian 12 as an ordinary user runs it, with storage, configuration and subordinate ids of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from types import TracebackType

from support import images, paths, peers, process, rootless
from support.podman import POLICY, configuration


class RootlessPodman:
    """podman of uid 65534 with private folders; a context manager that removes everything."""

    def __init__(self) -> None:
        self.folder = paths.scratch("podman")
        self._tree = peers.tree("bookworm")
        self._helpers = rootless.helpers(self.folder / "helpers")
        rootless.give_ids(self._helpers)
        (self.folder / "containers.conf").write_text(configuration(self._tree))
        (self.folder / "policy.json").write_text(POLICY)
        (self.folder / "image.tar").write_bytes(images.busybox().read_bytes())
        for path in (self.folder, *self.folder.iterdir()):
            if path != self._helpers:
                os.chown(path, rootless.UID, rootless.GID)
        load = ("load", "--signature-policy", f"{self.folder}/policy.json", "-i", f"{self.folder}/image.tar")
        self("runc", *load, check=True)

    def __call__(
        self, runtime: str, *args: str, stdin: str | None = None, check: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Runs podman with an OCI runtime: `runc` or `corten-runtime`."""
        program = peers.binary("runc") if runtime == "runc" else runtime
        words = ["--tmpdir", f"{self.folder}/tmp", "--events-backend", "file", "--cgroup-manager", "cgroupfs"]
        done = self.run("podman", *words, "--runtime", str(program), *args, stdin=stdin)
        assert not check or done.returncode == 0, f"podman {args}: {done.returncode}: {done.stderr}"
        return done

    def run(self, program: str, *args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Runs podman, or buildah, on the storage of this instance."""
        environment = (
            f"PATH={self._helpers}:{self._tree.search_path}:/usr/sbin:/usr/bin:/sbin:/bin",
            f"LD_LIBRARY_PATH={self._tree.libraries}",
            f"HOME={self.folder}",
            f"XDG_RUNTIME_DIR={self.folder}",
            f"CONTAINERS_CONF={self.folder}/containers.conf",
        )
        words = [str(peers.binary(program)), "--root", f"{self.folder}/root", "--runroot", f"{self.folder}/run"]
        words += ["--storage-driver", "vfs", *args]
        return subprocess.run(
            rootless.with_ids(self._helpers, rootless.argv("/usr/bin/env", "-i", *environment, *words)),
            input=stdin,
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
            cwd=self.folder,
        )

    def __enter__(self) -> RootlessPodman:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self("runc", "rm", "--force", "--all", "--time", "0")
        pause = self.folder / "tmp/pause.pid"  # keeps the user namespace of this instance
        if pause.exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pause.read_text()), signal.SIGKILL)
        process.kill_all(str(self.folder))
        process.unmount_below(self.folder)
        shutil.rmtree(self.folder)
