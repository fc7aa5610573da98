"""The whole engine on the machine that most users have: Debian's kernel, cgroup v2 alone, AppArmor, a shared `/`.

The machine is that of `support.vm`, with two disks: one that is kept in the cache (a small userland, the interpreter,
the packages of .venv, the docker CLI, dockerd, the packages of `support.services`, the kernel's modules), and this
checkout, mounted at its own path.  Its init is systemd, or a script that does what systemd does before a service
starts; then pytest runs inside and writes a JSON line per test to the second serial port.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from support import guest, images, paths, peers, services, vm

BASE_MIB, CHECKOUT_MIB = 1536, 128
GUEST = paths.REPOSITORY / "tests" / "system" / "guest"
ENGINE = GUEST / "engine"
END = "=== the machine has done its work ==="

PROGRAMS = ("ip", "nft", "nsenter", "unshare", "mount", "tar", "setpriv")  # of the host: busybox's do less, or are none
PEERS = ("podman", "conmon")  # with the libraries that only their suite has
CRUN = "/usr/local/lib/crun"  # where podman does not look for its runtime
LIBRARIES = ("libseccomp.so.2", "libnftables.so.1", "libffi.so.8")  # opened by ctypes, or by what ctypes opens
SITE_LEFT_OUT = (
    *("mypy*", "*__mypyc*", "ruff*", "pip", "pip-*", "setuptools*", "pkg_resources", "ast_serialize*", "librt*"),
    *("execnet*", "xdist*", "_cffi.cpython*", "pathspec*"),
)
MODULES = (
    *("net", "lib", "crypto", "arch/x86/crypto", "fs/overlayfs", "fs/fuse", "drivers/net", "drivers/virtio", "block"),
)
# Two memory nodes with a processor each, for `devices` of `run`.
TWO_NODES = tuple(
    word
    for node in (0, 1)
    for word in (
        *("-object", f"memory-backend-ram,id=node{node},size={vm.MEMORY_MIB // 2}M"),
        *("-numa", f"node,nodeid={node},cpus={node},memdev=node{node}"),
    )
)
BLOCK = "kernel/drivers/block/virtio_blk.ko"
# in the order in which they need each other
BOOT_MODULES = (
    *("virtio/virtio_ring.ko", "virtio/virtio.ko", "virtio/virtio_pci_legacy_dev.ko"),
    *("virtio/virtio_pci_modern_dev.ko", "virtio/virtio_pci.ko", "block/virtio_blk.ko"),
)

# What the kernel finds in memory: the disk's driver, then the disk.
FIRST = """\
#!/bin/busybox sh
for name in {modules}; do /bin/busybox insmod /modules/$name; done
/bin/busybox mount -t devtmpfs dev /dev
until [ -b /dev/vda ] && [ -b /dev/vdb ]; do /bin/busybox sleep 0.05; done
/bin/busybox mount -t ext4 -o noatime /dev/vda /new
/bin/busybox mount -t ext4 -o noatime /dev/vdb /new/checkout
exec /bin/busybox switch_root /new /checkout/init
"""

# What systemd has done before a service starts: mounts, one shared tree, controllers handed down, a cgroup of its own.
PLAIN = """\
#!/bin/busybox sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t devtmpfs -o nosuid,mode=755 dev /dev
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o nosuid,noexec,gid=5,mode=620,ptmxmode=000 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev tmpfs /dev/shm
mount -t mqueue -o nosuid,nodev,noexec mqueue /dev/mqueue
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs /run
mount -t securityfs -o nosuid,nodev,noexec securityfs /sys/kernel/security
mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
mount -t bpf -o nosuid,nodev,noexec,mode=700 bpf /sys/fs/bpf
mkdir -p {repository}
mount --bind /checkout {repository}
mount --bind /packages {repository}/.venv/lib
mount --make-rshared /
mkdir -p /sys/fs/cgroup/system.slice/corten.service /sys/fs/cgroup/init.scope
echo $$ > /sys/fs/cgroup/init.scope/cgroup.procs
for place in /sys/fs/cgroup /sys/fs/cgroup/system.slice; do
    echo "+cpuset +cpu +io +memory +pids" > $place/cgroup.subtree_control
