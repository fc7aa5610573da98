"""`corten-runtime` beneath an unmodified dockerd: every row gives what runc gives there, but for rows that say why."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from support import images, paths, peers
from support.console import SIZE, in_terminal
from support.dockerd import Dockerd, client_environment

IMAGE = images.BUSYBOX_REF
CORTEN = str(paths.COMMANDS / "corten-runtime")
NONE = ("--network", "none")
FAILURE_OF_DOCKER = 125  # of the command itself, before there was a container
STATUS = "grep -E 'Cap|NoNewPrivs|Seccomp|Groups' /proc/self/status"
LIMITS = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes pids/pids.max"
LIMITS += " cpu/cpu.cfs_quota_us cpu/cpu.shares cpuset/cpuset.cpus"
MOUNTS = "sed 's/lowerdir.*//' /proc/mounts | cut -d' ' -f2-4 | sort"

# name: (options, command, stdin)
RUNS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str | None]] = {
    "output": (NONE, ("echo", "hi"), None),
    "exit status": (NONE, ("sh", "-c", "exit 3"), None),
    "death by signal": (NONE, ("sh", "-c", "kill -9 $$"), None),
    "stdin": (("-i", *NONE), ("cat",), "abc"),
    "terminal": (("-t", *NONE), ("sh", "-c", "tty; ls -l /dev/console | cut -c1-10"), None),
    "bridge": ((), ("sh", "-c", "ip link | grep -c eth0; cat /etc/resolv.conf | wc -l"), None),
    "network host": (("--network", "host"), ("sh", "-c", "ip link | wc -l"), None),
    "no such command": (NONE, ("nosuch",), None),
    "no such path": (NONE, ("/nosuch",), None),
    "a directory as command": (NONE, ("/etc",), None),
    "limits": (
        (
            *("-m", "64m", "--memory-swap", "96m", "--cpus", "0.5", "--cpu-shares", "300", "--cpuset-cpus", "0"),
            *("--pids-limit", "50", *NONE),
        ),
        ("sh", "-c", LIMITS),
        None,
    ),
    "default privileges": (NONE, ("sh", "-c", STATUS), None),
    "privileges of a user": (("-u", "1000:50", *NONE), ("sh", "-c", f"id; {STATUS}"), None),
    "capabilities": (("--cap-add", "SYS_TIME", "--cap-drop", "CHOWN", *NONE), ("sh", "-c", STATUS), None),
    "no new privileges": (("--security-opt", "no-new-privileges", *NONE), ("sh", "-c", STATUS), None),
    "unconfined": (("--security-opt", "seccomp=unconfined", *NONE), ("sh", "-c", STATUS), None),
    "cgroups": (NONE, ("sh", "-c", "sed 's,/[0-9a-f]*$,,' /proc/self/cgroup"), None),
    "mounts": (NONE, ("sh", "-c", MOUNTS), None),
    "devices": (("--device", "/dev/fuse", *NONE), ("sh", "-c", "ls -l /dev | tail -n +2 | cut -c1-30,58-"), None),
    "environment": (("-e", "A=1", "--hostname", "hh", *NONE), ("env",), None),
    "ulimits": (("--ulimit", "nofile=77:99", *NONE), ("sh", "-c", "ulimit -a; ulimit -Hn"), None),
    "read-only": (("--read-only", "--tmpfs", "/t", *NONE), ("sh", "-c", "touch /x; touch /t/x; ls /t"), None),
    "bind": (("-v", "/usr:/u:ro", *NONE), ("sh", "-c", "ls -d /u/bin; touch /u/x"), None),
    "init": (("--init", *NONE), ("sh", "-c", "cat /proc/1/comm"), None),
    "sysctl": (("--sysctl", "net.ipv4.ip_forward=1", *NONE), ("cat", "/proc/sys/net/ipv4/ip_forward"), None),
    "host namespaces": (
        ("--ipc", "host", "--uts", "host", "--pid", "host", *NONE),
        ("sh", "-c", "readlink /proc/self/ns/ipc /proc/self/ns/uts /proc/self/ns/pid"),
        None,
    ),
    "out of memory": (("-m", "8m", *NONE), ("sh", "-c", "exec 2>&-; head -c 100m /dev/zero | tail"), None),
    "oom_score_adj": (("--oom-score-adj", "100", *NONE), ("cat", "/proc/self/oom_score_adj"), None),
}

# The life of one container: (docker's words, stdin)
LIFE: list[tuple[tuple[str, ...], str | None]] = [
    (("run", "-d", "--name", "life", "--stop-timeout", "1", *NONE, IMAGE, "sleep", "1000"), None),
    (("exec", "life", "echo", "in"), None),
    (("exec", "-i", "life", "cat"), "xyz"),
    (("exec", "-t", "life", "tty"), None),
    (("exec", "-u", "1000", "-w", "/tmp", "-e", "A=1", "life", "sh", "-c", "id; pwd; echo $A; exit 9"), None),
    (("exec", "life", "nosuch"), None),
    (("exec", "life", "/etc"), None),
    (("exec", "-w", "/nodir", "life", "pwd"), None),
    (("pause", "life"), None),
    (("exec", "life", "true"), None),
    (("inspect", "-f", "{{.State.Status}}", "life"), None),
    (("unpause", "life"), None),
    (("update", "-m", "100m", "--memory-swap", "200m", "life"), None),
    (("exec", "life", "cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes"), None),
    (("top", "life", "-eo", "pid,args"), None),
    (("stats", "--no-stream", "--format", "{{.PIDs}}", "life"), None),
    (("kill", "-s", "USR1", "life"), None),
    (("restart", "-t", "0", "life"), None),
    (("exec", "life", "true"), None),
    (("stop", "life"), None),
    (("inspect", "-f", "{{.State.ExitCode}} {{.State.OOMKilled}} {{.State.Error}}", "life"), None),
    (("start", "life"), None),
    (("kill", "life"), None),
    (("wait", "life"), None),
    (("rm", "life"), None),
]

# docker update: what is asked for one after the other of the same container
UPDATES: list[tuple[str, ...]] = [
    ("--cpus", "0.5"),
    ("--cpu-shares", "300"),
    ("--cpuset-cpus", "0", "--cpuset-mems", "0"),
    ("--memory", "64m", "--memory-swap", "96m"),
    ("--memory-reservation", "32m"),
    ("--memory", "128m"),
    ("--memory", "1m"),
    ("--memory", "128m", "--memory-swap", "-1"),
    ("--cpu-period", "50000", "--cpu-quota", "20000"),
    ("--cpu-period", "50000"),
    ("--cpuset-cpus", "99"),
    ("--cpuset-cpus", "nonsense"),
    ("--cpu-rt-runtime", "5000"),
    ("--blkio-weight", "300"),
    ("--pids-limit", "50"),
    ("--pids-limit", "-1"),
    ("--restart", "unless-stopped"),
]
FILES = "cd /sys/fs/cgroup; grep -H '' memory/memory.*limit* cpu/cpu.[sc][hf]* cpuset/cpuset.[cm]??s pids/*.max"
TOPS: list[tuple[str, ...]] = [(), ("-eo", "pid,args"), ("aux",), ("-o", "pid,comm,nosuch"), ("-eo", "args")]


@pytest.fixture(scope="module", params=["20.10", "26.1"])
def engine(request: pytest.FixtureRequest) -> Iterator[Dockerd]:
    with Dockerd(request.param, runtimes={"corten": paths.COMMANDS / "corten-runtime"}) as daemon:
        daemon.docker("load", "-i", str(images.busybox()), check=True)
        yield daemon


def normal(text: str) -> str:
    """Each runtime names itself, and ids differ."""
    text = text.replace(f"{CORTEN} did not", "runc did not").replace(
        "corten-runtime create failed", "runc create failed"
    )
    return re.sub(r"\b[0-9a-f]{64}\b", "ID", text)


@pytest.mark.parametrize("name", RUNS)
def test_docker_run_gives_what_it_gives_with_runc(engine: Dockerd, name: str) -> None:
    options, command, stdin = RUNS[name]
    found = {}
    for runtime in ("runc", "corten"):
        done = engine.docker("run", "--rm", "--runtime", runtime, *options, IMAGE, *command, stdin=stdin)
        found[runtime] = (done.returncode, normal(done.stdout), normal(done.stderr))
    assert found["corten"] == found["runc"]
    assert found["corten"][0] != FAILURE_OF_DOCKER, found["corten"]


def test_a_container_lives_as_it_does_with_runc(engine: Dockerd) -> None:
    found: dict[str, list[tuple[tuple[str, ...], int, str, str]]] = {"runc": [], "corten": []}
    for runtime, rows in found.items():
        for words, stdin in LIFE:
            argv = (words[0], "--runtime", runtime, *words[1:]) if words[0] == "run" else words
            done = engine.docker(*argv, stdin=stdin)
            text = "\n".join(line.lstrip(" 0123456789") for line in done.stdout.splitlines())
            rows.append(
                (words, done.returncode, normal(text if words[0] == "top" else done.stdout), normal(done.stderr))
            )
    assert found["corten"] == found["runc"]
    assert [row for row in found["corten"] if row[1] and row[0][0] != "exec"] == []


def test_a_container_without_a_limit_gets_the_default_of_the_node(engine: Dockerd) -> None:
    done = engine.docker("run", "--rm", "--runtime", "corten", *NONE, IMAGE, "cat", "/sys/fs/cgroup/pids/pids.max")
    assert done.stdout == "500\n"


def test_a_mount_that_fails_is_named_and_docker_gives_its_advice(engine: Dockerd) -> None:
    done = engine.docker("run", "--rm", "--runtime", "corten", *NONE, "-v", "/tmp:/etc/passwd", IMAGE, "true")
    assert done.returncode == 125
    assert "mount /tmp on /etc/passwd: not a directory (step " in done.stderr
    assert "Are you trying to mount a directory onto a file (or vice-versa)?" in done.stderr


def test_an_exec_may_have_every_capability_that_the_machine_gives(engine: Dockerd) -> None:
    engine.docker("run", "-d", "--name", "caps", "--runtime", "corten", *NONE, IMAGE, "sleep", "1000", check=True)
    done = engine.docker("exec", "--privileged", "caps", "grep", "CapEff", "/proc/self/status")
    engine.docker("rm", "-f", "caps", check=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1], 16) > 1 << 37


def sleeper(engine: Dockerd, runtime: str, *options: str) -> None:
    """The container `home`."""
    words = ("run", "-d", "--name", "home", "--runtime", runtime, *NONE, *options, IMAGE, "sleep", "1000")
    engine.docker(*words, check=True)


@pytest.mark.parametrize("options", [(), ("--cap-drop", "ALL"), NONE], ids=["bridge", "no capability", "no network"])
def test_a_container_in_the_pid_namespace_of_another_gives_what_it_gives_with_runc(
    engine: Dockerd, options: tuple[str, ...]
) -> None:
    """Its network comes from a hook of dockerd, which finds the namespace by the pid that it is given."""
    look = (
        f"ip link | grep -c eth0; cat /proc/1/cmdline | tr '\\0' ' '; test -d /proc/$$ && echo own; {STATUS}; {MOUNTS}"
    )
    found = {}
    for runtime in ("runc", "corten"):
        sleeper(engine, runtime)
        try:
            words = ("run", "--rm", "--runtime", runtime, "--pid", "container:home", *options)
            done = engine.docker(*words, IMAGE, "sh", "-c", look)
        finally:
            engine.docker("rm", "-f", "home", check=True)
        found[runtime] = (done.returncode, done.stdout, normal(done.stderr))
    assert found["corten"] == found["runc"]
    assert found["corten"][1].splitlines()[:2] == ["0" if options == NONE else "1", "sleep 1000 own"]


def test_an_update_gives_what_it_gives_with_runc(engine: Dockerd) -> None:
    """Texts, exit code, and every limit in the files after it."""
    seen: dict[str, list[Any]] = {"runc": [], "corten": []}
    shares = {}
    for runtime, rows in seen.items():
        sleeper(engine, runtime, "--pids-limit", "70")
        try:
            for options in UPDATES:
                done = engine.docker("update", *options, "home")
                files = engine.docker("exec", "home", "sh", "-c", FILES)
                rows.append((options, done.returncode, done.stdout, normal(done.stderr), files.stdout, files.stderr))
            refused = engine.docker("update", "--cpu-shares", "1", "home")
            assert "the minimum allowed cpu-shares is 2" in refused.stderr
            shares[runtime] = engine.docker("exec", "home", "cat", "/sys/fs/cgroup/cpu/cpu.shares").stdout
        finally:
            engine.docker("rm", "-f", "home", check=True)
    for theirs, ours in zip(seen["runc"], seen["corten"], strict=True):
        assert ours == theirs
    assert shares == {"runc": "2\n", "corten": "300\n"}  # row "shares that are too small"


def test_top_gives_what_it_gives_with_runc(engine: Dockerd) -> None:
    seen: dict[str, list[Any]] = {"runc": [], "corten": []}
    for runtime, rows in seen.items():
        sleeper(engine, runtime)
        try:
            for options in TOPS:
                done = engine.docker("top", "home", *options)
                lines = [without_numbers(line) for line in done.stdout.splitlines()]
                rows.append((options, done.returncode, lines, normal(done.stderr)))
        finally:
            engine.docker("rm", "-f", "home", check=True)
    assert seen["corten"] == seen["runc"]


def without_numbers(line: str) -> list[str]:
    return [word for word in line.split() if not word[0].isdigit()]


def names(value: Any, where: str = "") -> set[str]:
    """The paths of all keys."""
    if not isinstance(value, dict):
        return {where}
    return {path for key, inner in value.items() for path in names(inner, f"{where}/{key}")}


def test_stats_have_what_they_have_with_runc(engine: Dockerd) -> None:
    seen = []
    for runtime in ("runc", "corten"):
        sleeper(engine, runtime, "-m", "64m", "--pids-limit", "70")
        client = engine.client()
        try:
            stats = client.containers.get("home").stats(stream=False)
        finally:
            client.close()
            engine.docker("rm", "-f", "home", check=True)
        limits = stats["memory_stats"]["limit"], stats["pids_stats"]
        seen.append((limits, stats["cpu_stats"]["online_cpus"], names(stats)))
    assert seen[0] == seen[1]
    assert seen[1][0] == (64 << 20, {"current": 1, "limit": 70})


def test_attach_without_a_terminal_gives_what_it_gives_with_runc(engine: Dockerd) -> None:
    """Both streams apart, what is typed goes in, the exit code comes back."""
    command = "while read line; do echo $line; echo err-$line >&2; test $line = two && exit 4; done"
    seen: dict[str, list[Any]] = {"runc": [], "corten": []}
    for runtime, found in seen.items():
        words = ("run", "-di", "--name", "home", "--runtime", runtime, *NONE, IMAGE, "sh", "-c", command)
        engine.docker(*words, check=True)
        try:
            argv = [str(peers.docker_cli()), "-H", engine.host, "attach", "home"]
            pipe = subprocess.PIPE
            with subprocess.Popen(
                argv, env=client_environment(), text=True, stdin=pipe, stdout=pipe, stderr=pipe
            ) as client:
                assert client.stdin
                assert client.stdout
                assert client.stderr
                client.stdin.write("one\ntwo\n")
                client.stdin.flush()  # and stays open: at its end dockerd closes the other streams
                found.append((client.wait(60), client.stdout.read(), client.stderr.read()))
            found.append(engine.docker("logs", "home").stdout)
            found.append(engine.docker("attach", "home").stderr)
        finally:
            engine.docker("rm", "-f", "home", check=True)
    assert seen["corten"] == seen["runc"]
    assert seen["corten"][0] == (4, "one\ntwo\n", "err-one\nerr-two\n")


def typed(engine: Dockerd, *words: str) -> tuple[int, str]:
    """Exit code and output of the docker CLI in a terminal."""
    return in_terminal([str(peers.docker_cli()), "-H", engine.host, *words], client_environment())


def test_a_terminal_has_the_size_that_it_has_with_runc(engine: Dockerd) -> None:
    """From its first moment with 26.1, which writes consoleSize; a little later with 20.10, which resizes."""
    script = "stty size" if engine.version == "26.1" else SIZE
    seen = []
    for runtime in ("runc", "corten"):
        run = typed(engine, "run", "--rm", "-it", "--runtime", runtime, *NONE, IMAGE, "sh", "-c", script)
        sleeper(engine, runtime)
        try:
            seen.append((run, typed(engine, "exec", "-it", "home", "sh", "-c", f"{script}; exit 5")))
        finally:
            engine.docker("rm", "-f", "home", check=True)
    assert seen[0] == seen[1]
    assert seen[1] == ((0, "31 77\r\n"), (5, "31 77\r\n"))
