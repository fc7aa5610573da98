"""Further disks of the virtual machine: file systems with project quotas, and what they and an NFS server need.

XFS and ext4 are made here by Debian's programs; the third disk has the modules of the machine's kernel, the server's
programs with their libraries, and a small program for containers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from support import machine, paths, peers, programs, vm

INSIDE = machine.GUEST / "storage"
DEVICES = {"extra": "/dev/vdc", "xfs": "/dev/vdd", "ext4": "/dev/vde"}
XFS_MIB, EXT4_MIB, EXTRA_MIB = 2000, 2000, 160  # sparse; a commit leaves 512 free
PACKAGES = ("xfsprogs", "nfs-kernel-server")
LEFT_OUT = (
    "perl",
    "libperl",
    "python",
    "libpython",
    "dpkg",
    "passwd",
    "usrmerge",
    "adduser",
    "debconf",
    "tar_",
    "libicu",
)
MODULES = (
    *("drivers/block/loop.ko", "fs/quota/quota_tree.ko", "fs/quota/quota_v2.ko", "fs/xfs/xfs.ko"),
    *("fs/netfs/netfs.ko", "fs/fscache/fscache.ko", "fs/nfs_common/grace.ko", "fs/nfs_common/nfs_acl.ko"),
    *("fs/lockd/lockd.ko", "fs/nfs/nfs.ko", "fs/nfs/nfsv3.ko", "fs/nfs/nfsv4.ko", "fs/nfsd/nfsd.ko"),
)


def _packages() -> Path:
    """Unpacked, fetched once."""
    folder = paths.cache("vm")
    tree = folder / "storage"
    with peers.locked(folder):
        if not (folder / "done-storage").exists():
            for package in peers.download_with_dependencies("bookworm", PACKAGES, folder / "storage-deb"):
                if not package.name.startswith(("libc6_", *LEFT_OUT)):
                    subprocess.run(["dpkg-deb", "-x", package, tree], check=True)
            shutil.rmtree(folder / "storage-deb")
            (folder / "done-storage").touch()
    return tree


@contextmanager
def made() -> Iterator[Sequence[str]]:
    """The disks as options of QEMU, removed afterwards."""
    tree = _packages()
    folder = paths.scratch("disks")
    try:
        disks = {name: folder / name for name in DEVICES}
        _extra(tree, folder / "root", disks["extra"])
        libraries = ":".join(map(str, [*tree.glob("usr/lib/*-linux-gnu"), *tree.glob("lib/*-linux-gnu")]))
        disks["xfs"].touch()
        os.truncate(disks["xfs"], XFS_MIB << 20)
        program = tree / "sbin/mkfs.xfs"
        subprocess.run([program, "-q", disks["xfs"]], check=True, env={"LD_LIBRARY_PATH": libraries})
        quota = ("-O", "quota,project", "-E", "quotatype=prjquota,lazy_itable_init=1", "-m", "0")
        subprocess.run(["/usr/sbin/mke2fs", "-q", "-t", "ext4", *quota, disks["ext4"], f"{EXT4_MIB}M"], check=True)
        yield [
            word
            for name, path in disks.items()
            for word in (
                *("-drive", f"file={path},format=raw,if=none,cache=unsafe,id={name}"),
                *("-device", f"virtio-blk-pci,drive={name}"),
            )
        ]
    finally:
        shutil.rmtree(folder)


def _extra(tree: Path, root: Path, disk: Path) -> None:
    (root / "modules").mkdir(parents=True)
    (kernel,) = (vm._unpacked() / "lib/modules").glob("*/kernel")
    for name in MODULES:
        shutil.copy(kernel / name, root / "modules")
    programs.build(INSIDE / "project.c", root / "project")
    (root / "nfs").mkdir()
    for name in ("rpc.nfsd", "rpc.mountd", "exportfs"):
        shutil.copy(tree / "usr/sbin" / name, root / "nfs")
    shutil.copy(tree / "etc/netconfig", root / "nfs")
    for folder in (*tree.glob("usr/lib/*-linux-gnu"), *tree.glob("lib/*-linux-gnu")):
        for library in folder.glob("*.so*"):
            if library.is_file() and not (root / "nfs" / library.name).exists():
                shutil.copy(library, root / "nfs")
    machine._make_disk(root, disk, EXTRA_MIB)
