"""Python clients that tests drive unmodified, from PyPI, in an environment of their own in the cache.

Nothing of it is imported by tests: it is what `python()` runs.  Versions are fixed, as what a generator makes of a seed
is another with another version.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from support import paths, peers

PACKAGES = (
    *("testcontainers==4.15.0", "redis==8.1.0", "docker==7.2.0"),
    *("schemathesis==4.32.5", "hypothesis==6.170.15"),
)


@functools.cache
def python() -> Path:
    """An interpreter that has PACKAGES, made once for each list of them.  Raises peers.PeerMissing."""
    mark = hashlib.sha256(repr((PACKAGES, sys.version_info[:2])).encode()).hexdigest()[:12]
    folder = paths.cache("pypi")
    made = folder / mark
    with peers.locked(folder):
        if not (made / "done").exists():
            shutil.rmtree(made, ignore_errors=True)
            _run(sys.executable, "-m", "venv", str(made))
            _run(str(made / "bin" / "pip"), "install", "-q", *PACKAGES)
            (made / "done").touch()
    return made / "bin" / "python3"


def _run(*argv: str) -> None:
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=900)
    if done.returncode != 0:
        raise peers.PeerMissing(f"{' '.join(argv)}: {done.stderr.strip()[-2000:]}")
