"""containerd of a Debian suite with folders of its own, driven by ctr."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from support import images, paths, peers, process

IMAGE = f"docker.io/{images.BUSYBOX_REF}"
# At the exit of what it executes ctr closes its ends, and on a busy machine has not always read by then, runc or not:
# a command whose output is compared ends with this.
LINGER = "sleep 0.2"
CONFIGURATION = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{folder}/sock"
"""


class Containerd:
    """containerd with private folders, and ctr that talks to it.  `prefix` is what enters a namespace first."""

    def __init__(self, version: str, suite: str, prefix: Sequence[str] = ()) -> None:
        self.folder = paths.scratch("containerd")
        tree = peers.tree(suite)
        self._ctr = tree.root / "usr/bin/ctr"
        self.env = {"PATH": f"{tree.search_path}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.folder)}
        config = self.folder / "config.toml"
        config.write_text(CONFIGURATION.format(folder=self.folder))
        argv = [*prefix, str(peers.binary(f"containerd-{version}")), "--config", str(config)]
        self._daemon = process.Daemon(argv, self.folder / "log", self.env)
        self._daemon.wait_until(lambda: self("version").returncode == 0, "answer of containerd")
        self("images", "import", str(images.busybox()), check=True)

    def __call__(self, *args: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.argv(*args),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
            env=self.env,
        )
        assert not check or done.returncode == 0, f"ctr {args}: {done.returncode}: {done.stderr}\n{self.log_tail()}"
        return done

    def argv(self, *args: str) -> list[str]:
        """The command line of ctr; `env` is its environment."""
        return [str(self._ctr), "--address", f"{self.folder}/sock", *args]

    def run(self, runtime: str | Path, *args: str) -> tuple[int, str, str]:
        """`ctr run` in a cgroup of this instance; exit code and texts."""
        id = f"c{os.urandom(4).hex()}"
        cgroup = ("--cgroup", f"/{self.folder.name}/{id}")
        options, command = args[: args.index("--")], args[args.index("--") + 1 :]
        words = ("run", "--rm", "--runc-binary", str(runtime), *cgroup, *options, IMAGE, id, *command)
        done = self(*words)
        return done.returncode, done.stdout.replace(id, "ID"), done.stderr.replace(id, "ID")

    def log_tail(self) -> str:
        return self._daemon.log_tail()

    def close(self) -> None:
        self._daemon.stop()
        process.kill_all(str(self.folder))
        process.remove_cgroups(self.folder.name)
        process.unmount_below(self.folder)
        shutil.rmtree(self.folder)
