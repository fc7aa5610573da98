"""A container with a user namespace, whose root may mount, against the flags of mounts that the host has bound into it.

What the host set (ro, nosuid, nodev, noexec) and what it hides under a mount is locked for whoever got no right over
the host (mount_namespaces(7), "Restrictions"): so it is with runc, whose child makes its binds in a mount namespace of
its own.  A plan whose launcher opens them has to say so (`LockMounts`); the twin leaves that step out.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import paths, peers, rootless, runtimes, weakened_corten
from support.rootless import UserRuntime
from support.runtimes import Bundle, Runtime
from support.weakened import Edit

UNLOCKED: tuple[Edit, ...] = (("launch/filesystem.py", "if self.userns and not self.rootless:", "if False:"),)
ATTACK = """\
mount -o remount,bind,rw,suid,dev,exec /tmp 2>/dev/null && echo changed
grep ' /tmp ' /proc/self/mountinfo | cut -d' ' -f6
touch /tmp/made 2>/dev/null && echo written
umount /tmp/hidden 2>/dev/null && echo uncovered
cat /tmp/hidden/secret 2>/dev/null || echo hidden
"""
FLAGS = "ro,nosuid,nodev,noexec"


@pytest.fixture
def folder() -> Iterator[Path]:
    with runtimes.folder_of_containers("locked") as made:
        yield made


@pytest.fixture
def source(folder: Path) -> Path:
    """With a secret, over which the host mounts something."""
    made = folder / "source"
    (made / "hidden").mkdir(parents=True)
    (made / "hidden/secret").write_text("of the host\n")
    made.chmod(0o777)
    return made


def with_bind(bundle: Bundle, source: Path, *options: str) -> Bundle:
    others = [entry for entry in bundle.config["mounts"] if entry["destination"] != "/tmp"]
    bind = {"destination": "/tmp", "type": "bind", "source": str(source), "options": list(options)}
    bundle.config["mounts"] = [*others, bind]
    return bundle.save()


def below_host_mounts(source: Path, argv: list[str], *, flags: str, covers: bool) -> subprocess.CompletedProcess[str]:
    """Runs a command in a mount namespace in which `source` is bound on itself with flags, and its secret covered."""
    script = f"mount --bind {source} {source} && mount -o remount,bind,{flags} {source}"
    script += f" && mount -t tmpfs cover {source}/hidden" if covers else ""
    shell = ["unshare", "--mount", "--propagation", "private", "sh", "-c", f'{script} && exec "$@"', "sh", *argv]
    return subprocess.run(shell, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=30)


def attack(program: Path | str, folder: Path, source: Path, first: int) -> list[str]:
    """What a container says whose root is the host's `first`."""
    bundle = runtimes.bundle("sh", "-c", ATTACK, folder=folder / "bundle")
    for name in ("mount", "umount", "grep", "cut", "touch"):
        applet = bundle.path / "rootfs/bin" / name
        if not applet.is_symlink():
            applet.symlink_to("busybox")
    capabilities = {name: ["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"] for name in ("bounding", "effective", "permitted")}
    bundle.config["process"]["capabilities"] = capabilities
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    maps = [{"containerID": 0, "hostID": first, "size": 65536}]
    bundle.config["linux"].update(uidMappings=maps, gidMappings=maps)
    with_bind(bundle, source, "rbind")
    runtime = Runtime(program, folder / f"root-{os.urandom(3).hex()}")
    argv = runtime.argv("run", "-b", str(bundle.path), "c")
    return below_host_mounts(source, argv, flags=FLAGS, covers=True).stdout.splitlines()


@pytest.mark.parametrize("first", [0, 100000])
def test_flags_of_the_host_stay_as_with_runc(folder: Path, source: Path, first: int) -> None:
    ours = attack(paths.COMMANDS / "corten-runtime", folder, source, first)
    theirs = attack(peers.binary("runc"), folder, source, first)
    assert ours[0].startswith(FLAGS)
    assert ours[1:] == ["hidden"]
    assert ours == theirs
    assert not (source / "made").exists()


def test_twin_without_the_step_root_of_the_container_clears_them(folder: Path, source: Path) -> None:
    with weakened_corten.build(*UNLOCKED) as weak:
        said = attack(weak.commands / "corten-runtime", folder, source, 0)
    assert said[0] == "changed"
    assert {"written", "uncovered", "of the host"} <= set(said)
    assert (source / "made").exists()


# options on such a mount, by an ordinary user: as runc 1.1.5 has it, but for what it passes over or cannot do --------

# options: the end of ours; runc 1.1.5 leaves the flag and says nothing, from 1.2 on it refuses as well
CLEARING = {
    ("rw",): "cannot change locked flags of the mount for /tmp: mount_setattr mount.7 -ro slave",
    ("suid",): "cannot change locked flags of the mount for /tmp: mount_setattr mount.7 -nosuid slave",
    ("dev", "exec"): "cannot change locked flags of the mount for /tmp: mount_setattr mount.7 -nodev,-noexec slave",
}


@pytest.fixture
def user(folder: Path, source: Path) -> tuple[UserRuntime, UserRuntime]:
    """Both runtimes, run by uid 65534."""
    rootless.skip_unless_reached(paths.COMMANDS / "corten-runtime")
    runc = rootless.copy_for_user(peers.binary("runc"), folder)
    programs = (paths.COMMANDS / "corten-runtime", runc)
    made = [UserRuntime(program, folder / f"root of {program.name}") for program in programs]
    for runtime in made:
        runtime.root.mkdir()
    rootless.own(folder)
    return made[0], made[1]


def flags_of(runtime: Runtime, bundle: Bundle, source: Path) -> tuple[str, str]:
    """(flags of the mount, stderr)."""
    done = below_host_mounts(source, runtime.argv("run", "-b", str(bundle.path), "c"), flags=FLAGS, covers=False)
    lines = [line.split() for line in done.stdout.splitlines()]
    return next((line[5] for line in lines if line[4] == "/tmp"), ""), done.stderr


@pytest.mark.parametrize("options", [(), ("ro",), ("nosuid",), ("ro", "nosuid", "nodev", "noexec")])
def test_what_is_not_asked_to_go_stays(
    user: tuple[UserRuntime, UserRuntime], folder: Path, source: Path, options: tuple[str, ...]
) -> None:
    bundle = with_bind(
        rootless.bundle("cat", "/proc/self/mountinfo", folder=folder / "bundle"), source, "bind", *options
    )
    ours, errors = flags_of(user[0], bundle, source)
    assert (ours, errors) == (f"{FLAGS},relatime", "")
    theirs, _ = flags_of(user[1], bundle, source)
    assert theirs in {ours, ""}, "runc 1.1.5 cannot add to locked flags without naming all of them"


@pytest.mark.parametrize("options", CLEARING)
def test_what_is_asked_to_go_and_is_locked_is_refused(
    user: tuple[UserRuntime, UserRuntime], folder: Path, source: Path, options: tuple[str, ...]
) -> None:
    bundle = with_bind(
        rootless.bundle("cat", "/proc/self/mountinfo", folder=folder / "bundle"), source, "bind", *options
    )
    ours, errors = flags_of(user[0], bundle, source)
    assert ours == ""
    assert f"{CLEARING[options]}: operation not permitted" in errors
    theirs, _ = flags_of(user[1], bundle, source)
    assert theirs == f"{FLAGS},relatime"
