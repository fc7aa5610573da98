"""What the virtual machine has of a Debian beside busybox: systemd and D-Bus, AppArmor's parser, CRIU, dockerd, ctr.

Debian's packages, unpacked into the cache and from there onto the machine's base disk; nothing is installed.  Of what
they depend on, only libraries are taken.  A file that the disk has already stays: busybox's programs, the host's
libraries.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from support import paths, peers

PACKAGES = (
    *("systemd", "dbus", "dbus-bin", "dbus-daemon", "dbus-system-bus-common", "dbus-session-bus-common"),
    *("apparmor", "criu", "iptables"),
)
LEFT_OUT = re.compile(r"libc6_|lib(?:perl|python)|.*-(?:perl|modules|common)_|libprotobuf32")
FOLDERS_LEFT_OUT = {"doc", "man", "locale", "lintian", "bug", "bash-completion", "zsh", "dpkg", "python3"}
DOCKER = (
    *("usr/sbin/dockerd", "usr/sbin/docker-proxy"),
    *("usr/bin/containerd", "usr/bin/containerd-shim-runc-v2", "usr/bin/ctr"),
)

ACCOUNTS = """\
root:x:0:0:root:/root:/bin/sh
messagebus:x:100:100::/nonexistent:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
# what update-alternatives would link; criu locks a container's network with iptables-restore
IPTABLES = [f"{name}{what}" for name in ("iptables", "ip6tables") for what in ("", "-save", "-restore")]
GROUPS = "root:x:0:\ntty:x:5:\nmessagebus:x:100:\nnogroup:x:65534:\n"

# Nothing here has a use for them, and each costs a second of emulation.
MASKED = (
    *("systemd-tmpfiles-setup.service", "systemd-tmpfiles-setup-dev.service", "systemd-random-seed.service"),
    *("systemd-update-utmp.service", "systemd-sysusers.service", "systemd-timesyncd.service", "systemd-pstore.service"),
    *("systemd-tmpfiles-clean.timer", "systemd-binfmt.service", "systemd-sysctl.service", "apparmor.service"),
    *("systemd-machine-id-commit.service", "systemd-boot-system-token.service", "systemd-modules-load.service"),
    *("systemd-ask-password-console.path", "systemd-ask-password-wall.path", "proc-sys-fs-binfmt_misc.automount"),
    *("systemd-firstboot.service", "systemd-remount-fs.service", "systemd-journal-flush.service", "ldconfig.service"),
    *("dev-hugepages.mount", "sys-kernel-config.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount"),
    *("modprobe@configfs.service", "modprobe@drm.service", "modprobe@efi_pstore.service", "modprobe@fuse.service"),
    *("systemd-pcrphase.service", "systemd-pcrphase-sysinit.service", "e2scrub_all.timer"),
)
UNITS = {
    "corten.target": "[Unit]\nDescription=The tests have run\nRequires=corten.service dbus.socket\nAllowIsolate=yes\n",
    "corten.service": """\
[Unit]
Description=The tests
After=basic.target dbus.socket

[Service]
Type=oneshot
ExecStart=/checkout/session
Delegate=yes
KillMode=process
LimitNOFILE=1024:524288
LimitMEMLOCK=infinity
TasksMax=infinity
TimeoutStartSec=infinity
""",
}


def tree() -> Path:
    """The unpacked packages, fetched once for each list of them."""
    mark = hashlib.sha256(repr((PACKAGES, LEFT_OUT.pattern)).encode()).hexdigest()[:12]
    folder = paths.cache("vm")
    root = folder / f"services-{mark}"
    with peers.locked(folder):
        if not root.exists():
            older = sorted(folder.glob("services-*"), key=lambda one: one.stat().st_mtime)
            for old in older[:-1]:  # another checkout may be about to read the newest
                shutil.rmtree(old)
            fresh = folder / "services.new"
            shutil.rmtree(fresh, ignore_errors=True)
            for package in peers.download_with_dependencies("bookworm", PACKAGES, folder / "deb-services"):
                name = package.name.partition("_")[0]
                if name in PACKAGES or (name.startswith("lib") and not LEFT_OUT.match(package.name)):
                    subprocess.run(["dpkg-deb", "-x", package, fresh], check=True)
            shutil.rmtree(folder / "deb-services")
            fresh.rename(root)
            os.utime(root)
    return root


def copy_to(root: Path, source: Path) -> None:
    """Puts the tree, accounts and units onto a disk whose /bin, /sbin and /lib are links into /usr."""
    for base, folders, files in os.walk(source):
        links = [name for name in folders if os.path.islink(os.path.join(base, name))]
        folders[:] = [name for name in folders if name not in links and name not in FOLDERS_LEFT_OUT]
        inside = root / os.path.relpath(base, source)
        inside.mkdir(parents=True, exist_ok=True)
        for name in (*files, *links):
            if not os.path.lexists(inside / name):
                shutil.copy2(os.path.join(base, name), inside / name, follow_symlinks=False)
    (root / "etc/passwd").write_text(ACCOUNTS)
    (root / "etc/group").write_text(GROUPS)
    (root / "etc/machine-id").write_text("c0" * 16 + "\n")
    for name in IPTABLES:
        (root / "usr/sbin" / name).symlink_to("xtables-nft-multi")
    units = root / "etc/systemd/system"
    for name in MASKED:
        (units / name).symlink_to("/dev/null")
    for name, text in UNITS.items():
        (units / name).write_text(text)
    (units / "default.target").symlink_to("corten.target")