done
ln -s /proc/self/fd /dev/fd
hostname machine
ulimit -Hn 524288
ulimit -Sn 1024
(
    echo 0 > /sys/fs/cgroup/system.slice/corten.service/cgroup.procs
    exec /checkout/session
)
"""

# systemd mounts what it needs itself; the units are those of support.services.
SYSTEMD = """\
#!/bin/busybox sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p {repository}
mount --bind /checkout {repository}
mount --bind /packages {repository}/.venv/lib
exec /usr/lib/systemd/systemd
"""
INITS = {"plain": PLAIN, "systemd": SYSTEMD}

# In the service's cgroup, in either machine.
SESSION = """\
#!/bin/busybox sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
ip link set lo up
stty -F /dev/ttyS1 raw -echo
(
    cd {repository}
    export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 CORTEN_TEST_CACHE={repository} PYTHONPATH=src:tests
    exec {command}
) < /dev/null > /dev/ttyS0 2>&1
echo '{end}' > /dev/ttyS0
sync
poweroff -f
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one test inside; `text` is pytest's, with the end of the engine's log."""

    file: str
    name: str
    outcome: str
    seconds: float
    text: str


@dataclass(frozen=True, slots=True)
class Run:
    """All outcomes of one boot, and what the console said."""

    outcomes: Mapping[str, Outcome]
    console: str

    def expect(self, name: str) -> None:
        """AssertionError with the text from inside when that test, or one of its parameters, did not pass."""
        found = [one for one in self.outcomes.values() if one.name.partition("[")[0] == name]
        assert found, f"{name} did not run in the machine; the end of its console:\n{self.console[-3000:]}"
        texts = [f"in the machine: {one.name}: {one.outcome}\n{one.text}" for one in found if one.outcome != "passed"]
        assert not texts, "\n".join(texts)


def names(*, slow: bool, inside: Path = ENGINE) -> list[str]:
    """The tests in a folder, by the functions' names; `slow` chooses those that are marked so, or the others."""
    found = []
    for path in sorted(inside.glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marks = [ast.unparse(mark) for mark in node.decorator_list]
                if ("pytest.mark.slow" in marks) == slow:
                    found.append(node.name)
    return found


def run(
    options: Sequence[str],
    *,
    timeout_s: float,
    inside: Path = ENGINE,
    files: Sequence[str] = ("",),
    init: str = "plain",
    words: str = "",
    devices: Sequence[str] = (),
) -> Run:
    """Boots and runs pytest on the tests of the folder `inside`; ends after `timeout_s` at the latest.

    `options` are further ones of pytest, `files` are the tests that run, all by default, `init` is a key of INITS,
    `words` go to the kernel's command line, `devices` are further options of QEMU.
    """
    tree = vm._unpacked()
    folder = paths.scratch("machine")
    try:
        disk, archive, report = folder / "disk", folder / "archive", folder / "report"
        targets = [str(inside / file) for file in files]
        _fill_checkout(folder / "checkout", [*options, *targets], inside, INITS[init])
        _make_disk(folder / "checkout", disk, CHECKOUT_MIB)
        archive.write_bytes(_first(folder / "first", tree))
        drives = ((_base(tree), "snapshot=on,id=base"), (disk, "id=checkout"))
        disks = [
            *(f"-drive\nfile={path},format=raw,if=none,cache=unsafe,{words}" for path, words in drives),
            *("-device\nvirtio-blk-pci,drive=base", "-device\nvirtio-blk-pci,drive=checkout"),
            *("-serial\nmon:stdio", f"-serial\nfile:{report}"),
        ]
        flat = [*(word for pair in disks for word in pair.split("\n")), *devices]
        line = f"apparmor=1 security=apparmor {words}".rstrip()
        try:
            console = vm._boot(tree, archive, timeout_s, devices=flat, words=line)
        except subprocess.TimeoutExpired as error:
            console = (error.stdout or b"").decode(errors="replace") + f"\n(not done after {timeout_s:.0f} s)"
        return Run(_outcomes(report), console.replace("\r", ""))
    finally:
        shutil.rmtree(folder)


def _outcomes(report: Path) -> dict[str, Outcome]:
    """The lines of the second serial port; the last one may be torn."""
    found = {}
    for line in report.read_text(errors="replace").splitlines() if report.exists() else ():
        if line.startswith("{") and line.endswith("}"):
            outcome = Outcome(**json.loads(line))
            found[f"{outcome.file}::{outcome.name}"] = outcome
    return found


def _base(tree: Path) -> Path:
    """The disk with all but the checkout: made once for a set of programs and packages, kept in the cache."""
    folder = paths.cache("vm")
    path = folder / f"base-{_stamp(tree)}.img"
    packages = services.tree()
    with peers.locked(folder):
        if not path.exists():
            older = sorted(folder.glob("base-*.img"), key=lambda one: one.stat().st_mtime)
            for old in older[:-1]:  # another checkout may be about to open the newest
                old.unlink()
            scratch = paths.scratch("base")
            try:
                _fill_base(scratch, tree, packages)
                fresh = path.with_suffix(".new")
                _make_disk(scratch, fresh, BASE_MIB)
                fresh.rename(path)
            finally:
                shutil.rmtree(scratch)
    return path


def _stamp(tree: Path) -> str:
    """What the base is made of: this file, the kernel, packages of the .venv, the host's programs."""
    programs = [images.BUSYBOX, peers.docker_cli(), peers.binary("runc"), Path(sys.executable).resolve()]
    programs += [_program(name) for name in PROGRAMS] + [peers.binary(name) for name in PEERS] + list(_docker())
    facts = [Path(__file__).read_text(), Path(services.__file__).read_text()]
    facts += [path.name for path in (tree / "boot").iterdir()]
    facts += [f"{path} {path.stat().st_mtime_ns} {path.stat().st_size}" for path in programs]
    facts += sorted(path.name for path in _site().iterdir() if path.suffix == ".dist-info")
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]


