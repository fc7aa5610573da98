"""OCI runtimes as an ordinary user runs them: bundles and state roots of his, no rights at all."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support import peers, runtimes
from support.runtimes import Bundle, Runtime

UID = GID = 65534
# the first of the ids that /etc/subuid of the tests gives him
FIRST_SUBID, SUBIDS = 200000, 65536


def argv(*words: str, uid: int = UID, gid: int = GID) -> list[str]:
    """A command line that becomes the user, without groups and capabilities."""
    return ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--inh-caps=-all", *words]


class UserRuntime(Runtime):
    """A runtime run by uid 65534."""

    def argv(self, *words: str) -> list[str]:
        """The command line of a call."""
        return argv("env", f"XDG_RUNTIME_DIR={self.root}", *super().argv(*words))


def skip_unless_reached(program: Path | str) -> None:
    """Skips a test whose checkout lies where an ordinary user cannot go.  (In the virtual machine he always can.)

    A program that can be reached is not tried: what is wrong with it shall fail the test.
    """
    if subprocess.run(argv("test", "-x", str(program)), stdin=subprocess.DEVNULL, check=False).returncode:
        pytest.skip(f"an ordinary user cannot reach {program}")


def own(folder: Path) -> Path:
    """The folder, all of it the user's."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, UID, GID, follow_symlinks=False)
    return folder


def bundle(*args: str, folder: Path) -> Bundle:
    """A bundle of the user's, as `spec --rootless` has it: his one id is root inside, no cgroup is named."""
    made = runtimes.bundle(*args, folder=folder)
    config = made.config
    linux: dict[str, Any] = config["linux"]
    linux["namespaces"] = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "user")]
    linux["uidMappings"] = [{"containerID": 0, "hostID": UID, "size": 1}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": GID, "size": 1}]
    del linux["cgroupsPath"], linux["resources"]
    devpts = next(row for row in config["mounts"] if row["destination"] == "/dev/pts")
    devpts["options"].remove("gid=5")
    sys = next(row for row in config["mounts"] if row["destination"] == "/sys")
    sys.update(type="none", source="/sys", options=["rbind", "nosuid", "noexec", "nodev", "ro"])
    config["mounts"].append(
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
        }
    )
    made.save()
    own(folder)
    return made


def copy_for_user(program: Path, folder: Path) -> Path:
    """A program where the user may reach it."""
    return Path(shutil.copy(program, folder))


class SubidRuntime(UserRuntime):
    """A runtime run by uid 65534, to whom subuid(5) and subgid(5) give ids, with newuidmap(1) in PATH.

    The machine's own files stay as they are: the runtime runs in a mount namespace with others over them.
    """

    def __init__(self, program: Path | str, root: Path, *, helpers: Path, first: int = FIRST_SUBID) -> None:
        super().__init__(program, root)
        self.helpers = helpers
        give_ids(helpers, first)

    def argv(self, *words: str) -> list[str]:
        """The command line of a call."""
        command = super().argv(*words)
        command.insert(command.index("env") + 1, f"PATH={self.helpers}:/usr/bin:/bin")
        command[command.index("env")] = "/usr/bin/env"
        return with_ids(self.helpers, command)


def helpers(folder: Path) -> Path:
    """A folder with newuidmap and newgidmap as Debian installs them: set-user-id root."""
    folder.mkdir()
    folder.chmod(0o755)
    for name in ("newuidmap", "newgidmap"):
        copy = Path(shutil.copy(peers.tree("bookworm").root / "usr/bin" / name, folder))
        os.chown(copy, 0, 0)
        copy.chmod(0o4755)
    return folder


def give_ids(helpers: Path, first: int = FIRST_SUBID) -> None:
    """The files that `with_ids` puts over /etc/subuid and /etc/subgid."""
    for name in ("subuid", "subgid"):
        (helpers / name).write_text(f"nobody:{first}:{SUBIDS}\n")


def with_ids(helpers: Path, command: list[str]) -> list[str]:
    """A command line in a mount namespace with other files over subuid(5) and subgid(5)."""
    script = f'mount --bind {helpers}/subuid /etc/subuid && mount --bind {helpers}/subgid /etc/subgid && exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *command]


def map_more(bundle: Bundle) -> Bundle:
    """Ids from 1 on inside are the subordinate ones."""
    for kind in ("uidMappings", "gidMappings"):
        bundle.config["linux"][kind].append({"containerID": 1, "hostID": FIRST_SUBID, "size": SUBIDS})
    return bundle.save()
