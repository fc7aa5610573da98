"""The import budget of design §7: what a cold start of each command may load, seen from outside (-X importtime).

The installed file is run as dockerd runs it, with the interpreter and flags of its first line.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

import pytest

from support import paths

# Each costs 3 to 48 ms on a cold start.
BANNED = {
    *("argparse", "json", "typing", "dataclasses", "pathlib", "subprocess", "ctypes", "asyncio"),
    *("signal", "socket", "enum", "re", "selectors", "logging", "threading", "inspect", "contextlib", "collections"),
    *("msgspec", "aiohttp", "click", "rich", "site"),
}
BANNED_FOR_SHIM = {
    *("argparse", "typing", "dataclasses", "asyncio", "logging", "inspect"),
    *("msgspec", "aiohttp", "site", "sqlite3"),
}
# click parses every command line (25 of the 80 ms); what only some verbs need is loaded by them
BANNED_FOR_CLI = {"argparse", "asyncio", "logging", "sqlite3", "msgspec", "aiohttp", "rich", "site", "subprocess"}

NOWHERE = "unix:///nonexistent/corten.sock"

HOT = [
    ("corten-runtime", ["--version"]),
    ("corten-runtime", ["--root", "/nonexistent/root", "state", "nobody"]),
    ("corten-runtime", ["--root", "/nonexistent/root", "start", "nobody"]),
    ("corten-runtime", ["--root", "/nonexistent/root", "kill", "nobody", "9"]),
    ("corten-runtime", ["--root", "/nonexistent/root", "delete", "--force", "nobody"]),
    ("corten-runtime", ["--root", "/nonexistent/root", "exec", "nobody", "true"]),
    ("corten-runtime", ["--root", "/nonexistent/root", "run", "--bundle", "/nonexistent/bundle", "nobody"]),
    ("corten-runtime", ["--root", "/nonexistent/root", "create", "--bundle", "/nonexistent/bundle", "nobody"]),
]
CLI = [["--version"], ["-H", NOWHERE, "ps"], ["-H", NOWHERE, "ps", "-a", "-q"]]


def loaded(command: str, arguments: Sequence[str]) -> set[str]:
    """Top-level names of the modules that a command loads."""
    path = paths.COMMANDS / command
    interpreter, flags = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#!").split()
    done = subprocess.run(
        [interpreter, flags, "-X", "importtime", path, *arguments],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
        env={"PATH": "/usr/bin:/bin"},
    )
    rows = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    names = {row.rpartition("|")[2].strip() for row in rows}
    assert any(name.startswith("corten.") for name in names), f"{command} does not start:\n{done.stderr[-800:]}"
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize(("command", "arguments"), HOT, ids=[" ".join(words) for _, words in HOT])
def test_the_runtime_loads_nothing_slow_on_a_hot_verb(command: str, arguments: list[str]) -> None:
    assert not loaded(command, arguments) & BANNED


def test_a_shim_loads_no_event_loop_and_no_typing() -> None:
    assert not loaded("corten-shim", ["--help"]) & BANNED_FOR_SHIM


@pytest.mark.parametrize("arguments", CLI, ids=" ".join)
def test_the_entry_of_the_cli_loads_nothing_that_only_some_verbs_need(arguments: list[str]) -> None:
    assert not loaded("corten", arguments) & BANNED_FOR_CLI


@pytest.mark.parametrize("command", ["corten", "cortend", "corten-runtime", "corten-shim"])
def test_a_command_starts_the_real_interpreter_without_site(command: str) -> None:
    first = (paths.COMMANDS / command).read_text(encoding="utf-8").splitlines()[0]
    interpreter, flags = first.removeprefix("#!").split()
    assert flags == "-ISE"
    assert "shims" not in interpreter
    assert len(first) <= 255
