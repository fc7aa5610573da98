"""What hooks see of a container before its root is entered, and what they leave in it, beside runc.

runtime-spec config.md, "POSIX-platform Hooks": prestart, createRuntime and createContainer hooks find the root with
all its mounts at `root.path` in the container's mount namespace, and what they mount there stays.  Programs like
nvidia-container-cli (`nsenter -t PID -m`) and those of CDI depend on it.

Both runtimes run in a mount namespace of their own: a mount that escaped would be seen there.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support import paths, peers, runtimes
from support.runtimes import Bundle, Runtime

SIDES = {"ours": paths.COMMANDS / "corten-runtime", "theirs": peers.binary("runc")}
ENV = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOOK=yes"]
PREPARE = 'eval "$BEFORE"; "$@"; code=$?; grep hookfs /proc/self/mountinfo; exit $code'
PRIVATE = ("unshare", "--mount", "--propagation", "private", "sh", "-c", PREPARE, "sh")
PID = r"""sed 's/.*"pid":\([0-9]*\).*/\1/'"""
# in the hook: what it sees of the root, and two mounts beneath it
ACT = """
ls ROOT/proc/uptime ROOT/dev/null ROOT/dev/pts/ptmx ROOT/etc
mount --bind FOLDER/source ROOT/etc/file
mount -t tmpfs -o size=64k hookfs ROOT/tmp
echo left > ROOT/tmp/word
"""
# in the container
LOOK = """
awk '$5 == "/etc/file" || $5 == "/tmp" { print $4 == "/" ? $4 : "source", $5, $6, $(NF - 2), $(NF - 1) }' \
    /proc/self/mountinfo
cat /etc/file /tmp/word
"""


def inside(script: str) -> str:
    """As nvidia-container-cli does it: from the host into the container's mount namespace."""
    return f"pid=$({PID}); exec nsenter -t $pid -m sh -ec '{script}'"


def make(folder: Path, *, name: str = "b", readonly: bool = False) -> Bundle:
    bundle = runtimes.bundle("sh", "-c", LOOK, folder=folder / name)
    root = bundle.path / "rootfs"
    busybox = root / "bin/awk"
    if not busybox.is_symlink():
        busybox.symlink_to("busybox")
    (root / "etc/file").write_text("own\n")
    (folder / "source").write_text("source\n")
    bundle.config["root"]["readonly"] = readonly
    return bundle


def hook(bundle: Bundle, folder: Path, script: str, **more: Any) -> dict[str, Any]:
    script = script.replace("ROOT", str(bundle.path / "rootfs")).replace("FOLDER", str(folder))
    return {"path": "/bin/sh", "args": ["sh", "-ec", f"exec > {folder}/seen 2>&1\n{script}"], "env": ENV, **more}


def run(side: str, bundle: Bundle, folder: Path, before: str = "") -> dict[str, Any]:
    """What the hook said, what the container said, what reached the caller's mount namespace, and how it ended."""
    (folder / "seen").write_text("")
    runtime = Runtime(SIDES[side], folder / side)
    done = subprocess.run(
        [*PRIVATE, *runtime.argv("run", "--bundle", str(bundle.save().path), "c")],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "BEFORE": before},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return {"code": done.returncode, "container": done.stdout, "hook": (folder / "seen").read_text()}


def both(bundle: Bundle, folder: Path, before: str = "") -> dict[str, Any]:
    ours, theirs = (run(side, bundle, folder, before) for side in SIDES)
    assert ours == theirs
    return ours


KINDS = {"prestart": inside(ACT), "createRuntime": inside(ACT), "createContainer": ACT}


def share(bundle: Bundle) -> str:
    return "mount --bind {0} {0}; mount --make-shared {0}".format(bundle.path / "rootfs")


def with_user_namespace(bundle: Bundle) -> None:
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    for kind in ("uidMappings", "gidMappings"):
        bundle.config["linux"][kind] = [{"containerID": 0, "hostID": 0, "size": 65536}]


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        *[(kind, "plain") for kind in KINDS],
        *[(kind, shape) for kind in KINDS if kind != "prestart" for shape in ("readonly", "user", "shared", "rshared")],
    ],
)
def test_what_a_hook_mounts_beneath_the_root_is_the_containers(folder: Path, kind: str, shape: str) -> None:
    bundle = make(folder, readonly=shape == "readonly")
    bundle.config["hooks"] = {kind: [hook(bundle, folder, KINDS[kind])]}
    before = share(bundle) if "shared" in shape else ""
    if shape == "user":
        with_user_namespace(bundle)
    if shape == "rshared":
        bundle.config["linux"]["rootfsPropagation"] = "rshared"
    seen = both(bundle, folder, before)
    assert seen["code"] == 0, seen
    mounts = seen["container"].splitlines()
    assert [line.split()[1] for line in mounts[:2]] == ["/etc/file", "/tmp"]
    assert mounts[2:] == ["source", "left"], "and nothing of it in the namespace of the caller"
    assert f"{bundle.path}/rootfs/proc/uptime" in seen["hook"]
    assert "cannot access" not in seen["hook"]


