"""Runs make targets on a fresh machine: a new minimal Debian, in which a clone of this checkout is all there is.

The machine is a directory with mount, pid, ipc, uts and cgroup namespaces of its own, on this kernel and this network;
its cgroups are a subtree of the host's, so that neither sees what the other's tests make (where cgroup v2 is alone,
whose processes live in leaves only, they share one tree).  What a real machine would have been given by its
administrator is copied in: name servers, certificates, proxies, pip's index.  It has Python, pip and make, as the
README asks; no compiler, no venv, no client.

    tools/fresh.py [--cold] [--suite=trixie] [TARGET…] [VARIABLE=VALUE…]      default: Debian 12 (bookworm), demo test

The base system is made by debootstrap once and kept in .cache/fresh, as are the packages that apt and pip fetch; the
rest of .cache (the peers) lies beneath the machine's own.  With --cold the machine fetches everything itself.
Nothing else stays behind; what a killed run left, the next one removes.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("CORTEN_TEST_CACHE") or ROOT / ".cache")
CACHE = SHARED / "fresh"
CGROUPS = Path("/sys/fs/cgroup")
SUITES = ("bookworm", "trixie")  # the first one unless another is asked for
BASE = ("python3", "python3-pip", "make", "ca-certificates")
PREFIX = "corten-fresh-"
HOME = "srv/corten"  # of the clone, in the new machine: where an ordinary user reaches it too

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

# $0: the machine's folder; $1: its cgroup's name; $2: the caches beneath its own, or nothing; $3…: what to run.
# pivot_root, because the kernel refuses user namespaces below a chroot.
ENTER = """
set -e
folder=$0 cgroup=$1 shared=$2
shift 2
mount --bind "$folder/root" "$folder/root"
cd "$folder/root"
mount --rbind /dev dev
mount --rbind /sys sys
for tree in /sys/fs/cgroup/*/"$cgroup"; do
    [ -d "$tree" ] || continue
    mount --bind "$tree" mnt
    umount ".${tree%/*}"
    mount --move mnt ".${tree%/*}"  # in its place, not on top: crun's wrapper unmounts one of them
done
mount -t proc proc proc
mount -t tmpfs -o mode=0755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs dev/shm
if [ -n "$shared" ]; then
    mount -t overlay -o "lowerdir=$shared,upperdir=$folder/upper,workdir=$folder/work" overlay srv/corten/.cache
    mount --bind "$shared/fresh/apt" var/cache/apt/archives
    mount --bind "$shared/fresh/pip" root/.cache/pip
fi
mkdir -p mnt/old
pivot_root . mnt/old
umount --lazy /mnt/old
hostname fresh
cd /srv/corten
exec "$@"
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine's folder (root, upper, work), its cgroups, and the caches that it may read, if any."""

    folder: Path
    cgroups: Sequence[Path]
    shared: Path | None

    @property
    def root(self) -> Path:
        """Its root directory."""
        return self.folder / "root"


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
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the machine is removed
    asked = [word.removeprefix("--suite=") for word in words if word.startswith("--suite=")] or SUITES[:1]
    if not set(asked) <= set(SUITES):
        print(f"test-fresh: Corten runs on {' and '.join(SUITES)}, not on {asked[-1]}", file=sys.stderr)
        return 1
    settings = [word for word in words if "=" in word and not word.startswith("--")]
    targets = [word for word in words if "=" not in word and word != "--cold"] or ["demo", "test"]
    with one_at_a_time():
        remove_abandoned()
        with machine(base_archive(asked[-1]), None if "--cold" in words else SHARED) as made:
            for target in targets:
                status = run(made, ["make", target, *settings])
                if status != 0:
                    return status
    return 0


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Waits for another run: apt's and pip's caches are shared, and two gates at once are in each other's way."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def machine(base: Path, shared: Path | None) -> Iterator[Machine]:
    """A machine with the checkout in it; whatever happens, its folder and its cgroups are removed."""
    made = Machine(Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")), [], shared)
    made.folder.chmod(0o755)
    try:
        prepare(made, base)
        yield Machine(made.folder, make_cgroups(made.folder.name), shared)
    finally:
        remove(made.folder)


def make_cgroups(name: str) -> list[Path]:
    """One cgroup in each hierarchy of v1 and in the v2 hierarchy beside them; none where v2 is alone."""
    made = []
    for hierarchy in sorted({path.parent.resolve() for path in CGROUPS.glob("*/cgroup.procs")}):
        if (CGROUPS / "cgroup.procs").exists():
            return []
        path = hierarchy / name
        path.mkdir()
        for setting in ("cpuset.cpus", "cpuset.mems"):  # a new one has neither, and takes no process
            if (hierarchy / setting).exists():
                (path / setting).write_text((hierarchy / setting).read_text())
        if (budget := hierarchy / "cpu.rt_runtime_us").exists():  # a new one has none, and gives none
            (path / budget.name).write_text(str(int(budget.read_text()) // 2))
        made.append(path)
    return made


def remove(folder: Path) -> None:
    """Removes a machine of which no process runs any more."""
    for top in CGROUPS.glob(f"*/{folder.name}"):
        for path, _, _ in os.walk(top, topdown=False):
            Path(path).rmdir()
    subprocess.run(["rm", "-rf", "--one-file-system", folder], check=True)


def remove_abandoned() -> None:
    """Removes the machines of runs that were killed: told by the pid in the name."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        match = re.fullmatch(rf"{PREFIX}(\d+)-.*", folder.name)
        if match and not Path("/proc", match.group(1)).exists():
            remove(folder)


def base_archive(suite: str) -> Path:
    """The base system of a suite as a tar, made by debootstrap when the cache has none."""
    CACHE.mkdir(parents=True, exist_ok=True)
    archive = CACHE / f"{suite}-{'-'.join(BASE)}.tar"
    if archive.exists():
        return archive
    print(f"test-fresh: debootstrap {suite}", flush=True)
    with tempfile.TemporaryDirectory(prefix="corten-debootstrap-") as folder:
        include = f"--include={','.join(BASE)}"
        log = CACHE / "debootstrap.log"
        with log.open("w") as stream:
            command = ["debootstrap", "--variant=minbase", include, suite, folder, mirror()]
            subprocess.run(command, check=True, stdout=stream, stderr=stream)
        fresh = archive.with_suffix(".new")
        subprocess.run(["tar", "-C", folder, "--numeric-owner", "-cf", fresh, "."], check=True)
        fresh.rename(archive)
    return archive


def prepare(made: Machine, base: Path) -> None:
    """Unpacks the base system, copies what the administrator would set, clones the checkout."""
    for name in ("root", "upper", "work"):
        (made.folder / name).mkdir()
    subprocess.run(["tar", "-C", made.root, "--numeric-owner", "-xpf", base], check=True)
    made.root.chmod(0o755)  # debootstrap's own folder was private
    for pattern in COPIED:
        for path in Path("/").glob(pattern):
            target = made.root / path.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, target, dirs_exist_ok=True)
            else:
                target.unlink(missing_ok=True)
                shutil.copyfile(path, target)
    git = ["git", "-c", "safe.directory=*"]
    subprocess.run([*git, "clone", "--quiet", "--no-hardlinks", str(ROOT), str(made.root / HOME)], check=True)
    if subprocess.run([*git, "-C", ROOT, "diff", "--quiet", "HEAD"], check=False).returncode:
        print("test-fresh: what is not committed here is not in the clone", flush=True)
    for folder in ("root/.cache/pip", f"{HOME}/.cache"):
        (made.root / folder).mkdir(parents=True)
    for name in ("apt", "pip"):
        (CACHE / name).mkdir(exist_ok=True)


def run(made: Machine, argv: list[str]) -> int:
    """Runs a command in the machine; when it ends, every process that it left ends with the pid namespace."""
    print(f"test-fresh: {' '.join(argv)}", flush=True)
    began = time.monotonic()
    new = [f"--{kind}" for kind in ("mount", "pid", "ipc", "uts", "cgroup", "fork", "kill-child")]
    done = subprocess.run(
        [
            "unshare",
            *new,
            "--propagation",
            "private",
            "sh",
            "-c",
            ENTER,
            made.folder,
            made.folder.name,
            made.shared or "",
            *argv,
        ],
        check=False,
        env=environment(),
        preexec_fn=lambda: join(made.cgroups),
    )
    print(f"test-fresh: {' '.join(argv)}: status {done.returncode} after {time.monotonic() - began:.0f} s", flush=True)
    return done.returncode


def join(cgroups: Sequence[Path]) -> None:
    """Moves the calling process into cgroups, which become the roots of its cgroup namespace."""
    for path in cgroups:
        (path / "cgroup.procs").write_text("0")


def environment() -> dict[str, str]:
    """A login's environment, with the proxies and indexes of this machine."""
    kept = {key: value for key, value in os.environ.items() if key.upper() in PASSED_ON}
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return kept | {"PATH": path, "HOME": "/root", "TERM": os.environ.get("TERM", "dumb"), "LANG": "C.UTF-8"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
