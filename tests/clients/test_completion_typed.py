"""Completion as it is typed: bash, zsh and fish on a terminal of their own, with Tab pressed in the middle of a line.

`corten` is a script here: `__complete` is the real program's but for names, which it makes up; all else it writes down.
What was run shows what the shell made of the line.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.cli.completion import SCRIPTS
from support import paths, peers
from support.dockerd import client_environment

READY = "ready-to-type"
PROGRAM = """\
#!/bin/sh
case "$1 $2" in
"__complete rm") printf 'box-one\\n:4\\n' ;;
"__complete rmi") printf 'reg:5000/a:1\\tan image\\n:4\\n' ;;
"__complete "*) exec {corten} "$@" ;;
*) printf '%s\\n' "$*" >> {record} ;;
esac
"""
# what is typed → what is run
LINES = {
    "corten sto\t box": "stop box",
    "corten ps --no-tr\t": "ps --no-trunc",
    "corten rm bo\t": "rm box-one",
    "corten rmi re\t": "rmi reg:5000/a:1",
    "corten run --restart=unl\t image": "run --restart=unless-stopped image",
    "corten load --input arch\t": "load --input archive.tar",
    "corten container renam\t box-one other": "container rename box-one other",
    "corten nonesuch x\t": "nonesuch x",
}


class Terminal:
    """A shell that reads from a pseudo-terminal; a context manager, which ends it."""

    def __init__(self, argv: list[str], environment: dict[str, str], folder: Path) -> None:
        self._master, slave = os.openpty()
        self.shown = b""
        argv = ["setsid", "--ctty", *argv]  # the same process
        self._shell = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=folder)
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._shell.send_signal(signal.SIGKILL)
        self._shell.wait()
        os.close(self._master)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def look(self, seconds: float) -> None:
        """Reads what is shown for at most so long."""
        if select.select([self._master], [], [], seconds)[0]:
            with contextlib.suppress(OSError):  # the shell has ended
                self.shown += os.read(self._master, 65536)

    def wait_for(self, path: Path, text: str) -> None:
        end = time.monotonic() + 60
        while text not in (path.read_text() if path.exists() else ""):
            assert time.monotonic() < end, f"no {text!r}; shown:\n{self.shown.decode(errors='replace')}"
            self.look(0.05)


def start(shell: str, folder: Path, environment: dict[str, str]) -> Terminal:
    """`shell`, ready to be typed at; it writes READY into the record first."""
    script = folder / f"script.{shell}"
    script.write_text(SCRIPTS[shell])
    root = peers.tree("bookworm").root
    if shell == "bash":
        (folder / ".bashrc").write_text(f"PS1='> '\n. {script}\n")
        argv = ["bash", "--rcfile", str(folder / ".bashrc"), "--noprofile", "-i"]
    elif shell == "zsh":
        (modules,) = root.glob("usr/lib/*-linux-gnu/zsh/*/zsh")
        functions = root / "usr/share/zsh/functions"
        (folder / ".zshenv").write_text(
            f"module_path=({modules.parent})\nfpath=({functions} {functions}/*(N/) {functions}/Completion/*(N/))\n"
        )
        dump = folder / "dump"
        (folder / ".zshrc").write_text(f"PS1='> '\nautoload -Uz compinit\ncompinit -u -d {dump}\n. {script}\n")
        argv = [str(peers.binary("zsh")), "-i"]
    else:
        environment = environment | {"LD_LIBRARY_PATH": peers.tree("bookworm").libraries}
        begin = f"set fish_function_path {root}/usr/share/fish/functions; source {script}"
        argv = [str(peers.binary("fish")), "--no-config", "--interactive", "--init-command", begin]
    return Terminal(argv, environment, folder)


@pytest.fixture(params=list(SCRIPTS))
def terminal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Terminal, Path]]:
    """A shell, and the file in which what it ran stands."""
    record = tmp_path / "record"
    program = tmp_path / "bin/corten"
    program.parent.mkdir()
    program.write_text(PROGRAM.format(corten=paths.COMMANDS / "corten", record=record))
    program.chmod(0o755)
    (tmp_path / "archive.tar").touch()
    environment = client_environment() | {"PATH": f"{program.parent}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
    environment |= {"HOME": str(tmp_path), "ZDOTDIR": str(tmp_path), "TERM": "dumb", "HISTFILE": ""}
    environment |= {"XDG_RUNTIME_DIR": str(tmp_path)}  # fish
    with start(request.param, tmp_path, environment) as made:
        made.type(f"corten {READY}\r")
        made.wait_for(record, READY)
        yield made, record


def test_tab_completes_what_was_begun(terminal: tuple[Terminal, Path]) -> None:
    shell, record = terminal
    for typed, run in LINES.items():
        shell.type(f"{typed}\r")
        shell.wait_for(record, f"\n{run}\n")
    assert record.read_text().splitlines() == [READY, *LINES.values()]
