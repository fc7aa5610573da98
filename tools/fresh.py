"""Runs make targets on a fresh machine: a new minimal Debian 12, in which a clone of this checkout is all there is.

The machine is a directory with mount, pid, ipc and uts namespaces of its own, on this kernel and this network.  What
a real one would have been given by its administrator is copied in: name servers, certificates, proxies, pip's index.
It has Python, pip and make, as the README asks; no compiler, no venv, no client.

    tools/fresh.py [TARGET…] [VARIABLE=VALUE…]      default: demo test

The base system is made by debootstrap once and kept in .cache/fresh.  Nothing else stays behind.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("CORTEN_TEST_CACHE") or ROOT / ".cache") / "fresh"
BASE = ("python3", "python3-pip", "make", "ca-certificates")
HOME = "root/corten"  # of the clone, in the new machine

# What makes apt and pip work here, when it is not Debian's default.
COPIED = (
    *("etc/resolv.conf", "etc/hosts", "etc/pip.conf", "etc/apt/apt.conf.d/*proxy*", "etc/apt/apt.conf.d/*Proxy*"),
    *("usr/local/share/ca-certificates", "etc/ssl/certs/ca-certificates.crt"),
)
PASSED_ON = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_CERT",
    "SSL_CERT_FILE",
)

# $0: the new root; $@: what to run.  pivot_root, because the kernel refuses user namespaces below a chroot.
ENTER = """
set -e
mount --bind "$0" "$0"
cd "$0"
mount --rbind /dev dev
mount --rbind /sys sys
mount -t proc proc proc
mount -t tmpfs -o mode=0755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mkdir -p mnt/old
pivot_root . mnt/old
umount --lazy /mnt/old
hostname fresh
cd /root/corten
exec "$@"
"""


def mirror() -> str:
    """The Debian mirror that the machine's own apt uses; $CORTEN_TEST_MIRROR goes first."""
    given = os.environ.get("CORTEN_TEST_MIRROR", "")
    if given:
        return given
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    command = ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)"]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    for name, _, uri in (line.partition(" ") for line in lines):
        if name in {release, "stable"}:
            return uri
    sys.exit(f"fresh: apt knows no mirror of {release}: set CORTEN_TEST_MIRROR")


def main(words: list[str]) -> int:
    """Makes the machine, runs each target, removes the machine; the status of the first target that failed."""
    if os.geteuid() != 0:
        print("test-fresh: needs root: namespaces and mounts", file=sys.stderr)
        return 1
    base = base_archive()
    before = set(cgroups())
    machine = Path(tempfile.mkdtemp(prefix="corten-fresh-"))
    machine.chmod(0o755)
    try:
        prepare(machine, base)
        settings = [word for word in words if "=" in word]
        for target in [word for word in words if "=" not in word] or ["demo", "test"]:
            status = run(machine, ["make", target, *settings])
            if status != 0:
                return status
        return 0
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", machine], check=True)
        for path in cgroups():
            if path not in before:
                remove_empty(path)


def cgroups() -> list[Path]:
    """Cgroups named as Corten's are: the machine shares the kernel's, and what was in them ended with it."""
    return [path for path in Path("/sys/fs/cgroup").glob("**/corten-*") if path.is_dir()]


def remove_empty(cgroup: Path) -> None:
    """Removes a cgroup and those below, unless a process is in one: then it is somebody else's."""
    for folder, _, _ in os.walk(cgroup, topdown=False):
        with contextlib.suppress(OSError):
            Path(folder).rmdir()


def base_archive() -> Path:
    """The base system as a tar, made by debootstrap when the cache has none."""
    CACHE.mkdir(parents=True, exist_ok=True)
    archive = CACHE / f"bookworm-{'-'.join(BASE)}.tar"
    if archive.exists():
        return archive
    print("test-fresh: debootstrap bookworm", flush=True)
    with tempfile.TemporaryDirectory(prefix="corten-debootstrap-") as folder:
        include = f"--include={','.join(BASE)}"
        log = CACHE / "debootstrap.log"
        with log.open("w") as stream:
            command = ["debootstrap", "--variant=minbase", include, "bookworm", folder, mirror()]
            subprocess.run(command, check=True, stdout=stream, stderr=stream)
        fresh = archive.with_suffix(".new")
        subprocess.run(["tar", "-C", folder, "--numeric-owner", "-cf", fresh, "."], check=True)
        fresh.rename(archive)
    return archive


def prepare(machine: Path, base: Path) -> None:
    """Unpacks the base system, copies what the administrator would set, clones the checkout."""
    subprocess.run(["tar", "-C", machine, "--numeric-owner", "-xpf", base], check=True)
    machine.chmod(0o755)  # debootstrap's own folder was private
    for pattern in COPIED:
        for path in Path("/").glob(pattern):
            target = machine / path.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, target, dirs_exist_ok=True)
            else:
                target.unlink(missing_ok=True)
                shutil.copyfile(path, target)
    clone = ["git", "-c", "safe.directory=*", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(machine / HOME)]
    subprocess.run(clone, check=True)


def run(machine: Path, argv: list[str]) -> int:
    """Runs a command in the machine; when it ends, every process that it left ends with the pid namespace."""
    print(f"test-fresh: {' '.join(argv)}", flush=True)
    began = time.monotonic()
    namespaces = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--propagation", "private"]
    done = subprocess.run([*namespaces, "sh", "-c", ENTER, machine, *argv], check=False, env=environment())
    print(f"test-fresh: {' '.join(argv)}: status {done.returncode} after {time.monotonic() - began:.0f} s", flush=True)
    return done.returncode


def environment() -> dict[str, str]:
    """A login's environment, with the proxies and indexes of this machine."""
    kept = {key: value for key, value in os.environ.items() if key.upper() in PASSED_ON}
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return kept | {"PATH": path, "HOME": "/root", "TERM": os.environ.get("TERM", "dumb"), "LANG": "C.UTF-8"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
