"""Units of a machine whose init is systemd."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from support.process import wait_for

TIMEOUT_S = 60.0


def show(unit: str, names: Sequence[str]) -> dict[str, str]:
    """Properties of a unit, as systemd tells them."""
    argv = ["systemctl", "show", "--property", ",".join(names), unit]
    lines = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()
    return dict(line.split("=", 1) for line in lines)


def is_gone(unit: str) -> bool:
    """Whether systemd has forgotten it."""
    return show(unit, ("LoadState", "ActiveState")) == {"LoadState": "not-found", "ActiveState": "inactive"}


def wait_gone(unit: str) -> None:
    """Waits until systemd has forgotten it."""
    wait_for(lambda: is_gone(unit), f"end of {unit}", TIMEOUT_S)


def names_of(*patterns: str) -> set[str]:
    """The units that are loaded, failed ones too, and match one of the patterns."""
    argv = ["systemctl", "list-units", "--all", "--plain", "--no-legend", "--full", *patterns]
    lines = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()
    return {line.split()[0] for line in lines if line.strip()}
