"""Debian 12's clang 14 with AddressSanitizer and libFuzzer, unpacked like the peers, not installed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from support import paths, peers

SUITE = "bookworm"
PACKAGES = (
    *("clang-14", "libclang-common-14-dev", "libclang-rt-14-dev", "libfuzzer-14-dev"),
    *("libllvm14", "libclang-cpp14", "libedit2", "libbsd0", "libz3-4", "libxml2", "libicu72"),
)

# The fuzzer is C++: this library is on every machine, what a compiler finds it by is not.
RUNTIME = ("-l:libstdc++.so.6",)


def root() -> Path:
    """The unpacked packages, fetched when they are not there yet."""
    folder = paths.cache("clang")
    with peers.locked(folder):
        done = folder / "done"
        if not done.exists():
            peers.download_packages(SUITE, PACKAGES, folder / "deb")
            for package in sorted((folder / "deb").glob("*.deb")):
                subprocess.run(["dpkg-deb", "-x", package, folder / "root"], check=True)
                package.unlink()
            done.touch()
    return folder / "root"


def build(output: Path, sources: Sequence[Path], *flags: str) -> None:
    """Compiles and links C sources with the sanitizers for a fuzzer that runs in process."""
    tree = root()
    home = tree / "usr/lib/llvm-14"
    (resources,) = (home / "lib/clang").glob("14*")
    sanitizers = ("-fsanitize=fuzzer,address,undefined", "-fno-sanitize=alignment", "-fno-sanitize-recover=undefined")
    argv: list[str | Path] = [
        home / "bin/clang",
        "-resource-dir",
        resources,
        "-std=gnu11",
        "-g",
        "-O1",
        *sanitizers,
        *flags,
        "-nostdlib++",
    ]
    libraries = ":".join(map(str, (*tree.glob("usr/lib/*-linux-gnu"), home / "lib")))
    done = subprocess.run(
        [*argv, "-o", output, *sources, *RUNTIME],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"LD_LIBRARY_PATH": libraries},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
