"""The real programs that tests drive, run beneath and measure beside: Debian's packages, unpacked, not installed.

Installing them would start services and edit the machine's firewall.  Each suite has an apt of its own (lists,
cache, sources below the cache folder), so that the machine's apt is left alone.  Fetched once; a lock makes several
test runs wait for each other.  The shared libraries that the binaries need are in tools/setup.sh, level dev.

Run as a program (`make peers`) it fetches everything and prints the versions.
"""

from __future__ import annotations

import fcntl
import functools
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support import paths

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

# suite: packages.  20.10 is the speed peer, 26.1 the reference for answers and texts.
PACKAGES = {
    "bookworm": (
        *("docker.io", "containerd", "runc", "crun", "tini"),
        *("podman", "conmon", "buildah", "skopeo", "umoci", "docker-registry"),
        *("libsubid4", "netavark", "aardvark-dns", "containernetworking-plugins", "golang-github-containers-common"),
        "uidmap",
        # docker-compose 1.29, with the Python that it is made for
        *("docker-compose", "python3-docker", "python3-dockerpty", "python3-docopt", "python3-dotenv", "python3-yaml"),
        *("python3-cached-property", "python3-distro", "python3-distutils", "python3-lib2to3", "python3-texttable"),
        *("python3-jsonschema", "python3-attr", "python3-pyrsistent", "python3-pkg-resources", "python3-websocket"),
        *("python3-requests", "python3-urllib3", "python3-certifi", "python3-chardet", "python3-charset-normalizer"),
        *("python3-idna", "python3-six", "libyaml-0-2"),
        *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib"),
        # file systems that a root may lie on, and the libraries of their tools
        *("xfsprogs", "btrfs-progs", "squashfs-tools", "erofs-utils", "fuse-overlayfs"),
        *("libinih1", "liburcu8", "liblzo2-2", "libfuse3-3"),
        *("openssh-server", "libwrap0", "libnsl2"),
        *("iperf3", "libiperf0", "libsctp1"),
        # what completion and man pages are read by
        *("zsh", "zsh-common", "fish", "fish-common", "libpcre2-32-0", "mandoc"),
    ),
    # the last: data only
    "trixie": (
        *("docker.io", "containerd", "docker-cli", "docker-buildx", "docker-compose"),
        "golang-github-docker-docker-dev",
    ),
    "forky": ("docker-cli",),
}

# Debian's next release moves; without it the docker CLI is Debian 13's, and the header says so.
MAY_BE_MISSING = {"forky"}

# name: (suite, path in the unpacked tree, argument that prints the version)
BINARIES = {
    "dockerd-20.10": ("bookworm", "usr/sbin/dockerd", "--version"),
    "dockerd-26.1": ("trixie", "usr/sbin/dockerd", "--version"),
    "containerd-1.6": ("bookworm", "usr/bin/containerd", "--version"),
    "containerd-shim-1.6": ("bookworm", "usr/bin/containerd-shim-runc-v2", "-v"),
    "containerd-1.7": ("trixie", "usr/bin/containerd", "--version"),
    "docker-cli-26": ("trixie", "usr/bin/docker", "--version"),
    "docker-cli-28": ("forky", "usr/bin/docker", "--version"),
    "runc": ("bookworm", "usr/sbin/runc", "--version"),
    "crun": ("bookworm", "usr/bin/crun", "--version"),
    "ctr": ("bookworm", "usr/bin/ctr", "--version"),
    "tini": ("bookworm", "usr/bin/tini-static", "--version"),
    "podman": ("bookworm", "usr/bin/podman", "--version"),
    "conmon": ("bookworm", "usr/bin/conmon", "--version"),
    "buildah": ("bookworm", "usr/bin/buildah", "--version"),
    "skopeo": ("bookworm", "usr/bin/skopeo", "--version"),
    "umoci": ("bookworm", "usr/bin/umoci", "--version"),
    "zsh": ("bookworm", "bin/zsh", "--version"),
    "fish": ("bookworm", "usr/bin/fish", "--version"),
    "sshd": ("bookworm", "usr/sbin/sshd", "-V"),
    "docker-registry": ("bookworm", "usr/bin/docker-registry", "--version"),
    "netavark": ("bookworm", "usr/lib/podman/netavark", "--version"),
    "aardvark-dns": ("bookworm", "usr/lib/podman/aardvark-dns", "--version"),
    "iperf3": ("bookworm", "usr/bin/iperf3", "--version"),
    "docker-compose-2.26": ("trixie", "usr/libexec/docker/cli-plugins/docker-compose", "version"),
    "docker-buildx": ("trixie", "usr/libexec/docker/cli-plugins/docker-buildx", "version"),
}


