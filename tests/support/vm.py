"""Debian 12's kernel in a virtual machine by software emulation: Linux 6.1, cgroup v2 alone, AppArmor.

This machine has none of the three.  qemu and the kernel are Debian's packages, unpacked into the cache folder; the
machine boots from an archive in memory and ends by itself.  A boot takes about two seconds, work in it is some ten
times slower than outside.
"""

from __future__ import annotations

import gzip
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from support import images, paths, peers

PACKAGES = ("qemu-system-x86", "linux-image-cloud-amd64")
COMMAND_LINE = "console=ttyS0 quiet panic=-1"
TIMEOUT_S = 300
BEGIN, END = "--- begin ---", "--- end ---"

# from the archive in memory, which pivot_root(2) cannot leave, into a tmpfs
FIRST = """\
#!/bin/busybox sh
/bin/busybox mount -t tmpfs tmpfs /new
/bin/busybox cp -a /bin /work /new/
/bin/busybox mkdir /new/proc /new/sys /new/dev /new/run /new/tmp
exec /bin/busybox switch_root /new /work/init
"""
SECOND = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t securityfs security /sys/kernel/security
echo '{begin}'
{script}
echo '{end}'
poweroff -f
"""


def run(script: str, files: Mapping[str, bytes]) -> list[str]:
    """Boots, runs a busybox script with `files` in /work, and gives back the lines that it wrote."""
    folder = paths.scratch("vm")
    try:
        archive = folder / "archive.gz"
        archive.write_bytes(_archive(folder / "root", script, files))
        output = _boot(archive)
    finally:
        subprocess.run(["rm", "-rf", folder], check=True)
    assert BEGIN in output, f"the machine did not come up:\n{output[-3000:]}"
    assert END in output, f"the script did not end:\n{output[-3000:]}"
    return output.partition(BEGIN)[2].partition(END)[0].strip().splitlines()


def _boot(archive: Path) -> str:
    tree = _programs()
    (kernel,) = (tree / "boot").glob("vmlinuz-*")
    libraries = [str(tree / name) for name in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")]
    firmware = [word for name in ("qemu", "seabios") for word in ("-L", str(tree / "usr/share" / name))]
    machine: list[str | Path] = [
        tree / "usr/bin/qemu-system-x86_64",
        *firmware,
        "-accel",
        "tcg",
        "-m",
        "512",
        "-nographic",
    ]
    start: list[str | Path] = [
        "-no-reboot",
        "-nic",
        "none",
        "-kernel",
        kernel,
        "-initrd",
        archive,
        "-append",
        COMMAND_LINE,
    ]
    done = subprocess.run(
        [*machine, *start],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT_S,
        env={**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)},
    )
    return done.stdout.decode(errors="replace").replace("\r", "")


def _archive(root: Path, script: str, files: Mapping[str, bytes]) -> bytes:
    """What the kernel unpacks into memory at boot (cpio, newc)."""
    for name in ("bin", "new", "work"):
        (root / name).mkdir(parents=True)
    contents = {
        "bin/busybox": images.BUSYBOX.read_bytes(),
        "init": FIRST.encode(),
        "work/init": SECOND.format(script=script, begin=BEGIN, end=END).encode(),
        **{f"work/{name}": data for name, data in files.items()},
    }
    for name, data in contents.items():
        (root / name).write_bytes(data)
        (root / name).chmod(0o755)
    names = "\n".join(sorted(str(path.relative_to(root)) for path in root.rglob("*")))
    packed = subprocess.run(
        [images.BUSYBOX, "cpio", "-o", "-H", "newc"],
        check=True,
        cwd=root,
        input=names.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    return gzip.compress(packed.stdout, compresslevel=1)


def _programs() -> Path:
    """The unpacked packages, with what they need and this machine has not installed."""
    folder = paths.cache("vm")
    with peers.locked(folder):
        if not (folder / "done").exists():
            debs = folder / "debs"
            (debs / "partial").mkdir(parents=True, exist_ok=True)
            options = ["-o", f"Dir::Cache::archives={debs}", "-o", "Debug::NoLocking=1", "--no-install-recommends"]
            subprocess.run(
                ["apt-get", "install", "-q", "-y", "--download-only", *options, *PACKAGES],
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for deb in sorted(debs.glob("*.deb")):
                subprocess.run(["dpkg-deb", "-x", deb, folder / "root"], check=True)
            # the kernel's modules are not needed, and most of the size
            subprocess.run(
                ["rm", "-rf", debs, folder / "root/lib/modules", folder / "root/usr/lib/modules"], check=True
            )
            (folder / "done").touch()
    return folder / "root"
