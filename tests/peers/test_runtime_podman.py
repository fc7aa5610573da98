"""`corten-runtime` beneath podman and conmon: every row gives what runc gives there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images, paths, peers, process, sameness
from support.compatibility import compare
from support.podman import Podman

IMAGE = images.BUSYBOX_REF
CORTEN = "corten-runtime"

RUNS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str | None]] = {
    "output": ((), ("echo", "hi"), None),
    "exit status": ((), ("sh", "-c", "exit 4"), None),
    "stdin": (("-i",), ("cat",), "abc"),
    "terminal": (("-t",), ("tty",), None),
    "no such command": ((), ("nosuch",), None),
    "a directory as command": ((), ("/etc",), None),
    "limits": (
        ("--pids-limit", "44", "-m", "100m"),
        ("cat", "/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        None,
    ),
    "privileges": (("-u", "1000"), ("grep", "-E", "Cap|NoNewPrivs|Seccomp|Groups", "/proc/self/status"), None),
    "read-only": (("--read-only", "--read-only-tmpfs=false"), ("touch", "/x"), None),
}
# those that do not end with 0; podman's own failures are 125
FAILING_RUNS = {"exit status": 4, "no such command": 127, "a directory as command": 126, "read-only": 1}

LIFE: list[tuple[str, ...]] = [
    ("exec", "NAME", "echo", "in"),
    ("exec", "NAME", "nosuch"),
    ("exec", "-t", "NAME", "tty"),
    ("exec", "NAME", "sh", "-c", "exit 5"),
    ("pause", "NAME"),
    ("inspect", "-f", "{{.State.Status}}", "NAME"),
    ("unpause", "NAME"),
    ("top", "NAME", "comm"),
    ("stats", "--no-stream", "--format", "{{.PIDs}}", "NAME"),
    ("kill", "-s", "USR1", "NAME"),
    ("stop", "-t", "1", "NAME"),
    ("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "NAME"),
    ("start", "NAME"),
    ("kill", "NAME"),
    ("wait", "NAME"),
    ("rm", "NAME"),
]

# What is compared value by value: options of podman run.
LOOKS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "user": ("-u", "1000:50"),
    "privileged": ("--privileged",),
    "every capability": ("--cap-add", "ALL"),
    "limits": ("-m", "64m", "--memory-swap", "96m", "--cpus", "0.5", "--cpuset-cpus", "1", "--pids-limit", "50"),
    "systemd": ("--systemd=always",),
    "mounts": (
        "--read-only",
        "--tmpfs",
        "/t:size=1m",
        "-v",
        "/usr:/u:ro,rslave",
        "--mount",
        "type=bind,src=/srv,dst=/s",
    ),
    "own cgroup namespace": ("--cgroupns", "private"),
}
IDS = "containers:1000000:1000000\n"

# podman update: what is asked for one after the other of the same container
UPDATES: list[tuple[str, ...]] = [
    ("--cpus", "0.5"),
    ("--cpu-shares", "300"),
    ("--cpuset-cpus", "0", "--cpuset-mems", "0"),
    ("--memory", "64m", "--memory-swap", "96m"),
    ("--memory-reservation", "32m"),
    ("--cpu-period", "50000", "--cpu-quota", "20000"),
    ("--cpuset-cpus", "99"),
    ("--blkio-weight", "300"),
]
FILES = "cd /sys/fs/cgroup; grep -H '' memory/memory.*limit* cpu/cpu.[sc][hf]* cpuset/cpuset.[cm]??s blkio/*weight"
# From what is made and not started to a second life, attached, with a check of health.
SECOND_LIFE: list[tuple[str, ...]] = [
    ("init", "NAME"),
    ("inspect", "-f", "{{.State.Status}}", "NAME"),
    ("exec", "NAME", "true"),
    ("start", "--attach", "NAME"),
    ("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "NAME"),
    ("start", "NAME"),
    ("restart", "-t", "0", "NAME"),
    ("wait", "NAME"),
    ("logs", "NAME"),
    ("healthcheck", "run", "NAME"),
    ("container", "checkpoint", "NAME"),
    ("rm", "NAME"),
]


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    with Podman() as instance:
        yield instance


def normal(text: str) -> str:
    """Each runtime is named by its path and by itself."""
    for name in (str(paths.COMMANDS / CORTEN), str(peers.binary("runc")), CORTEN, "corten"):
        text = text.replace(name, "runc")
    return text


@pytest.mark.parametrize("name", RUNS)
def test_podman_run_gives_what_it_gives_with_runc(podman: Podman, name: str) -> None:
    options, command, stdin = RUNS[name]
    found = []
    for runtime in ("runc", CORTEN):
        done = podman(runtime, "run", "--rm", *options, *podman.own_cgroup, IMAGE, *command, stdin=stdin)
        found.append((done.returncode, normal(done.stdout), normal(done.stderr)))
    assert found[0] == found[1]
    assert found[0][0] == FAILING_RUNS.get(name, 0), found[0]


@pytest.mark.parametrize("runtime", ["runc", CORTEN])
def test_a_container_that_ended_is_cleaned_up_behind(podman: Podman, runtime: str) -> None:
    """conmon starts podman for that."""
    id = podman(runtime, "run", "-d", "--rm", *podman.own_cgroup, IMAGE, "true", check=True).stdout.strip()
    process.wait_for(lambda: id not in podman(runtime, "ps", "-aq", "--no-trunc").stdout, "cleanup by podman")


def test_a_container_of_podman_lives_as_it_does_with_runc(podman: Podman) -> None:
    found: list[list[tuple[tuple[str, ...], int, str, str]]] = []
    for runtime, name in (("runc", "runc"), (CORTEN, "corten")):
        podman(runtime, "run", "-d", "--name", name, *podman.own_cgroup, IMAGE, "sleep", "1000", check=True)
        rows = []
        for words in LIFE:
            done = podman(runtime, *(word.replace("NAME", name) for word in words))
            stderr = "".join(line for line in done.stderr.splitlines() if "level=warning" not in line)
            rows.append((words, done.returncode, normal(done.stdout), normal(stderr)))
        found.append(rows)
    assert found[0] == found[1]
    assert {(words[0], code) for words, code, *_ in found[0] if code} == {("exec", 127), ("exec", 5)}


def test_an_update_of_podman_gives_what_it_gives_with_runc(podman: Podman) -> None:
    """Texts, exit code, and every limit in the files after it."""
    seen: list[list[tuple[object, ...]]] = []
    for runtime in ("runc", CORTEN):
        podman(runtime, "run", "-d", "--name", "home", *podman.own_cgroup, IMAGE, "sleep", "1000", check=True)
        rows: list[tuple[object, ...]] = []
        try:
            id = podman(runtime, "inspect", "-f", "{{.Id}}", "home", check=True).stdout.strip()
            for options in UPDATES:
                done = podman(runtime, "update", *options, "home")
                files = podman(runtime, "exec", "home", "sh", "-c", FILES).stdout
                # runc adds that it could not set everything back
                said = re.sub(r'time="[^"]*" (level=warning [^\n]*\n)?', "", done.stderr.replace(id, "ID"))
                texts = [done.stdout.replace(id, "ID"), re.sub(r"/podman\d+ ", "/FILE ", normal(said))]
                rows.append((options, done.returncode, *texts, files))
        finally:
            podman(runtime, "rm", "-f", "-t", "0", "home", check=True)
        seen.append(rows)
    for theirs, ours in zip(*seen, strict=True):
        assert ours == theirs


def test_a_container_that_is_made_first_and_started_later_is_as_with_runc(podman: Podman) -> None:
    found: list[list[tuple[object, ...]]] = []
    command = ("sh", "-c", "echo out; echo err >&2; exit 7")
    for runtime, name in (("runc", "made-runc"), (CORTEN, "made-corten")):
        health = ("--health-cmd", "true", "--health-interval", "disable")
        podman(runtime, "create", "--name", name, *health, *podman.own_cgroup, IMAGE, *command, check=True)
        id = podman(runtime, "inspect", "-f", "{{.Id}}", name, check=True).stdout.strip()
        rows: list[tuple[object, ...]] = []
        for words in SECOND_LIFE:
            done = podman(runtime, *(word.replace("NAME", name) for word in words))
            texts = [normal(text.replace(id, "ID").replace(name, "NAME")) for text in (done.stdout, done.stderr)]
            rows.append((words, done.returncode, *texts))
        found.append(rows)
    for theirs, ours in zip(*found, strict=True):
        assert ours == theirs


def test_a_container_may_do_without_cgroups(podman: Podman) -> None:
    done = podman(
        CORTEN, "run", "--rm", "--cgroups", "disabled", "--network", "none", IMAGE, "cat", "/proc/self/cgroup"
    )
    assert done.returncode == 0, done.stderr
    own = dict(line.split(":", 1) for line in Path("/proc/self/cgroup").read_text().splitlines())
    assert {line.split(":", 1)[0] for line in done.stdout.splitlines()} == set(own)


@pytest.mark.parametrize("name", LOOKS)
def test_a_container_of_podman_shows_what_it_shows_with_runc(podman: Podman, name: str) -> None:
    looks = []
    for runtime in ("runc", CORTEN):
        words = ("run", "--name", "look", "--hostname", "box", *LOOKS[name], *podman.own_cgroup, IMAGE)
        done = podman(runtime, *words, "sh", "-c", sameness.LOOK)
        looks.append(sameness.parse(done.stdout + done.stderr, end(podman, runtime)))
    compare(looks[0], looks[1])


def end(podman: Podman, runtime: str) -> dict[str, str]:
    """Removes the container `look`; its id, to be replaced."""
    id = podman(runtime, "inspect", "-f", "{{.Id}}", "look", check=True).stdout.strip()
    podman(runtime, "rm", "-f", "-t", "0", "look", check=True)
    return {id: "ID", id[:32]: "ID"}  # container_uuid


@pytest.mark.timeout(300)
def test_the_containers_of_a_pod_share_what_they_share_with_runc(podman: Podman) -> None:
    pods = [pod(podman, runtime) for runtime in ("runc", CORTEN)]
    assert pods[0] == pods[1]
    assert pods[1][:2] == ["ipc net uts", "16m"]


def pod(podman: Podman, runtime: str) -> list[str]:
    """What a pod's two containers have in common, and the words of its life."""
    infra = ("--infra-image", IMAGE, "--infra-command", "sleep 1000")
    made = ("pod", "create", "--name", "pod", *infra, "--network", "none", "--shm-size", "16m")
    podman(runtime, *made, "--cgroup-parent", f"/{podman.folder.name}", check=True)
    try:
        kinds = ("cgroup", "ipc", "mnt", "net", "pid", "uts")
        look = "for kind in $0; do readlink /proc/self/ns/$kind; done"
        for name in ("one", "two"):
            podman(runtime, "run", "-d", "--pod", "pod", "--name", name, IMAGE, "sleep", "1000", check=True)
        one, two = (
            podman(runtime, "exec", name, "sh", "-c", look, " ".join(kinds), check=True).stdout.split()
            for name in ("one", "two")
        )
        shared = [kind for kind, here, there in zip(kinds, one, two, strict=True) if here == there]
        size = podman(runtime, "exec", "one", "sh", "-c", "df -h /dev/shm | tail -1", check=True).stdout
        texts = [" ".join(kind for kind in shared if kind != "cgroup"), size.split()[1].lower().replace(".0", "")]
        for words in (("pod", "pause"), ("pod", "unpause"), ("pod", "stop", "-t", "0"), ("pod", "start")):
            texts.append(str(podman(runtime, *words, "pod").returncode))
            states = podman(runtime, "ps", "-a", "--format", "{{.Names}} {{.State}}", "--sort", "names").stdout
            texts += [" ".join(line.split()[:2]) for line in states.splitlines() if "-infra " not in line]
        return texts
    finally:
        podman(runtime, "pod", "rm", "-f", "-t", "0", "pod", check=True)


def test_a_user_namespace_of_its_own_shows_what_it_shows_with_runc(podman: Podman) -> None:
    """`--userns=auto` takes ids of the user `containers`, which a mount namespace gives to podman here."""
    for name in ("subuid", "subgid"):
        (podman.folder / name).write_text(IDS)
    own = f"mount --bind {podman.folder}/subuid /etc/subuid && mount --bind {podman.folder}/subgid /etc/subgid"
    prefix = ("unshare", "--mount", "--propagation", "private", "sh", "-c", f'{own} && exec "$0" "$@"')
    looks = []
    for runtime in ("runc", CORTEN):
        words = ("run", "--name", "look", "--hostname", "box", "--userns=auto", *podman.own_cgroup, IMAGE)
        done = podman(runtime, *words, "sh", "-c", f"cat /proc/self/uid_map; {sameness.LOOK}", prefix=prefix)
        assert done.stdout.split()[:2] == ["0", "1000000"], done.stderr
        looks.append(sameness.parse(done.stdout, end(podman, runtime)))
    compare(looks[0], looks[1])
