"""A virtual machine with Debian's stock kernel and cgroup v2, for what the machine of the tests does not have.

QEMU, the kernel and cpio are Debian packages, downloaded and unpacked into the cache, never installed.  KVM is not
used: software emulation boots to our init in some seconds.  The machine has no disk: everything is in its initial
file system, which the guest copies to a tmpfs (pivot_root(2) cannot leave an initial file system).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from support import paths, peers

PACKAGES = ("qemu-system-x86", "linux-image-cloud-amd64", "cpio")
MEMORY_MIB = 2048
APPLETS = ("sh", "mount", "mkdir", "cp", "switch_root", "poweroff", "sync", "cat", "sleep", "head", "tail", "mknod")
LEFT_OUT = ("test", "dist-packages", "idlelib", "ensurepip", "lib2to3", "pydoc_data", "tkinter", "turtledemo")

INIT = """\
#!/bin/sh
mount -t tmpfs -o size=1g tmpfs /new
for name in bin usr lib lib64 etc repository box init2; do cp -a /$name /new/; done
mkdir -p /new/proc /new/sys /new/dev /new/tmp /new/run
exec switch_root /new /init2
"""
INIT_2 = """\
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
mount -t tmpfs run /run
PATH=/usr/bin:/bin {interpreter} -I /box/checks.py
sync
poweroff -f
"""


def run(script: Path, *, timeout_s: float = 300) -> str:
    """Boots, runs a Python script (standard library; the repository is at /repository) and gives the console's text."""
    tree = _unpacked()
    folder = paths.scratch("vm")
    try:
        _fill(folder / "root", script)
        image = folder / "initrd"
        names = subprocess.run(["find", "."], cwd=folder / "root", check=True, capture_output=True).stdout
        cpio = subprocess.run(
            [tree / "bin/cpio", "-o", "-H", "newc", "--quiet"],
            input=names,
            cwd=folder / "root",
            check=True,
            capture_output=True,
        )
        image.write_bytes(cpio.stdout)
        return _boot(tree, image, timeout_s)
    finally:
        shutil.rmtree(folder)


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


def _fill(root: Path, script: Path) -> None:
    """The guest's file system: busybox, this interpreter, the repository's code, the script, a rootfs to contain."""
    for name in ("bin", "usr/bin", "usr/lib", "lib64", "etc", "new", "proc", "sys", "dev", "repository", "box"):
        (root / name).mkdir(parents=True)
    interpreter = Path(sys.executable).resolve()
    for program in (Path("/bin/busybox"), interpreter):
        _copy(program, root)
    for name in APPLETS:
        if not (root / "bin" / name).exists():
            (root / "bin" / name).symlink_to("busybox")
    for library in ("libseccomp.so.2", "libffi.so.8"):
        found = next(Path("/usr/lib").glob(f"*-linux-gnu/{library}"))
        _copy(found, root)
    standard = Path(os.__file__).parent
    shutil.copytree(standard, root / str(standard)[1:], ignore=shutil.ignore_patterns(*LEFT_OUT, "config-*", "*.opt-*"))
    shutil.copytree(paths.REPOSITORY / "src", root / "repository/src")
    shutil.copytree(paths.REPOSITORY / "build/launcher", root / "repository/build/launcher")
    shutil.copy(script, root / "box/checks.py")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    for path, text in (("init", INIT), ("init2", INIT_2.format(interpreter=interpreter))):
        (root / path).write_text(text)
        (root / path).chmod(0o755)


def _copy(program: Path, root: Path) -> None:
    """A program or library and the shared libraries that it loads, each at its own path."""
    listing = subprocess.run(["ldd", program], check=False, capture_output=True, text=True).stdout
    for path in (str(program), *re.findall(r"/\S+", listing.replace(f"{program}:", ""))):
        target = root / path[1:]
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)


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
            *("-append", f"console=ttyS0 quiet panic=-1 {words}".rstrip()),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=timeout_s,
        env={"LD_LIBRARY_PATH": libraries, "PATH": "/usr/bin:/bin"},
    )
    return done.stdout.decode(errors="replace")
