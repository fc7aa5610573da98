"""A busybox script on Debian 12's kernel: Linux 6.1, cgroup v2 alone, AppArmor.

The machine is that of `support.vm`, with nothing in it but busybox and a few files: it is up in two seconds.
"""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Mapping
from pathlib import Path

from support import images, paths, vm

TIMEOUT_S = 300.0
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
mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup /sys/fs/cgroup
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
        output = vm._boot(vm._unpacked(), archive, TIMEOUT_S).replace("\r", "")
    finally:
        subprocess.run(["rm", "-rf", folder], check=True)
    assert BEGIN in output, f"the machine did not come up:\n{output[-3000:]}"
    assert END in output, f"the script did not end:\n{output[-3000:]}"
    return output.partition(BEGIN)[2].partition(END)[0].strip().splitlines()


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
    return gzip.compress(archive(root), compresslevel=1)


def archive(root: Path) -> bytes:
    """A folder as the kernel unpacks it into memory at boot (cpio, newc)."""
    names = "\n".join(sorted(str(path.relative_to(root)) for path in root.rglob("*")))
    return subprocess.run(
        [images.BUSYBOX, "cpio", "-o", "-H", "newc"],
        check=True,
        cwd=root,
        input=names.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ).stdout
