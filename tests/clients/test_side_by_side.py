"""Scripts of docker CLI commands, played on dockerd 26.1 and on Corten: output, exit codes, the whole inspect."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest

from clients import side_scripts
from clients.compare import Side
from clients.normal import RULES, Normalizer
from clients.side_by_side import compare, idle, lines, table, unexplained
from support import paths, peers, process
from support.dockerd import Dockerd
from support.engine import CortenEngine

SHORT = "options of create"  # in every run; what the others show is in checks_*.py too, piece by piece


@pytest.fixture(scope="module")
def reference(dockerd: Dockerd) -> Iterator[Side]:
    """dockerd 26.1."""
    side = Side(dockerd.socket, dockerd.folder, tuple(dockerd.netns.enter))
    furnish(side)
    yield side
    process.remove_cgroups(side.parent)


@pytest.fixture(scope="module")
def corten(shared_engine: CortenEngine) -> Iterator[Side]:
    """The engine under test."""
    side = Side(shared_engine.socket, shared_engine.folder, tuple(shared_engine.netns.enter))
    furnish(side)
    yield side
    process.remove_cgroups(side.parent)


def furnish(side: Side) -> None:
    """The files that scripts name."""
    (side.shared / "env").write_text("A=b\nC=d e\n")
    (side.shared / "cid").unlink(missing_ok=True)


# of `run` alone, or of the client itself
NOT_CREATED = {"--help", "--detach", "--detach-keys", "--sig-proxy"}


def test_every_flag_of_create_and_run_is_played() -> None:
    for verb in ("create", "run"):
        done = subprocess.run([peers.docker_cli(), verb, "--help"], check=True, capture_output=True, text=True)
        flags = re.findall(r"^ +(?:(-\w), )?(--[\w-]+)", done.stdout, re.M)
        assert len(flags) > 95
        words = {word.partition("=")[0] for line in lines(side_scripts.CREATED) for word in line.split()}
        missing = {long for short, long in flags if not {short, long} & words}
        assert missing <= NOT_CREATED


LONG = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.mark.parametrize(
    "name", [name if name == SHORT else pytest.param(name, marks=LONG) for name in side_scripts.SCRIPTS]
)
def test_a_script_shows_the_same_on_both(reference: Side, corten: Side, name: str) -> None:
    script = side_scripts.SCRIPTS[name]
    found = compare(script, reference, corten, Normalizer(RULES))
    wrong = unexplained(found, side_scripts.KNOWN)
    assert not wrong, "\n".join(wrong)
    rows = idle(found, side_scripts.KNOWN, [script])
    assert not rows, f"no such difference any more, take the rows out: {rows}"


def test_every_difference_stands_in_the_documentation() -> None:
    text = (paths.REPOSITORY / "docs" / "docker-compatibility.md").read_text()
    assert table(side_scripts.KNOWN) in text, "put this into docs/docker-compatibility.md:\n" + table(
        side_scripts.KNOWN
    )
