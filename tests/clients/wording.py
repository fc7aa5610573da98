"""Texts of one client that differ between its builds."""

from __future__ import annotations

import functools
import subprocess

from support import peers


@functools.cache
def _is_debians() -> bool:
    argv = [str(peers.docker_cli()), "--version"]
    return "+dfsg" in subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


def worded_anew(text: str) -> str:
    """What is wrong about a port is told by go-connections; Debian's build has an older one: capitals, and a stop."""
    if not _is_debians():
        return text
    return text.lower().replace("for the port:", "for port:").replace("for ports.", "for ports")
