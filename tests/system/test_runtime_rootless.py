"""`corten-runtime` as an ordinary user runs it, beside runc: the same output, the same exit status, the same words."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import paths, peers, process, rootless, runtimes
from support.rootless import SubidRuntime, UserRuntime
from support.runtimes import Bundle

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def place(folder: Path) -> Path:
    """The test's folder, the user's."""
    return rootless.own(folder)


@pytest.fixture
def corten(place: Path) -> Iterator[UserRuntime]:
    rootless.skip_unless_reached(paths.COMMANDS / "corten-runtime")
    with UserRuntime(paths.COMMANDS / "corten-runtime", place / "root") as made:
        yield made


@pytest.fixture
def runc(place: Path) -> Iterator[UserRuntime]:
    made = UserRuntime(rootless.copy_for_user(peers.binary("runc"), place), place / "runc-root")
    yield made
    made.close()


def changed(bundle: Bundle, change: Change) -> Bundle:
    change(bundle.config)
    return bundle.save()


def said(text: str) -> str:
    """The last line of stderr without its time and the runtime's name."""
    last = text.strip().splitlines()[-1] if text.strip() else ""
    return re.sub(r'time="[^"]*"', "", last).replace("corten-runtime", "runc")


# run -------------------------------------------------------------------------------------------------------

LOOK = "id; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; hostname; ls /dev /sys/fs/cgroup; pwd"
# not SigIgn: runc hands on what its caller ignores (docs/runtime-compatibility.md, ignored signals)
STATUS = "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Umask|SigBlk)' /proc/self/status; ulimit -n"


@pytest.mark.parametrize(
    ("script", "status"),
    [(LOOK, 0), (STATUS, 0), ("cat; exit 7", 7), ("echo up; kill -9 $$", 0), ("echo up; echo gone >/dev/full", 1)],
)
def test_run_is_as_with_runc(script: str, status: int, corten: UserRuntime, runc: UserRuntime, place: Path) -> None:
    bundle = rootless.bundle("sh", "-c", script, folder=place / "bundle")
    ours, theirs = (each("run", "-b", str(bundle.path), "c", stdin=b"in\n") for each in (corten, runc))
    assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout)
    assert (ours.returncode, ours.stdout != "") == (status, True), ours.stderr
    assert corten("list", "-q", check=True).stdout == ""


def test_the_process_is_the_users_on_the_host(corten: UserRuntime, place: Path) -> None:
    bundle = rootless.bundle("sleep", "1000", folder=place / "bundle")
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    pid = corten.state("c")["pid"]
    status = Path(f"/proc/{pid}/status").read_text()
    assert f"Uid:\t{rootless.UID}\t{rootless.UID}" in status
    assert Path(f"/proc/{pid}/cgroup").read_text() == Path("/proc/self/cgroup").read_text()


def mountinfo(text: str) -> set[tuple[str, ...]]:
    """(root, place, options, type, source) of each mount."""
    rows: set[tuple[str, ...]] = set()
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, tail = before.split(), after.split()
        rows.add((re.sub(r"^.*/rootfs$", "/rootfs", fields[3]), fields[4], fields[5], tail[0], tail[1]))
    return rows


def test_mounts_are_runcs(corten: UserRuntime, runc: UserRuntime, place: Path) -> None:
    bundle = rootless.bundle("cat", "/proc/self/mountinfo", folder=place / "bundle")
    ours, theirs = (mountinfo(each("run", "-b", str(bundle.path), "c", check=True).stdout) for each in (corten, runc))
    # ours has the host's cgroups beneath /sys read-only, which runc has not (CVE-2023-25809)
    of_cgroups = {row for row in ours | theirs if row[1].startswith("/sys/fs/cgroup")}
    assert ours - of_cgroups == theirs - of_cgroups
    assert all(row[2].startswith("ro") for row in of_cgroups & ours if row[3].startswith("cgroup"))


