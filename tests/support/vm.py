"""A virtual machine with Debian's stock kernel and cgroup v2, for what the machine of the tests does not have.

QEMU and the kernel are Debian packages, downloaded and unpacked into the cache, never installed.  KVM is not
used: software emulation boots to our init in some seconds.  What runs inside, and on what file system, is the caller's:
support.guest, support.machine.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from support import paths, peers

PACKAGES = ("qemu-system-x86", "linux-image-cloud-amd64")
MEMORY_MIB = 2048
LEFT_OUT = ("test", "dist-packages", "idlelib", "ensurepip", "lib2to3", "pydoc_data", "tkinter", "turtledemo")


def _unpacked() -> Path:
    """The packages and all that they need, but for libc, which every machine has; fetched once."""
    folder = paths.cache("vm")
    tree = folder / "tree"
    with peers.locked(folder):
        if not (folder / "done-tree").exists():
            for package in peers.download_with_dependencies("bookworm", PACKAGES, folder / "deb"):
                if not package.name.startswith("libc6_"):
                    subprocess.run(["dpkg-deb", "-x", package, tree], check=True)
            shutil.rmtree(folder / "deb")
            (folder / "done-tree").touch()
    return tree


def _boot(tree: Path, image: Path, timeout_s: float, *, devices: Sequence[str | Path] = (), words: str = "") -> str:
    """The console's text of a machine that ran until it turned itself off.

    `devices` are further options of QEMU, `words` go to the kernel's command line.  A machine that does not end in
    time is killed, and TimeoutExpired has what it said.
    """
    (kernel,) = (tree / "boot").glob("vmlinuz-*")
    libraries = ":".join(str(path) for path in (*tree.glob("usr/lib/*-linux-gnu"), *tree.glob("lib/*-linux-gnu")))
    done = subprocess.run(
        [
            *(tree / "usr/bin/qemu-system-x86_64", "-L", tree / "usr/share/qemu", "-L", tree / "usr/share/seabios"),
            *("-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "2", "-m", str(MEMORY_MIB), "-nographic"),
            *("-nic", "none", "-no-reboot", "-kernel", kernel, "-initrd", image, *devices),
            # the kernel's test of the timer takes a busy host for a broken timer, and panics
            *("-append", f"console=ttyS0 quiet panic=-1 no_timer_check {words}".rstrip()),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=timeout_s,
        env={"LD_LIBRARY_PATH": libraries, "PATH": "/usr/bin:/bin"},
    )
    return done.stdout.decode(errors="replace")