def test_what_a_hook_of_the_host_mounts_on_a_shared_root_comes_to_the_container(folder: Path) -> None:
    bundle = make(folder)
    bundle.config["hooks"] = {"createRuntime": [hook(bundle, folder, "mount -t tmpfs hookfs ROOT/tmp")]}
    bundle.config["process"]["args"] = ["sh", "-c", "grep -c hookfs /proc/self/mountinfo"]
    ours, theirs = (run(side, bundle, folder, share(bundle)) for side in SIDES)
    assert ours["container"].splitlines()[0] == theirs["container"].splitlines()[0] == "1"
    assert "hookfs" in ours["container"].splitlines()[1], "it is the host's own, too"


def test_a_createcontainer_hook_has_the_root_as_its_directory_and_the_usual_mask(folder: Path) -> None:
    bundle = make(folder)
    script = "umask; pwd; env | grep -vE '^(PWD|OLDPWD|SHLVL|_)=' | sort; stat -c %A . ; touch made; stat -c %A made"
    bundle.config["hooks"] = {"createContainer": [hook(bundle, folder, script)] * 2}
    seen = both(bundle, folder)["hook"].splitlines()
    assert seen[:2] == ["0022", str(bundle.path / "rootfs")]
    assert seen[2:4] == sorted(ENV)
    assert seen[-1] == "-rw-r--r--"


@pytest.mark.parametrize("given", [None, [], ENV], ids=["none", "empty", "own"])
def test_the_environment_of_hooks_is_as_with_runc(folder: Path, given: list[str] | None) -> None:
    """Without a word on it that of the runtime, on the container's sides that of its process."""
    bundle = make(folder)
    bundle.config["process"]["env"] += ["WORD=of the process"]
    script = "/bin/env | /bin/grep -vE '^(PWD|OLDPWD|SHLVL|_)=' | /bin/sort"
    sides = {name: hook(bundle, folder, f"echo {name}; {script}") for name in ("createRuntime", "createContainer")}
    script = "/bin/env > /tmp/env"
    sides["startContainer"] = {"path": "/bin/sh", "args": ["sh", "-c", script]}
    for entry in sides.values():
        entry["args"][-1] = entry["args"][-1].replace("exec > ", "exec >> ")
        entry.pop("env", None)
        if given is not None:
            entry["env"] = given
    bundle.config["hooks"] = {name: [entry] for name, entry in sides.items()}
    look = "grep -vE '^(PWD|OLDPWD|SHLVL|_)=' /tmp/env | sort"
    bundle.config["process"]["args"] = ["sh", "-c", look]
    (bundle.path / "rootfs/bin/grep").symlink_to("busybox")
    (bundle.path / "rootfs/bin/sort").symlink_to("busybox")
    seen = both(bundle, folder)
    said = (seen["hook"] + seen["container"]).splitlines()
    assert (seen["code"], {*sides} - {"startContainer"} <= {*said}) == (0, True), seen
    assert ("HOOK=yes" in said, "BEFORE=" in said) == (given == ENV, given is None)
    assert ("WORD=of the process" in seen["container"]) == (given is None)


def test_hooks_see_namespaces_and_devices_as_with_runc(folder: Path) -> None:
    bundle = make(folder)
    script = "ls ROOT ROOT/dev ROOT/dev/pts; hostname; stat -f -c %T ROOT/proc ROOT/sys ROOT/dev ROOT/dev/shm"
    script += "; for n in mnt uts net ipc pid; do test /proc/self/ns/$n -ef /proc/1/ns/$n && echo $n; done; true"
    bundle.config["hooks"] = {"createContainer": [hook(bundle, folder, script)]}
    bundle.config["process"]["args"] = ["true"]
    seen = both(bundle, folder)
    assert seen["code"] == 0, seen
    assert {"proc", "sysfs", "tmpfs"} <= set(seen["hook"].split())


@pytest.mark.parametrize("kind", KINDS)
def test_an_init_that_joins_a_pid_namespace_has_its_hooks_as_with_runc(folder: Path, kind: str) -> None:
    """Where the launcher waits for the hooks, unseen, and it is its pid that they get."""
    other = runtimes.bundle("sleep", "1000", folder=folder / "other")
    runtime = Runtime(SIDES["ours"], folder / "others")
    runtime.detached("run", "-d", "-b", str(other.path), "o")
    try:
        bundle = make(folder)
        for entry in bundle.config["linux"]["namespaces"]:
            if entry["type"] == "pid":
                entry["path"] = f"/proc/{runtime.state('o')['pid']}/ns/pid"
        bundle.config["hooks"] = {kind: [hook(bundle, folder, KINDS[kind])]}
        # it exists where the kernel lets a launcher mount the procfs of another pid namespace (Linux 6.17)
        seen = both(bundle, folder)
        assert seen["container"].splitlines()[2:] == ["source", "left"]
    finally:
        runtime.close()