# what is allowed, and a line that shows it
ALLOWED: dict[str, tuple[Change, str]] = {
    "a network namespace": (lambda c: c["linux"]["namespaces"].append({"type": "network"}), "net own"),
    "a cgroup namespace": (lambda c: c["linux"]["namespaces"].append({"type": "cgroup"}), "cgroup own"),
    "device rules": (
        lambda c: c["linux"].update(resources={"devices": [{"allow": False, "access": "rwm"}]}),
        "adj 0",
    ),
    "a sysctl": (lambda c: c["linux"].update(sysctl={"kernel.msgmax": "4000"}), "msgmax 4000"),
    "a device of the host": (
        lambda c: c["linux"].update(devices=[{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]),
        "kmsg",
    ),
    "more out-of-memory badness": (lambda c: c["process"].update(oomScoreAdj=500), "adj 500"),
    "a bind": (
        lambda c: c["mounts"].append(
            {"destination": "/mnt", "type": "bind", "source": "/usr", "options": ["rbind", "rw"]}
        ),
        "bin",
    ),
}
SHOW = (
    "echo adj $(cat /proc/self/oom_score_adj); echo msgmax $(cat /proc/sys/kernel/msgmax); "
    "for kind in net cgroup; do readlink /proc/self/ns/$kind; done; "
    "ls /mnt; test -c /dev/kmsg && echo kmsg; ls -ln /dev/zero"
)


def own_or_not(text: str) -> list[str]:
    """The lines, with a namespace said to be the host's or the container's own."""
    lines = text.splitlines()
    for kind in ("net", "cgroup"):
        (at,) = (number for number, line in enumerate(lines) if line.startswith(f"{kind}:["))
        lines[at] = f"{kind} {'of the host' if lines[at] == os.readlink(f'/proc/self/ns/{kind}') else 'own'}"
    return lines


@pytest.mark.parametrize("name", ALLOWED)
def test_what_runc_gives_an_ordinary_user_is_given(
    name: str, corten: UserRuntime, runc: UserRuntime, place: Path
) -> None:
    change, line = ALLOWED[name]
    bundle = changed(rootless.bundle("sh", "-c", SHOW, folder=place / "bundle"), change)
    (bundle.path / "rootfs/bin/readlink").symlink_to("busybox")
    done = [each("run", "-b", str(bundle.path), "c") for each in (corten, runc)]
    assert [each.returncode for each in done] == [0, 0], done
    ours, theirs = (own_or_not(each.stdout) for each in done)
    assert ours == theirs
    assert line in ours


def without_user_namespace(config: dict[str, Any]) -> None:
    config["linux"]["namespaces"] = [row for row in config["linux"]["namespaces"] if row["type"] != "user"]
    del config["linux"]["uidMappings"], config["linux"]["gidMappings"]


REFUSED: dict[str, Change] = {
    "no user namespace": without_user_namespace,
    "no root inside": lambda c: (
        c["linux"]["uidMappings"][0].update(containerID=1000),
        c["linux"]["gidMappings"][0].update(containerID=1000),
        c["process"]["user"].update(uid=1000, gid=1000),
    ),
    "groups": lambda c: c["process"]["user"].update(additionalGids=[5]),
    "an unmapped uid": lambda c: c["process"]["user"].update(uid=5),
    "an unmapped gid": lambda c: c["process"]["user"].update(gid=5),
    "a file system's unmapped gid": lambda c: c["mounts"][2]["options"].append("gid=5"),
    "a file system's unmapped uid": lambda c: c["mounts"][2]["options"].append("uid=7"),
    "a higher hard limit": lambda c: c["process"].update(
        rlimits=[{"type": "RLIMIT_NOFILE", "hard": 99999999, "soft": 1024}]
    ),
    "a memory limit without a cgroup": lambda c: c["linux"].update(resources={"memory": {"limit": 10000000}}),
    "a pids limit without a cgroup": lambda c: c["linux"].update(resources={"pids": {"limit": 10}}),
    "an executable that is not there": lambda c: c["process"].update(args=["nothere"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_runc_refuses_is_refused_in_its_words(
    name: str, corten: UserRuntime, runc: UserRuntime, place: Path
) -> None:
    bundle = changed(rootless.bundle("true", folder=place / "bundle"), REFUSED[name])
    ours, theirs = (each("run", "-b", str(bundle.path), "c") for each in (corten, runc))
    assert (ours.returncode, said(ours.stderr)) == (theirs.returncode, said(theirs.stderr))
    assert ours.returncode == 1
    assert corten("list", "-q", check=True).stdout == ""


def test_a_cgroup_that_is_named_and_cannot_be_made_is_an_error(corten: UserRuntime, place: Path) -> None:
    bundle = changed(
        rootless.bundle("true", folder=place / "bundle"), lambda c: c["linux"].update(cgroupsPath="/corten-nobody")
    )
    done = corten("run", "-b", str(bundle.path), "c")
    assert done.returncode == 1
    assert re.search(r"unable to apply cgroup configuration: mkdir \S+/corten-nobody: permission denied", done.stderr)


def test_more_ids_than_his_own_need_the_helpers(corten: UserRuntime, place: Path) -> None:
    more = {"containerID": 1, "hostID": rootless.FIRST_SUBID, "size": 10}
    bundle = changed(rootless.bundle("true", folder=place / "bundle"), lambda c: c["linux"]["uidMappings"].append(more))
    argv = corten.argv("run", "-b", str(bundle.path), "c")
    argv.insert(argv.index("env") + 1, "PATH=/nowhere")
    argv[argv.index("env")] = "/usr/bin/env"
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=30)
    assert done.returncode == 1
    assert "there is no newuidmap in $PATH" in done.stderr
    assert corten("list", "-q", check=True).stdout == ""


# life ------------------------------------------------------------------------------------------------------


def test_a_life_is_as_with_runc(corten: UserRuntime, runc: UserRuntime, place: Path) -> None:
    bundle = rootless.bundle("sleep", "1000", folder=place / "bundle")
    verbs: tuple[tuple[str, ...], ...] = (
        ("list", "-q"), ("start", "c"), ("exec", "c", "id"), ("exec", "-u", "5", "c", "id"),
        ("exec", "--additional-gids", "5", "c", "id"), ("exec", "c", "sh", "-c", "exit 3"), ("pause", "c"),
        ("resume", "c"), ("update", "--memory", "10000000", "c"), ("kill", "c", "KILL"), ("list", "-q"),
    )  # fmt: skip
    seen = []
    for each in (corten, runc):
        each.detached("create", "-b", str(bundle.path), "c")
        rows: list[tuple[object, ...]] = []
        for verb in verbs:
            done = each(*verb)
            rows.append((verb, done.returncode, done.stdout, said(done.stderr)))
        each.wait_for("c", "stopped")
        rows.append((each("delete", "c").returncode, each("state", "c").returncode))
        seen.append(rows)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("verb", [("ps", "c"), ("pause", "c"), ("kill", "--all", "c", "TERM")])
def test_a_verb_that_needs_a_cgroup_fails_without_one(
    verb: tuple[str, ...], corten: UserRuntime, runc: UserRuntime, place: Path
) -> None:
    bundle = rootless.bundle("sleep", "1000", folder=place / "bundle")
    for each in (corten, runc):
        each.detached("run", "-d", "-b", str(bundle.path), "c")
        done = each(*verb)
        assert done.returncode == 1, done
    assert corten.state("c")["status"] == "running"


def test_list_names_the_owner_and_state_has_no_limit_that_is_not_there(corten: UserRuntime, place: Path) -> None:
    bundle = rootless.bundle("sleep", "1000", folder=place / "bundle")
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    (row,) = json.loads(corten("list", "--format", "json", check=True).stdout)
    assert row["owner"] == "nobody"
    limit = {"value": -1, "origin": "rootless, without a cgroup of its own"}
    assert row["corten"]["pidsLimit"] == limit


def test_a_terminal_goes_to_the_user(corten: UserRuntime, place: Path) -> None:
    bundle = changed(
        rootless.bundle("sh", "-c", "tty; test -t 0 && echo yes", folder=place / "bundle"),
        lambda c: c["process"].update(terminal=True),
    )
    done = corten("run", "-b", str(bundle.path), "c")
    assert (done.returncode, done.stdout) == (0, "/dev/pts/0\r\nyes\r\n")


def test_hooks_run_as_the_user(corten: UserRuntime, place: Path) -> None:
    seen = place / "seen"

    def hook(kind: str) -> list[dict[str, Any]]:
        return [{"path": "/bin/sh", "args": ["sh", "-c", f"echo {kind} $(id -u) >> {seen}"]}]

    kinds = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    bundle = changed(
        rootless.bundle("true", folder=place / "bundle"), lambda c: c.update(hooks={kind: hook(kind) for kind in kinds})
    )
    corten("run", "-b", str(bundle.path), "c", check=True)
    ids = dict(line.split() for line in seen.read_text().splitlines())
    assert ids == {kind: "0" if kind == "createContainer" else str(rootless.UID) for kind in kinds}


def test_the_bundle_of_spec_rootless_runs(corten: UserRuntime, place: Path) -> None:
    bundle = runtimes.bundle("true", folder=place / "bundle")
    (bundle.path / "config.json").unlink()
    rootless.own(bundle.path)
    corten("spec", "--rootless", "--bundle", str(bundle.path), check=True)
    config = json.loads((bundle.path / "config.json").read_text())
    config["process"].update(terminal=False, args=["id", "-u"])
    (bundle.path / "config.json").write_text(json.dumps(config))
    assert corten("run", "-b", str(bundle.path), "c", check=True).stdout == "0\n"


# cgroups that were handed to the user ----------------------------------------------------------------------


@pytest.fixture
def delegated() -> Iterator[str]:
    """A cgroup of the user's in the hierarchies of pids and memory; its path."""
    path = f"/{paths.mark()}runtime/{rootless.UID}"
    for controller in ("pids", "memory"):
        directory = process.CGROUPS / controller / path.lstrip("/")
        directory.mkdir(parents=True)
        for entry in (directory, directory / "tasks", directory / "cgroup.procs"):
            os.chown(entry, rootless.UID, rootless.GID)
    yield path
    runtimes.remove_cgroups()


def test_a_limit_holds_in_a_cgroup_that_was_handed_to_the_user(
    delegated: str, corten: UserRuntime, place: Path
) -> None:
    bundle = rootless.bundle("sh", "-c", "cat /proc/self/cgroup; sleep 1000", folder=place / "bundle")
    changed(bundle, lambda c: c["linux"].update(resources={"pids": {"limit": 7}, "memory": {"limit": 64 << 20}}))
    enter = "".join(f"echo 0 > {process.CGROUPS}/{name}{delegated}/tasks && " for name in ("pids", "memory"))
    argv = corten.argv("run", "-d", "-b", str(bundle.path), "c")
    with (place / "out").open("wb") as out:
        subprocess.run(
            ["sh", "-c", f'{enter} exec "$@"', "sh", *argv],
            stdin=subprocess.DEVNULL,
            stdout=out,
            check=True,
            timeout=30,
        )
    state = corten.state("c")
    directory = process.CGROUPS / "pids" / delegated.lstrip("/") / "c"
    assert (directory / "pids.max").read_text() == "7\n"
    assert str(state["pid"]) in (directory / "cgroup.procs").read_text().split()
    assert (
        corten("ps", "--format", "json", "c", check=True).stdout
        == json.dumps(sorted(map(int, (directory / "cgroup.procs").read_text().split())), separators=(",", ":")) + "\n"
    )
    corten("exec", "c", "true", check=True)
    corten("delete", "--force", "c", check=True)
    assert not directory.exists()


# more ids than his own -------------------------------------------------------------------------------------


@pytest.fixture
def with_subids(corten: UserRuntime, place: Path) -> Iterator[SubidRuntime]:
    made = SubidRuntime(corten.program, corten.root, helpers=rootless.helpers(place / "helpers"))
    yield made
    made.close()


def test_with_helpers_a_container_has_its_subordinate_ids(
    with_subids: SubidRuntime, runc: UserRuntime, place: Path
) -> None:
    script = "id; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; ls -ln /dev/null /proc/self/status"
    bundle = rootless.map_more(rootless.bundle("sh", "-c", script, folder=place / "bundle"))
    bundle.config["process"]["user"].update(uid=1000, gid=1000)
    bundle.save()
    theirs = SubidRuntime(runc.program, runc.root, helpers=with_subids.helpers)
    seen = [each("run", "-b", str(bundle.path), "c", check=True).stdout for each in (with_subids, theirs)]
    ours_seen, theirs_seen = (re.sub(r" \w+ +\d+ \d\d:\d\d ", " ", text) for text in seen)
    assert ours_seen == theirs_seen
    assert seen[0].startswith("uid=1000 gid=1000")


def test_with_helpers_a_life_goes_on_as_another_user(with_subids: SubidRuntime, place: Path) -> None:
    bundle = rootless.map_more(rootless.bundle("sleep", "1000", folder=place / "bundle"))
    bundle.config["process"]["user"].update(uid=1000, gid=1000)
    bundle.save()
    with_subids.detached("create", "-b", str(bundle.path), "c")
    with_subids("start", "c", check=True)
    pid = with_subids.state("c")["pid"]
    assert f"Uid:\t{rootless.FIRST_SUBID + 999}\t" in Path(f"/proc/{pid}/status").read_text()
    assert with_subids("exec", "-u", "7:8", "c", "id", check=True).stdout == "uid=7 gid=8\n"
    with_subids("kill", "c", "KILL", check=True)
    with_subids.wait_for("c", "stopped")
    with_subids("delete", "c", check=True)


def test_ids_that_are_not_the_users_are_refused_by_the_helper(with_subids: SubidRuntime, place: Path) -> None:
    bundle = rootless.map_more(rootless.bundle("true", folder=place / "bundle"))
    for name in ("subuid", "subgid"):
        (with_subids.helpers / name).write_text("nobody:900000:65536\n")
    done = with_subids("run", "-b", str(bundle.path), "c")
    assert done.returncode == 1
    assert "newuidmap: uid range [1-65537) -> [200000-265536) not allowed" in done.stderr
    assert with_subids("list", "-q", check=True).stdout == ""


# root in a user namespace ----------------------------------------------------------------------------------

INSIDE = ("unshare", "--user", "--map-root-user", "--mount", "--fork")
LOOK_INSIDE = (
    "id; cat /proc/self/uid_map /proc/self/setgroups /proc/self/oom_score_adj; hostname; ls -ln /dev/null /dev/tty;"
    " grep -E '^(Cap|NoNewPrivs|Groups)' /proc/self/status; ls /sys/fs/cgroup"
)
# the life of a container in one namespace: $1 the runtime, $2 its state root, $3 the bundle
LIFE = """
exec 2>&1 </dev/null
run() { echo "== $*"; "$runtime" --root "$root" "$@"; echo "$?"; }
runtime=$1 root=$2
run create -b "$3" c >/dev/null
run start c
run exec c id
run exec -u 5 c id
run exec c cat /proc/self/oom_score_adj
run kill c KILL
while "$runtime" --root "$root" state c | grep -q '"status": "running"'; do sleep 0.05; done
run delete c
run list -q
"""


def of_root_inside(folder: Path, *command: str, nested: bool) -> Bundle:
    """A bundle for the root of a user namespace; with `nested` it has one more of its own."""
    bundle = rootless.bundle(*command, folder=folder)
    linux = bundle.config["linux"]
    if nested:
        for kind in ("uidMappings", "gidMappings"):
            linux[kind][0]["hostID"] = 0
    else:
        without_user_namespace(bundle.config)
    bundle.config["process"]["oomScoreAdj"] = 100
    return bundle.save()


@pytest.mark.parametrize("nested", [False, True])
def test_root_in_a_user_namespace_runs_a_container_as_with_runc(
    nested: bool, corten: UserRuntime, runc: UserRuntime, place: Path
) -> None:
    bundle = of_root_inside(place / "bundle", "sh", "-c", LOOK_INSIDE, nested=nested)
    seen = []
    for each in (corten, runc):
        argv = rootless.argv(*INSIDE, each.program, "--root", str(each.root), "run", "-b", str(bundle.path), "c")
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=30)
        seen.append((done.returncode, done.stdout))
        assert done.returncode == 0, done.stderr
    assert seen[0] == seen[1]


@pytest.mark.parametrize("nested", [False, True])
def test_root_in_a_user_namespace_lives_a_life_as_with_runc(
    nested: bool, corten: UserRuntime, runc: UserRuntime, place: Path
) -> None:
    bundle = of_root_inside(place / "bundle", "sleep", "1000", nested=nested)
    seen = []
    for each in (corten, runc):
        argv = rootless.argv(*INSIDE, "sh", "-c", LIFE, "sh", each.program, str(each.root), str(bundle.path))
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
        text = re.sub(r'time="[^"]*" ', "", done.stdout)
        seen.append([line for line in text.splitlines() if "level=" not in line])
    assert seen[0] == seen[1]
    assert "uid=0(root) gid=0" in seen[0]
    assert "100" in seen[0]
