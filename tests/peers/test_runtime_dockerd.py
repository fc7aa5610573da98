"""`corten-runtime` beneath an unmodified dockerd: every row gives what runc gives there, but for rows that say why."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support import images, paths
from support.dockerd import Dockerd

IMAGE = images.BUSYBOX_REF
NONE = ("--network", "none")
STATUS = "grep -E 'Cap|NoNewPrivs|Seccomp|Groups' /proc/self/status"
LIMITS = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes pids/pids.max"
LIMITS += " cpu/cpu.cfs_quota_us cpu/cpu.shares cpuset/cpuset.cpus"
# runc masks files with the container's own /dev/null, we with the host's: the same device, another mount
MOUNTS = "sed 's/lowerdir.*//' /proc/mounts | cut -d' ' -f2-4 | grep -Ev '^/proc/(keys|timer_list) ' | sort"

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


@pytest.fixture(scope="module", params=["20.10", "26.1"])
def engine(request: pytest.FixtureRequest) -> Iterator[Dockerd]:
    with Dockerd(request.param, runtimes={"corten": paths.COMMANDS / "corten-runtime"}) as daemon:
        daemon.docker("load", "-i", str(images.busybox()), check=True)
        yield daemon


def normal(text: str) -> str:
    """Each runtime names itself, and ids differ."""
    words = text.replace("corten-runtime create failed", "runc create failed").split(" ")
    return " ".join("ID" if len(word.strip()) == 64 else word for word in words)


@pytest.mark.parametrize("name", RUNS)
def test_docker_run_gives_what_it_gives_with_runc(engine: Dockerd, name: str) -> None:
    options, command, stdin = RUNS[name]
    found = {}
    for runtime in ("runc", "corten"):
        done = engine.docker("run", "--rm", "--runtime", runtime, *options, IMAGE, *command, stdin=stdin)
        found[runtime] = (done.returncode, normal(done.stdout), normal(done.stderr))
    assert found["corten"] == found["runc"]


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
