"""dockerd 26.1 inside the virtual machine, with corten-runtime and runc as its runtimes `corten` and `peer`."""

from __future__ import annotations

from pathlib import Path

from support import process
from support.dockerd import DockerClient, started
from support.guestbundle import CORTEN, RUNC

TIMEOUT_S = 180.0


class Docker(DockerClient):
    """The daemon, without a network; `words` are further ones of its command line."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.socket = folder / "s"
        argv = ["dockerd", "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/p"]
        argv += ["--host", f"unix://{self.socket}", "--group", "root", "--add-runtime", f"corten={CORTEN}"]
        argv += ["--add-runtime", f"peer={RUNC}", "--bridge", "none", "--iptables=false", "--ip6tables=false"]
        argv += words
        self.daemon = started(lambda: process.Daemon(argv, folder / "log"), self.answers, TIMEOUT_S)

    def run(self, *words: str) -> str:
        """What `docker run --rm` writes, and its status unless that is 0."""
        done = self.docker("run", "--rm", "--network", "none", *words, timeout=TIMEOUT_S)
        return done.stdout + done.stderr + (f"status {done.returncode}\n" if done.returncode else "")