class PeerMissing(Exception):
    """A peer could not be fetched: a failure of the run, never a skip."""


@dataclass(frozen=True, slots=True)
class Tree:
    """One suite's unpacked packages."""

    suite: str
    root: Path

    @property
    def libraries(self) -> str:
        """An LD_LIBRARY_PATH with the libraries that only this suite has: podman's libsubid."""
        folders = [*self.root.glob("usr/lib/*-linux-gnu"), *self.root.glob("lib/*-linux-gnu")]
        return ":".join(map(str, sorted(folders, reverse=True)))

    @property
    def search_path(self) -> str:
        """A PATH that finds the tree's programs first."""
        return f"{self.root}/usr/sbin:{self.root}/usr/bin:{self.root}/sbin:{self.root}/bin"


def tree(suite: str) -> Tree:
    """The unpacked packages of `suite`, fetched when something of PACKAGES is not there yet."""
    folder = paths.cache("peers", suite)
    with locked(folder):
        missing = [name for name in PACKAGES[suite] if not (folder / "done" / name).exists()]
        if missing:
            _fetch(suite, folder, missing)
    return Tree(suite, folder / "root")


@functools.cache
def binary(name: str) -> Path:
    """The absolute path of a program of BINARIES."""
    suite, inside, _ = BINARIES[name]
    path = tree(suite).root / inside
    if not path.exists():
        raise PeerMissing(f"{name}: no {inside} in the packages of {suite}")
    return path


@functools.cache
def mirror() -> str:
    """The mirror of the machine's own apt, which has the other suites too; $CORTEN_TEST_MIRROR goes first."""
    given = os.environ.get("CORTEN_TEST_MIRROR", "")
    if given:
        return given
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    for line in _output(["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)"]).splitlines():
        name, _, uri = line.partition(" ")
        if name in {release, "stable"}:
            return uri.rstrip("/")
    raise PeerMissing(f"apt knows no mirror of {release}: set CORTEN_TEST_MIRROR")


@functools.cache
def docker_cli() -> Path:
    """The docker CLI: 28.x from PATH, or from Debian's next release while it has that; else Debian 13's 26.1."""
    found = shutil.which("docker")
    if found and is_docker_28(found):
        return Path(found)
    try:
        next_release = binary("docker-cli-28")
    except PeerMissing:
        return binary("docker-cli-26")
    return next_release if is_docker_28(next_release) else binary("docker-cli-26")


def is_docker_28(path: str | Path) -> bool:
    """Whether a docker CLI runs here and is of release 28."""
    return _output([str(path), "--version"]).startswith("Docker version 28.")


# crun refuses hybrid cgroups in which v2 has a controller, so v2 is unmounted in a namespace of its own; and 1.8 knows
# no bundle that calls itself 1.1 or 1.2, as that of dockerd 26.1 does.
_CRUN = """\
#!/bin/sh
bundle=
for word; do
    [ "$bundle" != next ] || bundle=$word
    [ "$word" != --bundle ] || bundle=next
done
[ -z "$bundle" ] || sed -i 's/"ociVersion":"1\\.[12]\\.[0-9]"/"ociVersion":"1.0.2"/' "$bundle/config.json"
exec unshare --mount --propagation private sh -c 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$0" "$@"' {crun} "$@"
"""


def crun_for_hybrid() -> Path:
    """crun in a wrapper that lets it run here, beneath any dockerd."""
    wrapper = paths.cache("peers") / "crun-hybrid"
    text = _CRUN.format(crun=binary("crun"))
    if not wrapper.exists() or wrapper.read_text() != text:
        fresh = wrapper.with_suffix(f".{os.getpid()}")
        fresh.write_text(text)
        fresh.chmod(0o755)
        fresh.rename(wrapper)
    return wrapper