def _site() -> Path:
    (site,) = (paths.REPOSITORY / ".venv/lib").glob("python3*/site-packages")
    return site


def _program(name: str) -> Path:
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    assert found, f"{name} is not installed"
    return Path(found)


def _fill_base(root: Path, tree: Path, packages: Path) -> None:
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for name in ("checkout", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var/lib", "var/tmp"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    (root / "var/run").symlink_to("/run")
    _userland(root)
    services.copy_to(root, packages)
    _modules(root, tree)
    _python(root)
    shutil.copytree(_site().parents[1], root / "packages", ignore=shutil.ignore_patterns(*SITE_LEFT_OUT))
    for compiled in (root / "packages").rglob("*.so"):
        _libraries_of(compiled, root)


def _userland(root: Path) -> None:
    """busybox and its applets, some programs of the host, the docker CLI, accounts."""
    applets = subprocess.run([images.BUSYBOX, "--list"], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    shutil.copy(images.BUSYBOX, root / "bin/busybox")
    for name in applets:
        folder = root / ("sbin" if name in {"modprobe", "init"} else "bin")
        if name != "busybox":
            (folder / name).symlink_to("/bin/busybox")
    for name in PROGRAMS:
        (root / "bin" / name).unlink(missing_ok=True)
        _copy_to(_program(name), root, f"/usr/bin/{name}")
    for library in LIBRARIES:
        found_library = next(Path("/usr/lib").glob(f"*-linux-gnu/{library}"))
        _copy_to(found_library, root, str(found_library))
    _copy_to(peers.docker_cli(), root, "/usr/local/bin/docker")
    _copy_to(peers.binary("runc"), root, "/usr/local/sbin/runc")
    _copy_to(peers.binary("crun"), root, CRUN, peers.tree("bookworm"))
    for path in _docker():
        _copy_to(path, root, str(Path("/usr") / path.parent.name / path.name))
    for name in PEERS:
        _copy_to(peers.binary(name), root, f"/usr/bin/{name}", peers.tree("bookworm"))
    (root / "etc/hostname").write_text("machine\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    shutil.copy("/etc/os-release", root / "etc/os-release")


def _docker() -> tuple[Path, ...]:
    """dockerd 26.1 with its containerd, and ctr."""
    return tuple(peers.tree("trixie").root / name for name in services.DOCKER)


def _copy_to(program: Path, root: Path, target: str, suite: peers.Tree | None = None) -> None:
    """A program or library, and the shared libraries that it loads, of `suite` or the host's, each at its own path."""
    _place(program, root / target[1:])
    environment = {**os.environ, "LD_LIBRARY_PATH": suite.libraries if suite else ""}
    listing = subprocess.run(["ldd", program], check=False, capture_output=True, text=True, env=environment).stdout
    for path in re.findall(r"(?:=> |^\s+)(/\S+)", listing, re.MULTILINE):
        own = path.removeprefix(str(suite.root)) if suite else path
        _place(Path(path), root / own[1:])


def _place(source: Path, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def _modules(root: Path, tree: Path) -> None:
    """The kernel's modules that a container engine may want, and the index by which modprobe finds them."""
    (source,) = (tree / "lib/modules").iterdir()
    target = root / "lib/modules" / source.name
    for name in MODULES:
        shutil.copytree(source / "kernel" / name, target / "kernel" / name)
    _place(source / BLOCK, target / BLOCK)
    for name in ("modules.builtin", "modules.order"):
        shutil.copy(source / name, target)
    subprocess.run([images.BUSYBOX, "depmod", "-b", root, source.name], check=True, capture_output=True)


def _python(root: Path) -> None:
    """The interpreter with its library, and what the compiled modules need."""
    interpreter = Path(sys.executable).resolve()
    _copy_to(interpreter, root, str(interpreter))
    for link in ("/usr/bin/python3", "/usr/bin/python"):
        (root / link[1:]).symlink_to(interpreter.name)
    standard = Path(os.__file__).parent
    ignore = shutil.ignore_patterns(*vm.LEFT_OUT, "config-*", "*.opt-*")
    shutil.copytree(standard, root / str(standard)[1:], ignore=ignore)
    for compiled in (standard / "lib-dynload").glob("*.so"):
        _copy_to(compiled, root, str(compiled))


def _fill_checkout(target: Path, options: Sequence[str], inside: Path, init: str) -> None:
    """src, tests, units, the launcher, the commands of .venv, the image archive, and what init runs."""
    for name in ("src", "tests", "build", "tools", "units"):
        shutil.copytree(paths.REPOSITORY / name, target / name, symlinks=True)
    shutil.copy(paths.REPOSITORY / "pyproject.toml", target)
    # what was edited since set-up would be compiled at every boot, slowly
    compile_all = [sys.executable, "-m", "compileall", "-q", "-s", str(target), "-p", str(paths.REPOSITORY)]
    subprocess.run([*compile_all, target / "src", target / "tests/support"], check=True)
    left_out = shutil.ignore_patterns("ruff", "lib", "lib64")
    shutil.copytree(paths.REPOSITORY / ".venv", target / ".venv", symlinks=True, ignore=left_out)
    (target / ".venv/lib").mkdir()
    (target / "images").mkdir()
    shutil.copy(images.busybox(), target / "images")
    command = (
        f"{sys.executable} -m pytest -c {ENGINE}/pytest.ini --rootdir {inside} --confcutdir {inside} -q --color no "
        f"{shlex.join(options)}"
    )
    for name, text in (("init", init), ("session", SESSION)):
        (target / name).write_text(text.format(repository=paths.REPOSITORY, command=command, end=END))
        (target / name).chmod(0o755)


def _libraries_of(compiled: Path, root: Path) -> None:
    listing = subprocess.run(["ldd", compiled], check=False, capture_output=True, text=True).stdout
    for path in re.findall(r"=> (/\S+)", listing):
        _place(Path(path), root / path[1:])


def _make_disk(root: Path, disk: Path, size_mib: int) -> None:
    """ext4 without a journal: nobody will need it."""
    program = shutil.which("mke2fs", path="/usr/sbin:/sbin")
    assert program, "e2fsprogs is not installed"
    options = ["-q", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1,root_owner=0:0", "-m", "0"]
    subprocess.run([program, *options, "-d", root, disk, f"{size_mib}M"], check=True, capture_output=True)


def _first(root: Path, tree: Path) -> bytes:
    """What the kernel unpacks into memory at boot (cpio, newc)."""
    for name in ("bin", "dev", "modules", "new"):
        (root / name).mkdir(parents=True)
    shutil.copy(images.BUSYBOX, root / "bin/busybox")
    (drivers,) = (tree / "lib/modules").glob("*/kernel/drivers")
    for name in BOOT_MODULES:
        shutil.copy(drivers / name, root / "modules")
    (root / "init").write_text(FIRST.format(modules=" ".join(Path(name).name for name in BOOT_MODULES)))
    (root / "init").chmod(0o755)
    return guest.archive(root)
