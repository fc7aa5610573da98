"""`corten-runtime` beneath the podman of an ordinary user: every row gives what runc gives there."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from support import images, paths, peers, rootless, sameness
from support.compatibility import compare
from support.podman_rootless import RootlessPodman

IMAGE = images.BUSYBOX_REF
CORTEN = "corten-runtime"
LOOK = (
    "id; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups /proc/self/oom_score_adj; hostname; pwd;"
    " ls /sys/fs/cgroup; grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Umask)' /proc/self/status; ulimit -n;"
    " ls -ln /dev | grep -v mqueue"  # which belongs to runc's group on the host in a nested namespace, to root in ours
)

RUNS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str | None]] = {
    "what it sees": ((), ("sh", "-c", LOOK), None),
    "as a user with groups": (("--user", "7:8", "--group-add", "9"), ("sh", "-c", LOOK), None),
    "as the user himself": (("--userns", "keep-id"), ("sh", "-c", LOOK), None),
    "without subordinate ids": (("--uidmap", "0:0:1", "--gidmap", "0:0:1"), ("id",), None),
    "a memory limit": (("-m", "100m"), ("true",), None),
    "the network of the host": (("--network", "host"), ("ls", "/sys/class/net"), None),
    "a pid namespace of the host": (("--pid", "host"), ("sh", "-c", "test -d /proc/1 && echo yes"), None),
    "mounts": (
        ("--tmpfs", "/t", "-v", "/usr:/u:ro", "--read-only", "--cap-drop", "all"),
        ("sh", "-c", "cat /proc/self/mounts | cut -d' ' -f2-4 | sort"),
        None,
    ),
    "a device": (("--device", "/dev/full:/dev/here"), ("sh", "-c", "ls -ln /dev/here; echo x > /dev/here"), None),
    "badness": (("--oom-score-adj", "300"), ("cat", "/proc/self/oom_score_adj"), None),
    "exit status": ((), ("sh", "-c", "exit 4"), None),
    "stdin": (("-i",), ("cat",), "abc"),
    "terminal": (("-t",), ("tty",), None),
    "no such command": ((), ("nosuch",), None),
    "an init": (("--init=false",), ("sh", "-c", "echo $$"), None),
}
# those that do not end with 0; podman's own failures are 125
FAILING_RUNS = {"a device": 1, "exit status": 4, "no such command": 127}

LIFE: list[tuple[str, ...]] = [
    ("exec", "NAME", "id"),
    ("exec", "-u", "5", "NAME", "id"),
    ("exec", "-t", "NAME", "tty"),
    ("exec", "NAME", "nosuch"),
    ("exec", "NAME", "sh", "-c", "exit 5"),
    ("inspect", "-f", "{{.State.Status}}", "NAME"),
    ("kill", "-s", "USR1", "NAME"),
    ("stop", "-t", "1", "NAME"),
    ("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "NAME"),
    ("start", "NAME"),
    ("kill", "NAME"),
    ("wait", "NAME"),
    ("rm", "NAME"),
]


@pytest.fixture(scope="module")
def podman() -> Iterator[RootlessPodman]:
    rootless.skip_unless_reached(paths.COMMANDS / CORTEN)
    with RootlessPodman() as instance:
        yield instance


def normal(text: str) -> str:
    """Without times, ids, and what podman says of the machine; each runtime is named by its path and by itself."""
    text = re.sub(r'time="[^"]*"', "TIME", re.sub(r'time="[^"]*" level=warning [^\n]*\n', "", text))
    for name in (str(paths.COMMANDS / CORTEN), str(peers.binary("runc")), CORTEN, "corten"):
        text = text.replace(name, "runc")
    text = re.sub(r"[A-Z][a-z]{2} +\d+ +\d\d:\d\d(:\d\d)?", "TIME", text)
    text = re.sub(r"\b[0-9a-f]{64}\b", "ID", text)
    return re.sub(r"\b[0-9a-f]{12}\b", "SHORT", text)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_as_with_runc(name: str, podman: RootlessPodman) -> None:
    options, command, stdin = RUNS[name]
    network = () if "--network" in options else ("--network", "none")
    seen = []
    for runtime in (CORTEN, "runc"):
        done = podman(runtime, "run", "--rm", "--hostname", "box", *network, *options, IMAGE, *command, stdin=stdin)
        seen.append([done.returncode, *normal(done.stdout).splitlines(), normal(done.stderr)])
    assert seen[0] == seen[1]
    assert seen[0][0] == FAILING_RUNS.get(name, 0), seen[0]


def test_a_life_is_as_with_runc(podman: RootlessPodman) -> None:
    seen = []
    for runtime in (CORTEN, "runc"):
        name = f"life-{runtime}"
        podman(runtime, "run", "-d", "--network", "none", "--name", name, IMAGE, "sleep", "1000", check=True)
        rows = []
        for words in LIFE:
            done = podman(runtime, *[name if word == "NAME" else word for word in words])
            rows.append((words, done.returncode, normal(done.stdout.replace(name, "NAME"))))
        seen.append(rows)
    assert seen[0] == seen[1]
    assert {(words[0], code) for words, code, _ in seen[0] if code} == {("exec", 127), ("exec", 5)}


def pod(podman: RootlessPodman, runtime: str) -> list[str]:
    """What two containers of a pod share, what their states are as it lives, and its exit codes."""
    infra = ("--infra-image", IMAGE, "--infra-command", "sleep 1000")
    made = podman(runtime, "pod", "create", "--name", "pod", *infra, "--network", "none", "--shm-size", "16m")
    assert made.returncode == 0, made.stderr
    try:
        look = "for kind in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$kind; done"
        look += "; df -h /dev/shm | tail -1 | cut -c20-30; hostname; cat /proc/self/uid_map"
        for name in ("one", "two"):
            podman(runtime, "run", "-d", "--pod", "pod", "--name", name, IMAGE, "sleep", "1000", check=True)
        one, two = (
            podman(runtime, "exec", name, "sh", "-c", look, check=True).stdout.splitlines() for name in ("one", "two")
        )
        texts = [f"{here.partition(':')[0]} {here == there}" for here, there in zip(one[1:7], two[1:7], strict=True)]
        texts += [*one[7:], *two[7:]]
        for words in (("stop", "-t", "0"), ("start",), ("kill", "-s", "KILL")):
            texts.append(str(podman(runtime, "pod", *words, "pod").returncode))
            states = podman(runtime, "ps", "-a", "--format", "{{.Names}} {{.State}}", "--sort", "names").stdout
            texts += [" ".join(line.split()[:2]) for line in states.splitlines() if "-infra " not in line]
        return texts
    finally:
        podman(runtime, "pod", "rm", "-f", "-t", "0", "pod", check=True)


@pytest.mark.timeout(300)
def test_a_pod_is_as_with_runc(podman: RootlessPodman) -> None:
    pods = [pod(podman, runtime) for runtime in ("runc", CORTEN)]
    assert pods[0] == pods[1]
    assert {"ipc True", "mnt False", "net True", "pid False", "user True", "uts True"} >= set(pods[1][:6])


SHOWN: dict[str, tuple[str, ...]] = {
    "plain": (),
    "user": ("-u", "1000:50"),
    "privileged": ("--privileged",),
    "mounts": ("--read-only", "--tmpfs", "/t:size=1m", "-v", "/usr:/u:ro,rslave"),
    "in a pod": ("--pod", "pod"),
}
FULL = ("user", "mounts")  # in the full run alone


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in FULL else ()) for name in SHOWN])
def test_a_container_shows_what_it_shows_with_runc(podman: RootlessPodman, name: str) -> None:
    looks = []
    for runtime in ("runc", CORTEN):
        network: tuple[str, ...] = ("--network", "none", "--hostname", "box")
        if name == "in a pod":
            infra = ("--infra-image", IMAGE, "--infra-command", "sleep 1000")
            podman(runtime, "pod", "create", "--name", "pod", *infra, *network, check=True)
            network = ()
        try:
            words = ("run", "--name", "look", *network, *SHOWN[name], IMAGE, "sh", "-c", sameness.LOOK)
            done = podman(runtime, *words)
            id = podman(runtime, "inspect", "-f", "{{.Id}}", "look", check=True).stdout.strip()
            text = re.sub(r"\b[0-9a-f]{64}\b", "ID", done.stdout + done.stderr)
            looks.append(sameness.parse(text, {id[:32]: "ID", id[:12]: "ID"}))
        finally:
            podman(runtime, "rm", "-f", "-t", "0", "look")
            podman(runtime, "pod", "rm", "--ignore", "-f", "-t", "0", "pod")
    compare(looks[0], looks[1])


BUILDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str | None]] = {
    "what it sees": ((), ("sh", "-c", LOOK), None),
    "as a user": (("--user", "1000:50"), ("sh", "-c", "id; grep -E 'Cap|Groups|NoNewPrivs' /proc/self/status"), None),
    "mounts": (
        ("--volume", "/usr:/u:ro"),
        ("sh", "-c", "cut -d' ' -f2-4 /proc/self/mounts | grep -v ^/sys/fs/cgroup | sort; touch /u/x"),
        None,
    ),
    "exit status": ((), ("sh", "-c", "exit 4"), None),
    "stdin": ((), ("cat",), "abc"),
    "no such command": ((), ("nosuch",), None),
    "what it writes": (
        (),
        ("sh", "-c", "echo made > /made; ls -ln /made | cut -c1-30; chown 7:8 /made; ls -ln /made"),
        None,
    ),
}


@pytest.mark.parametrize("isolation", ["rootless", "oci"])
def test_buildah_run_is_as_with_runc(podman: RootlessPodman, isolation: str) -> None:
    """In one container each, which buildah makes from the image that podman loaded."""
    network = ("--network", "none") if isolation == "oci" else ()
    seen = []
    for program in (paths.COMMANDS / CORTEN, peers.binary("runc")):
        made = podman.run("buildah", "from", "--pull-never", IMAGE)
        assert made.returncode == 0, made.stderr
        name = made.stdout.strip()
        rows = {}
        for row, (options, command, stdin) in BUILDS.items():
            words = (
                "run",
                "--isolation",
                isolation,
                *network,
                "--runtime",
                str(program),
                *options,
                name,
                "--",
                *command,
            )
            done = podman.run("buildah", *words, stdin=stdin)
            rows[row] = (
                done.returncode,
                *(normal(text.replace(name, "NAME")).splitlines() for text in (done.stdout, done.stderr)),
            )
        assert podman.run("buildah", "rm", name).returncode == 0
        seen.append(rows)
    for row, ours in seen[0].items():
        assert ours == seen[1][row], row
    assert seen[0]["stdin"][:2] == (0, ["abc"])
