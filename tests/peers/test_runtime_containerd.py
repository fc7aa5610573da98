"""`corten-runtime` beneath containerd, by `ctr run --runc-binary`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import paths, peers, process, sameness
from support.compatibility import compare
from support.containerd import IMAGE, LINGER, Containerd

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

# options of ctr run: what is compared value by value
LOOKS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "directory": ("--cwd", "/tmp", "--env", "A=1"),
    "privileged": ("--privileged",),
    "capabilities": ("--cap-add", "CAP_SYS_TIME", "--cap-drop", "CAP_CHOWN", "--allow-new-privs"),
    "limits": ("--memory-limit", "67108864", "--cpus", "0.5", "--env", "B=2"),
    "seccomp": ("--seccomp", "--read-only"),
    "host network": ("--net-host",),
    "device": ("--device", "/dev/fuse"),
    "mounts": ("--mount", "type=bind,src=/usr,dst=/u,options=rbind:ro", "--mount", "type=tmpfs,dst=/t,options=size=1m"),
}
FULL = ("directory", "capabilities", "seccomp", "host network", "device")  # in the full run alone


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
    done = containerd("tasks", "exec", "--exec-id", "e1", "task", "sh", "-c", f"echo in; {LINGER}; exit 6")
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


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in FULL else ()) for name in LOOKS])
def test_a_container_of_ctr_shows_what_it_shows_with_runc(containerd: Containerd, name: str) -> None:
    looks = []
    for program in (peers.binary("runc"), paths.COMMANDS / "corten-runtime"):
        status, out, err = containerd.run(program, *LOOKS[name], "--", "sh", "-c", f"{sameness.LOOK}{LINGER}")
        assert status == 0, err
        looks.append(sameness.parse(out + err, {}))
    compare(looks[0], looks[1])
