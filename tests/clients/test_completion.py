"""The completion scripts in the shells themselves, and the man pages before a reader that is strict."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.cli.completion import SCRIPTS
from support import images, paths, peers
from support.dockerd import client_environment
from support.engine import CortenEngine

CORTEN = str(paths.COMMANDS / "corten")

# Each asks the script for the line in $LINE, and prints the candidates, one a line.
BASH = (
    '. "$SCRIPT"; COMP_LINE=$LINE; COMP_POINT=${#LINE}; COMP_WORDBREAKS=$\' \\t\\n"=:\'; compopt() { :; };'
    ' _corten; printf "%s\\n" "${COMPREPLY[@]}"'
)
ZSH = (
    'source "$SCRIPT"; words=("${(@s: :)LINE}"); CURRENT=${#words};'
    ' _describe() { print -rl -- "${(@P)4}" }; _files() { print files }; _corten'
)
FISH = 'source "$SCRIPT"; complete -C "$LINE"'


def completed(shell: str, line: str, engine: CortenEngine, folder: Path) -> list[str]:
    """What `shell` would offer."""
    script = folder / f"script.{shell}"
    script.write_text(SCRIPTS[shell])
    environment = client_environment() | {"SCRIPT": str(script), "LINE": line, "DOCKER_HOST": engine.host}
    environment |= {"PATH": f"{paths.COMMANDS}:{os.environ['PATH']}", "HOME": str(folder), "LC_ALL": "C.UTF-8"}
    if shell == "bash":
        argv = ["bash", "--norc", "-c", BASH]
    elif shell == "zsh":
        argv = [str(peers.binary("zsh")), "-f", "-c", ZSH]
    else:
        environment["LD_LIBRARY_PATH"] = peers.tree("bookworm").libraries
        argv = [str(peers.binary("fish")), "--no-config", "-c", FISH]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    return [one for one in done.stdout.splitlines() if one]


@pytest.fixture
def box(shared_engine: CortenEngine) -> Iterator[str]:
    """A container with a name of its own."""
    shared_engine.corten("create", "--name", "completed-box", images.BUSYBOX_REF, "true", check=True)
    yield "completed-box"
    shared_engine.corten("rm", "completed-box", check=True)


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_shell_offers_verbs_flags_names_and_values(
    shell: str, shared_engine: CortenEngine, box: str, tmp_path: Path
) -> None:
    def offered(line: str) -> list[str]:
        found = completed(shell, line, shared_engine, tmp_path)
        return [one.partition("\t")[0] for one in found]

    def names(line: str) -> list[str]:
        """zsh has the description behind a colon."""
        return [one.partition(":")[0] if shell == "zsh" else one for one in offered(line)]

    assert names("corten sto") == ["stop"]
    assert names("corten ps --no-tr") == ["--no-trunc"]
    assert names("corten rm completed-") == [box]
    value = names("corten run --restart=unl")
    assert value == (["unless-stopped"] if shell == "bash" else ["--restart=unless-stopped"])
    assert names("corten nonesuch ") == []


def test_an_engine_that_does_not_answer_is_no_error(tmp_path: Path) -> None:
    argv = [CORTEN, "__complete", "-H", f"unix://{tmp_path}/none", "rm", ""]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60, env=client_environment())
    assert (done.returncode, done.stdout, done.stderr) == (0, ":4\n", "")


def test_the_command_prints_each_script_and_refuses_another_shell() -> None:
    for shell, script in SCRIPTS.items():
        done = subprocess.run([CORTEN, "completion", shell], check=True, capture_output=True, text=True, timeout=60)
        assert done.stdout == script
    done = subprocess.run([CORTEN, "completion", "tcsh"], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "no completion for the shell 'tcsh'" in done.stderr) == (1, True)


def test_man_pages_have_nothing_that_a_strict_reader_complains_of(tmp_path: Path) -> None:
    done = subprocess.run([CORTEN, "__manual", str(tmp_path)], check=True, capture_output=True, text=True, timeout=60)
    files = sorted(tmp_path.glob("*.1"))
    assert done.stdout == f"{len(files)} pages\n"
    assert len(files) > 60
    mandoc = str(peers.tree("bookworm").root / "usr/bin/mandoc")  # it tells no version
    found = subprocess.run(
        [mandoc, "-Tlint", "-Wwarning", *files], check=False, capture_output=True, text=True, timeout=60
    )
    assert (found.returncode, found.stdout) == (0, "")
    text = subprocess.check_output([mandoc, "-Tascii", tmp_path / "corten-run.1"], text=True, timeout=60)
    assert "C\bCo\bor\brt\bte\ben\bn" not in text.splitlines()[0]
    assert "corten-run" in text
