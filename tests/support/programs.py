"""Small C programs that tests run inside of containers: built without libraries, which are not there."""

from __future__ import annotations

import subprocess
from pathlib import Path


def build(source: Path, program: Path) -> Path:
    """Compiles one file to `program`, which is static; the path."""
    subprocess.run(["cc", "-O2", "-static", "-o", program, source], check=True)
    return program
