"""Linters are tests: a tool that is missing skips at a desk and fails in continuous integration."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from support import paths


def tool(name: str) -> Path:
    """The linter of this checkout's .venv."""
    path = paths.COMMANDS / name
    if path.exists():
        return path
    if os.environ.get("CI"):
        pytest.fail(f"{name} is missing: make setup-dev")
    pytest.skip(f"{name} is missing: make setup-dev")


def run(*argv: str | Path) -> None:
    """Runs a linter at the top of the checkout; its output is the failure."""
    done = subprocess.run(argv, check=False, cwd=paths.REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    run(tool("ruff"), "check", "--no-fix", "--output-format", "concise", ".")


@pytest.mark.timeout(300)
def test_mypy_strict_finds_nothing() -> None:
    run(tool("mypy"), "--no-error-summary", "--no-pretty")


def test_shell_scripts_parse() -> None:
    for script in ("tools/setup.sh", ".ci/run"):
        run("sh", "-n", paths.REPOSITORY / script)
