"""`corten-runtime` beneath containerd, by `ctr run --runc-binary`."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images, paths, peers, process

IMAGE = f"docker.io/{images.BUSYBOX_REF}"
CONFIGURATION = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{folder}/sock"
"""

RUNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "output": ((), ("echo", "hi")),
    "exit status": ((), ("sh", "-c", "exit 4")),
    "no such command": ((), ("nosuch",)),
    "a directory as command": ((), ("/etc",)),
    "environment": (("--env", "A=1"), ("env",)),
    "read-only": (("--read-only",), ("touch", "/x")),
    "memory": (("--memory-limit", "67108864"), ("cat", "/proc/self/cgroup")),
    "privileges": ((), ("grep", "-E", "Cap|NoNewPrivs|Seccomp|Groups", "/proc/self/status")),
    "mounts": (("--mount", "type=bind,src=/usr,dst=/u,options=rbind:ro"), ("ls", "-d", "/u/bin")),
}


class Containerd:
    """containerd with private folders, and ctr that talks to it."""

    def __init__(self, version: str, suite: str) -> None:
        self.folder = paths.scratch("containerd")
        tree = peers.tree(suite)
        self._ctr = tree.root / "usr/bin/ctr"
        self._environment = {"PATH": f"{tree.search_path}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.folder)}
        config = self.folder / "config.toml"
        config.write_text(CONFIGURATION.format(folder=self.folder))
        argv = [str(peers.binary(f"containerd-{version}")), "--config", str(config)]
        self._daemon = process.Daemon(argv, self.folder / "log", self._environment)
        self._daemon.wait_until(lambda: self("version").returncode == 0, "answer of containerd")
        self("images", "import", str(images.busybox()), check=True)

    def __call__(self, *args: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        argv = [str(self._ctr), "--address", f"{self.folder}/sock", *args]
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
            env=self._environment,
        )
        assert not check or done.returncode == 0, f"ctr {args}: {done.returncode}: {done.stderr}\n{self.log_tail()}"
        return done

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


@pytest.fixture(scope="module", params=[("1.6", "bookworm"), ("1.7", "trixie")], ids=lambda pair: pair[0])
def containerd(request: pytest.FixtureRequest) -> Iterator[Containerd]:
    instance = Containerd(*request.param)
    yield instance
    instance.close()


@pytest.mark.parametrize("name", RUNS)
def test_ctr_run_gives_what_it_gives_with_runc(containerd: Containerd, name: str) -> None:
    options, command = RUNS[name]
    theirs = containerd.run(peers.binary("runc"), *options, "--", *command)
    ours = containerd.run(paths.COMMANDS / "corten-runtime", *options, "--", *command)
    assert (ours[0], ours[1], ours[2].replace("corten-runtime create", "runc create")) == theirs


def test_a_task_can_be_paused_executed_in_and_killed(containerd: Containerd) -> None:
    cgroup = f"/{containerd.folder.name}/task"
    corten = str(paths.COMMANDS / "corten-runtime")
    options = ("--detach", "--runc-binary", corten, "--cgroup", cgroup, "--null-io")
    containerd("run", *options, IMAGE, "task", "sleep", "1000", check=True)
    done = containerd("tasks", "exec", "--exec-id", "e1", "task", "sh", "-c", "echo in; exit 6")
    assert (done.returncode, done.stdout) == (6, "in\n"), done.stderr
    containerd("tasks", "pause", "task", check=True)
    assert "PAUSED" in containerd("tasks", "ls").stdout
    containerd("tasks", "resume", "task", check=True)
    assert "memory.usage" in containerd("tasks", "metrics", "task", check=True).stdout
    assert len(containerd("tasks", "ps", "task", check=True).stdout.splitlines()) == 2
    containerd("tasks", "kill", "--signal", "KILL", "task", check=True)
    process.wait_for(lambda: "STOPPED" in containerd("tasks", "ls").stdout, "the task to have stopped")
    assert "non-zero exit code 137" in containerd("tasks", "delete", "task", check=True).stderr
    containerd("containers", "delete", "task", check=True)
    assert not Path(f"/sys/fs/cgroup/pids{cgroup}").exists()
