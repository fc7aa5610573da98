"""A bundle of busybox inside the virtual machine, and a runtime, ours or runc, that runs it."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from support import images, paths

CORTEN, RUNC = paths.COMMANDS / "corten-runtime", Path("/usr/local/sbin/runc")
CGROUP = Path("/sys/fs/cgroup/box/c")
APPLETS = ("sh", "sleep", "cat", "head", "tail", "echo", "true", "mknod", "mount", "mkdir", "test")
TIMEOUT_S = 120.0


class Lab:
    """One container, `c`, in the cgroup /box/c; a context manager that deletes it."""

    def __init__(self, folder: Path, runtime: Path = CORTEN) -> None:
        self.folder = folder
        self.runtime = [str(runtime), "--root", f"{folder}/state"]
        self.rootfs = folder / "rootfs"
        for name in ("bin", "tmp"):
            (self.rootfs / name).mkdir(parents=True)
        shutil.copy(images.BUSYBOX, self.rootfs / "bin/busybox")
        for name in APPLETS:
            (self.rootfs / "bin" / name).symlink_to("busybox")

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run([*self.runtime, "delete", "--force", "c"], capture_output=True, check=False)

    def configure(self, *args: str, capabilities: tuple[str, ...] = (), **resources: Any) -> dict[str, Any]:
        """Writes config.json: busybox with these arguments and limits; gives it back for `write`."""
        (self.folder / "config.json").unlink(missing_ok=True)
        subprocess.run([*self.runtime, "spec"], cwd=self.folder, check=True)
        config: dict[str, Any] = json.loads((self.folder / "config.json").read_text())
        config["process"] |= {"terminal": False, "args": list(args)}
        config["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), capabilities)
        config["root"]["readonly"] = False
        config["linux"]["cgroupsPath"] = "/box/c"
        config["linux"]["resources"] = {"devices": [{"allow": False, "access": "rwm"}], **resources}
        self.write(config)
        return config

    def write(self, config: dict[str, Any]) -> None:
        """Writes config.json."""
        (self.folder / "config.json").write_text(json.dumps(config))

    def run(self, *words: str, status: int = 0) -> str:
        """A verb whose output is wanted: stdout, then stderr."""
        done = subprocess.run(
            [*self.runtime, *words],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
        assert done.returncode == status, f"{words}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def detached(self, *words: str, stdout: int | None = None) -> None:
        """A verb whose process goes on; its output goes to a descriptor, or to the file `out`."""
        with (self.folder / "out").open("ab") as out:
            done = subprocess.run(
                [*self.runtime, *words],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out if stdout is None else stdout,
                stderr=out if stdout is None else stdout,
                check=False,
                timeout=TIMEOUT_S,
            )
        assert done.returncode == 0, f"{words}: {done.returncode}: {(self.folder / 'out').read_text()}"

    def peer(self) -> Lab:
        """runc over the same bundle, with a state root of its own."""
        other = copy.copy(self)
        other.runtime = [str(RUNC), "--root", f"{self.folder}/runc"]
        return other

    def state(self) -> dict[str, Any]:
        """What the verb `state` prints."""
        found: dict[str, Any] = json.loads(self.run("state", "c"))
        return found

    def file(self, name: str) -> str:
        """One file of the container's cgroup."""
        return (CGROUP / name).read_text().strip()