def compose_1() -> tuple[list[str], dict[str, str]]:
    """docker-compose 1.29: its argv, and what its Python needs in the environment."""
    found = tree("bookworm")
    environment = {
        "PYTHONHOME": str(found.root / "usr"),
        "PYTHONPATH": str(found.root / "usr/lib/python3/dist-packages"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LD_LIBRARY_PATH": found.libraries,
    }
    return [str(found.root / "usr/bin/python3.11"), str(found.root / "usr/bin/docker-compose")], environment


def versions() -> dict[str, str]:
    """name: version of every peer that is in the cache already (fetches nothing)."""
    found = {}
    for name, (suite, inside, argument) in BINARIES.items():
        there = Tree(suite, paths.cache("peers", suite) / "root")
        if (path := there.root / inside).exists():
            match = re.search(r"\d+\.\d+[.\w~+-]*", _output([str(path), argument], there.libraries))
            found[name] = match.group() if match else "unknown"
    return found


def _output(argv: Sequence[str], libraries: str = "") -> str:
    where = os.environ | {"LD_LIBRARY_PATH": libraries} if libraries else None
    pipe = subprocess.PIPE
    return subprocess.run(
        argv, check=False, stdout=pipe, stderr=subprocess.STDOUT, text=True, timeout=60, env=where
    ).stdout


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds `<folder>/.lock` exclusively."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(suite: str, folder: Path, names: Sequence[str]) -> None:
    """Downloads and unpacks packages, each marked in `done/` when it is complete."""
    download_packages(suite, names, folder / "deb")
    for name in names:
        (package,) = (folder / "deb").glob(f"{name}_*.deb")
        subprocess.run(["dpkg-deb", "-x", package, folder / "root"], check=True)
        package.unlink()
        (folder / "done").mkdir(exist_ok=True)
        (folder / "done" / name).touch()


def download_packages(suite: str, names: Sequence[str], into: Path, *, architecture: str = "") -> None:
    """`apt-get download` from a suite, or for a machine, that need not be this one's."""
    _apt_get(suite, into, ["download", *names], architecture)


def download_with_dependencies(suite: str, names: Sequence[str], into: Path) -> list[Path]:
    """The packages and everything that they depend on, whatever is installed here: the archives' paths."""
    (into / "partial").mkdir(parents=True, exist_ok=True)
    options = ["--no-install-recommends", "--download-only", "-y", "-o", f"Dir::Cache::archives={into}"]
    _apt_get(suite, into, ["install", *options, *names])
    return sorted(into.glob("*.deb"))


def _apt_get(suite: str, into: Path, command: Sequence[str], architecture: str = "") -> None:
    """Runs an apt-get that downloads, after an update of the lists, in an empty folder."""
    into.mkdir(parents=True, exist_ok=True)
    for old in into.glob("*.deb"):
        old.unlink()
    for words in (["update"], command):
        argv = ["apt-get", "-q", *_apt_options(suite, architecture), *words]
        done = subprocess.run(argv, check=False, cwd=into, capture_output=True, text=True, timeout=900)
        if done.returncode != 0:
            raise PeerMissing(f"{' '.join(words)} ({suite}): {done.stderr.strip()}")


def _apt_options(suite: str, architecture: str = "") -> list[str]:
    """Options that give apt lists, cache and sources of its own, with no package installed."""
    home = paths.cache("apt", f"{suite}-{architecture}" if architecture else suite)
    for part in ("state/lists/partial", "cache/archives/partial"):
        (home / part).mkdir(parents=True, exist_ok=True)
    sources = home / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] {mirror()} {suite} main\n")
    settings = {
        "Dir::State": home / "state",
        "Dir::Cache": home / "cache",
        "Dir::State::status": "/dev/null",
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::preferencesparts": "-",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    if architecture:
        settings |= {"APT::Architecture": architecture, "APT::Architectures": architecture}
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def main() -> int:
    """Fetches every suite, checks that each binary runs here, prints name and version."""
    wanted = {name: suite for name, (suite, _, _) in BINARIES.items() if suite not in MAY_BE_MISSING}
    for suite in set(wanted.values()):
        tree(suite)
    cli = docker_cli()
    found = versions()
    for name in found:
        print(f"{name:16} {found[name]:28} {binary(name)}")
    print(f"{'docker':16} {_output([str(cli), '--version']).strip():28} {cli}")
    broken = [name for name in wanted if found.get(name, "unknown") == "unknown"]
    if broken:
        print(f"peers: cannot run: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
