"""A task of containerd's over `corten-runtime`, told by ctr: each word beside the same word over runc."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import paths, peers, process
from support.console import SIZE, in_terminal
from support.containerd import IMAGE, LINGER, Containerd

RUNTIMES = {"runc": peers.binary("runc"), "corten": paths.COMMANDS / "corten-runtime"}
EXEC = ("tasks", "exec", "--exec-id")

# The life of one task.  `wait` waits for its end.
LIFE: list[tuple[str, ...]] = [
    ("tasks", "ls"),
    (*EXEC, "e1", "task", "sh", "-c", f"echo in; {LINGER}; exit 6"),
    (*EXEC, "e2", "--cwd", "/tmp", "--user", "1000:50", "task", "sh", "-c", f"id; pwd; {LINGER}"),
    (*EXEC, "e3", "task", "nosuch"),
    (*EXEC, "e4", "task", "/etc"),
    (*EXEC, "e5", "--cwd", "/nodir", "task", "pwd"),
    (*EXEC, "e6", "--detach", "task", "sleep", "1000"),
    ("tasks", "kill", "--exec-id", "e6", "--signal", "KILL", "task"),
    (*EXEC, "e7", "task", "sh", "-c", "kill -9 $$"),
    ("tasks", "pause", "task"),
    ("tasks", "ls"),
    (*EXEC, "e8", "task", "true"),
    ("tasks", "pause", "task"),
    ("tasks", "resume", "task"),
    ("tasks", "resume", "task"),
    ("tasks", "ls"),
    ("tasks", "metrics", "task"),
    ("tasks", "metrics", "--format", "json", "task"),
    ("tasks", "ps", "task"),
    ("tasks", "start", "task"),
    ("tasks", "delete", "task"),
    ("containers", "delete", "task"),
    ("tasks", "kill", "--signal", "WINCH", "task"),
    ("tasks", "kill", "--all", "--signal", "KILL", "task"),
    ("wait",),
    (*EXEC, "e9", "task", "true"),
    ("tasks", "pause", "task"),
    ("tasks", "kill", "task"),
    ("tasks", "delete", "task"),
    ("tasks", "start", "--null-io", "--detach", "task"),
    ("tasks", "ls"),
    ("tasks", "delete", "--force", "task"),
    ("tasks", "delete", "task"),
    ("containers", "delete", "task"),
]


@pytest.fixture(scope="module", params=[("1.6", "bookworm"), ("1.7", "trixie")], ids=lambda pair: pair[0])
def containerd(request: pytest.FixtureRequest) -> Iterator[Containerd]:
    instance = Containerd(*request.param)
    yield instance
    instance.close()


def normal(text: str) -> str:
    """Without times, pids and counters; each runtime is named by itself."""
    text = text.replace(str(RUNTIMES["corten"]), "RUNTIME").replace(str(RUNTIMES["runc"]), "RUNTIME")
    text = re.sub(r'time="[^"]*"', "TIME", text.replace("corten-runtime", "runc"))
    return re.sub(r"\b\d{3,}\b", "N", re.sub(r" +", " ", text))


def shape(words: tuple[str, ...], text: str) -> str:
    """Of metrics their names alone, and not those of counters, which containerd leaves out while they are 0."""
    if words[:2] != ("tasks", "metrics"):
        return normal(text)
    if "json" not in words:
        return " ".join(line.split(" ")[0] for line in text.splitlines())
    groups = {name: group for name, group in json.loads(text).items() if isinstance(group, dict)}
    inner = [f"{name}.{key}" for name, group in groups.items() for key in group if isinstance(group[key], dict)]
    return " ".join([*groups, *inner])


def start(containerd: Containerd, runtime: str, *options: str) -> subprocess.CompletedProcess[str]:
    """The task `task` in a cgroup of this instance."""
    cgroup = ("--cgroup", f"/{containerd.folder.name}/task")
    words = ("run", "--detach", "--runc-binary", str(RUNTIMES[runtime]), *cgroup, "--null-io", *options)
    return containerd(*words, IMAGE, "task", "sleep", "1000")


def end(containerd: Containerd) -> None:
    containerd("tasks", "delete", "--force", "task")
    containerd("containers", "delete", "task")


def live(containerd: Containerd, runtime: str) -> list[tuple[tuple[str, ...], int, str, str]]:
    """Every word of LIFE with its exit code and texts."""
    assert start(containerd, runtime).returncode == 0
    rows = []
    try:
        for words in LIFE:
            if words == ("wait",):
                process.wait_for(lambda: "STOPPED" in containerd("tasks", "ls").stdout, "the task to have stopped")
                continue
            done = containerd(*words)
            rows.append((words, done.returncode, shape(words, done.stdout), normal(done.stderr)))
    finally:
        end(containerd)
    return rows


def test_a_task_lives_as_it_does_with_runc(containerd: Containerd) -> None:
    theirs, ours = (live(containerd, runtime) for runtime in RUNTIMES)
    for their_row, our_row in zip(theirs, ours, strict=True):
        assert our_row == their_row
    assert not Path(f"/sys/fs/cgroup/pids/{containerd.folder.name}/task").exists()


def test_a_checkpoint_without_criu_is_refused_as_with_runc(containerd: Containerd) -> None:
    """Debian's criu is not among the programs of this containerd, and would not run on a kernel of today."""
    answers = []
    for runtime in RUNTIMES:
        assert start(containerd, runtime).returncode == 0
        try:
            done = containerd("tasks", "checkpoint", "task")
            running = containerd("tasks", "ls").stdout.split()[-1]
            answers.append((done.returncode, normal(done.stderr), running))
        finally:
            end(containerd)
    assert answers[0] == answers[1]
    assert answers[1][0] == 1
    assert answers[1][2] == "RUNNING"


@pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="systemd runs here: nothing is refused")
def test_a_scope_of_systemd_is_refused_as_with_runc(containerd: Containerd) -> None:
    answers = []
    for program in RUNTIMES.values():
        words = ("run", "--rm", "--runc-binary", str(program), "--runc-systemd-cgroup")
        done = containerd(*words, "--cgroup", "machine.slice:peers:task", IMAGE, "task", "true")
        answers.append((done.returncode, done.stdout, normal(done.stderr)))
        end(containerd)
    assert answers[0] == answers[1]
    assert "systemd" in answers[1][2]


def test_the_runtime_keeps_its_records_where_it_is_told(containerd: Containerd) -> None:
    """`--runc-root`: below it containerd names its namespace."""
    for runtime in RUNTIMES:
        root = containerd.folder / f"records-{runtime}"
        assert start(containerd, runtime, "--runc-root", str(root)).returncode == 0
        try:
            assert (root / "default/task/state.json").exists(), runtime
        finally:
            end(containerd)
        assert not (root / "default/task").exists(), runtime


def test_a_terminal_is_as_with_runc(containerd: Containerd) -> None:
    looks = []
    script = f"tty; {SIZE}; {LINGER}; exit 5"
    for runtime, program in RUNTIMES.items():
        cgroup = ("--cgroup", f"/{containerd.folder.name}/tty")
        words = ("run", "--rm", "--tty", "--runc-binary", str(program), *cgroup, IMAGE, "tty")
        first = in_terminal(containerd.argv(*words, "sh", "-c", script), containerd.env)
        assert start(containerd, runtime).returncode == 0
        try:
            exec_words = (*EXEC, "e1", "--tty", "task", "sh", "-c", script)
            second = in_terminal(containerd.argv(*exec_words), containerd.env)
        finally:
            end(containerd)
        looks.append((first, second))
    assert looks[0] == looks[1]
    assert looks[1][0] == (5, "/dev/pts/0\r\r\n31 77\r\r\n")  # two terminals, each with its own \r