def test_a_hook_that_fails_in_a_joined_pid_namespace_undoes_the_create(corten: Runtime, folder: Path) -> None:
    other = runtimes.bundle("sleep", "1000", folder=folder / "other")
    corten.detached("run", "-d", "-b", str(other.path), "o")
    bundle = make(folder)
    for entry in bundle.config["linux"]["namespaces"]:
        if entry["type"] == "pid":
            entry["path"] = f"/proc/{corten.state('o')['pid']}/ns/pid"
    bundle.config["hooks"] = {"prestart": [hook(bundle, folder, "echo why >&2; exit 9")]}
    bundle.save()
    done = corten("create", "--bundle", str(bundle.path), "c")
    assert done.returncode == 1
    assert "error during container init: error running hook #0: error running hook: exit status 9" in done.stderr
    assert not bundle.has_cgroup()
    assert corten("list", "-q").stdout.split() == ["o"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_link_of_the_root_leads_a_hook_where_it_leads_with_runc(folder: Path, kind: str) -> None:
    """A hook that takes a path of the root as one of the host's is led astray by its links.

    It is in the container's mount namespace, and what it does to the host's mounts there goes with the old root.
    """
    bundle = make(folder)
    (folder / "outside").mkdir()
    (bundle.path / "rootfs/link").symlink_to(folder / "outside")
    script = "mount -t tmpfs hookfs ROOT/link; touch FOLDER/outside/here; ls FOLDER/outside ROOT/link"
    script = script if kind == "createContainer" else inside(script)
    bundle.config["hooks"] = {kind: [hook(bundle, folder, script)]}
    bundle.config["process"]["args"] = ["sh", "-c", "grep hookfs /proc/self/mountinfo; ls -l /link/; echo end"]
    seen = both(bundle, folder)
    assert seen["container"].splitlines()[-1:] == ["end"], "nothing of it came to the caller's namespace"
    assert "hookfs" not in seen["container"]
    assert seen["hook"].count("here") == 2
    assert list((folder / "outside").iterdir()) == []


SWAP = "mv ROOT FOLDER/aside; ln -s FOLDER/decoy ROOT; ls FOLDER/aside/etc"


@pytest.mark.parametrize("kind", ["prestart", "createRuntime"])
def test_a_root_that_is_replaced_while_hooks_run_is_the_one_that_was_there(folder: Path, kind: str) -> None:
    """The path is looked up once: neither the place of the root nor the root changes with what is put there later."""
    bundle = make(folder)
    decoy = folder / "decoy"
    decoy.mkdir()
    bundle.config["hooks"] = {kind: [hook(bundle, folder, SWAP)]}
    bundle.config["process"]["args"] = ["sh", "-c", "cat /etc/file; ls /"]
    done = run("ours", bundle, folder)
    assert (folder / "aside/etc/file").exists(), done
    assert list(decoy.iterdir()) == []
    assert (done["code"], done["container"].splitlines()[0]) == (0, "own")


@pytest.mark.parametrize("kind", KINDS)
def test_a_root_cannot_be_moved_from_where_it_is_mounted(folder: Path, kind: str) -> None:
    bundle = make(folder)
    script = SWAP if kind == "createContainer" else inside(SWAP)
    bundle.config["hooks"] = {kind: [hook(bundle, folder, script)]}
    seen = both(bundle, folder)
    assert (seen["code"], "Device or resource busy" in seen["hook"]) == (1, True)
    assert not (folder / "aside").exists()


def test_a_root_without_pivot_has_what_hooks_mount(folder: Path) -> None:
    bundle = make(folder)
    bundle.config["hooks"] = {"createContainer": [hook(bundle, folder, ACT)]}
    runtime = Runtime(SIDES["ours"], folder / "ours")
    bundle.save()
    argv = runtime.argv("run", "--no-pivot", "--bundle", str(bundle.path), "c")
    env = {"BEFORE": "", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([*PRIVATE, *argv], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                          check=False, timeout=60)  # fmt: skip
    assert done.stdout.splitlines()[-2:] == ["source", "left"], done


@pytest.mark.parametrize("kind", ["prestart", "createContainer"])
def test_state_of_a_hook_names_a_process_in_the_namespaces(folder: Path, kind: str) -> None:
    bundle = make(folder)
    bundle.config["hooks"] = {kind: [hook(bundle, folder, "cat")]}
    for side in SIDES:
        state = json.loads(run(side, bundle, folder)["hook"])
        assert (state["status"], state["id"], state["bundle"]) == ("creating", "c", str(bundle.path))
        assert state["pid"] == 1 if kind == "createContainer" else state["pid"] > 1
