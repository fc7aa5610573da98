"""podman of Debian 12 with storage, configuration and cgroups of its own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from support import images, paths, peers, process

# hard limits cannot be raised on a machine without CAP_SYS_RESOURCE
CONFIGURATION = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
[engine]
conmon_path = ["{tree.root}/usr/bin/conmon"]
conmon_env_vars = ["PATH={path}", "LD_LIBRARY_PATH={tree.libraries}"]
runtime_supports_json = ["corten-runtime", "runc", "crun"]
runtime_supports_nocgroup = ["corten-runtime", "crun"]
[engine.runtimes]
corten-runtime = ["{corten}"]
"""
# conmon starts podman to clean up behind a container, with these variables alone: where that fails, podman waits for
# it for 20 s after every run
CONMON_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}\n'


def configuration(tree: peers.Tree) -> str:
    """containers.conf, with both runtimes."""
    return CONFIGURATION.format(tree=tree, corten=paths.COMMANDS / "corten-runtime", path=CONMON_PATH)


class Podman:
    """podman with private folders (its storage at `root`, when given); a context manager that removes everything."""

    def __init__(self, root: Path | None = None) -> None:
        self.folder = paths.scratch("podman")
        self._root = root or self.folder / "root"
        self._tree = peers.tree("bookworm")
        self._configuration = self.folder / "containers.conf"
        self._configuration.write_text(configuration(self._tree))
        policy = self.folder / ".config/containers/policy.json"
        policy.parent.mkdir(parents=True)
        policy.write_text(POLICY)
        self("runc", "load", "-i", str(images.busybox()), check=True)

    def __call__(
        self, runtime: str, *args: str, stdin: str | None = None, check: bool = False, prefix: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Runs podman with an OCI runtime: `runc` or `corten-runtime`; `prefix` enters a namespace first."""
        argv = [*prefix, *self.argv(runtime), *args]
        done = subprocess.run(
            argv, input=stdin, capture_output=True, check=False, text=True, timeout=60, env=self.environment
        )
        assert not check or done.returncode == 0, f"podman {args}: {done.returncode}: {done.stderr}"
        return done

    def argv(self, runtime: str) -> list[str]:
        """The command line up to the command, with an OCI runtime as in a call."""
        program = peers.binary("runc") if runtime == "runc" else runtime
        argv = [str(peers.binary("podman")), "--root", str(self._root), "--runroot", f"{self.folder}/run"]
        argv += ["--tmpdir", f"{self.folder}/tmp", "--storage-driver", "overlay", "--events-backend", "file"]
        return [*argv, "--cgroup-manager", "cgroupfs", "--runtime", str(program)]

    @property
    def own_cgroup(self) -> tuple[str, ...]:
        """Options that put a container below a cgroup of this instance."""
        return ("--cgroup-parent", f"/{self.folder.name}", "--network", "none")

    @property
    def environment(self) -> dict[str, str]:
        """What podman runs with."""
        return {
            "PATH": f"{self._tree.search_path}:/usr/sbin:/usr/bin:/sbin:/bin",
            "LD_LIBRARY_PATH": self._tree.libraries,
            "HOME": str(self.folder),
            "XDG_RUNTIME_DIR": str(self.folder),
            "CONTAINERS_CONF": str(self._configuration),
        }

    def __enter__(self) -> Podman:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self("runc", "rm", "--force", "--all", "--time", "0")
        process.kill_all(str(self.folder))
        process.remove_cgroups(self.folder.name)
        process.unmount_below(self.folder)
        shutil.rmtree(self.folder)
