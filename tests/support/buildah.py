"""buildah of Debian 12 with storage of its own."""

from __future__ import annotations

import shutil
import subprocess
from types import TracebackType

from support import images, paths, peers, process

# hard limits cannot be raised on a machine without CAP_SYS_RESOURCE
CONFIGURATION = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
"""
POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}\n'


class Buildah:
    """buildah with private folders; a context manager that removes everything."""

    def __init__(self) -> None:
        self.folder = paths.scratch("buildah")
        self._tree = peers.tree("bookworm")
        (self.folder / "containers.conf").write_text(CONFIGURATION)
        policy = self.folder / "policy.json"
        policy.write_text(POLICY)
        self.signatures = ("--signature-policy", str(policy))
        source = f"docker-archive:{images.busybox()}"
        self.image = self("pull", "--policy", "always", *self.signatures, source, check=True)

    def __call__(self, *args: str, stdin: str | None = None, check: bool = False) -> str:
        """What buildah prints."""
        done = self.run(*args, stdin=stdin)
        assert not check or done.returncode == 0, f"buildah {args}: {done.returncode}: {done.stderr}"
        return done.stdout.strip()

    def run(self, *args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Runs buildah."""
        argv = [str(peers.binary("buildah")), "--root", f"{self.folder}/root", "--runroot", f"{self.folder}/run"]
        argv += ["--storage-driver", "overlay", *args]
        return subprocess.run(
            argv, input=stdin, capture_output=True, check=False, text=True, timeout=60, env=self._environment()
        )

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self._tree.search_path}:/usr/sbin:/usr/bin:/sbin:/bin",
            "LD_LIBRARY_PATH": self._tree.libraries,
            "HOME": str(self.folder),
            "XDG_RUNTIME_DIR": str(self.folder),
            "TMPDIR": str(self.folder),
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
        }

    def __enter__(self) -> Buildah:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self("rm", "--all")
        process.kill_all(str(self.folder))
        process.unmount_below(self.folder)
        shutil.rmtree(self.folder)
