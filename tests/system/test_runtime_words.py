"""The words of runc's command line and the keys of its JSON, read from Debian's runc: ours has each of them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import paths, peers, runcwords, runtimes
from support.runtimes import Runtime

PROGRAMS = {"ours": paths.COMMANDS / "corten-runtime", "theirs": peers.binary("runc")}
FLAG = re.compile(r"^   --([\w-]+)( value)?(?:, -(\w))?(?: value)?(?:  |$)", re.MULTILINE)


def run(program: Path, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program), *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        cwd=cwd,
    )


def shown(program: Path, verb: str) -> dict[str, tuple[str, bool]]:
    """Long name: (short name, whether it takes a value), as a help tells it."""
    text = run(program, *filter(None, (verb, "--help"))).stdout
    return {long: (short, bool(value)) for long, value, short in FLAG.findall(text)} | {"help": ("h", False)}


@pytest.mark.parametrize("verb", runcwords.FIRST)
def test_every_flag_in_the_help_of_runc_is_in_ours(verb: str) -> None:
    theirs = shown(PROGRAMS["theirs"], verb)
    assert theirs == runcwords.flags(runcwords.FIRST[verb]) | {"help": ("h", False)}, "the table is not that of 1.1"
    ours = shown(PROGRAMS["ours"], verb)
    assert {name: ours.get(name) for name in theirs} == theirs


def test_every_verb_of_runc_is_one_of_ours() -> None:
    names = {}
    for name, program in PROGRAMS.items():
        text = run(program, "--help").stdout
        names[name] = set(re.findall(r"^   (\w+)", text.partition("COMMANDS:")[2].partition("GLOBAL")[0], re.MULTILINE))
    assert names["theirs"] - names["ours"] == {"help"}


@pytest.fixture
def both(folder: Path) -> Iterator[dict[str, Runtime]]:
    """A container `c` of each runtime, running, in the same bundle."""
    found = {name: Runtime(program, folder / name) for name, program in PROGRAMS.items()}
    for name, runtime in found.items():
        bundle = runtimes.sleeper(folder / f"of-{name}")
        bundle.config["annotations"] = {"a.b": "c"}
        bundle.config["linux"]["resources"]["pids"] = {"limit": 50}  # of the sample; runc has no default
        runtime.detached("run", "--detach", "--bundle", str(bundle.save().path), "c")
    yield found
    for runtime in found.values():
        runtime.close()


def keys(value: Any, where: str = "") -> set[str]:
    """Path and type of every value."""
    if isinstance(value, dict):
        return {path for key, inner in value.items() for path in keys(inner, f"{where}/{key}")}
    if isinstance(value, list) and value:
        return {path for inner in value for path in keys(inner, f"{where}/[]")}
    return {f"{where} {type(value).__name__}"}


def printed(runtime: Runtime, *words: str) -> set[str]:
    return keys(json.loads(runtime(*words, check=True).stdout))


@pytest.mark.parametrize(
    "words",
    [("state", "c"), ("list", "-f", "json"), ("ps", "-f", "json", "c"), ("events", "--stats", "c")],
    ids=" ".join,
)
def test_a_document_has_the_keys_of_runcs(both: dict[str, Runtime], words: tuple[str, ...]) -> None:
    ours, theirs = (printed(both[name], *words) for name in ("ours", "theirs"))
    assert theirs - ours == set()
    own = {"state": "/corten/", "list": "/[]/corten/"}.get(words[0])
    assert {path for path in ours - theirs if own is None or not path.startswith(own)} == set()


def test_a_log_format_that_is_none_is_told_in_runcs_words() -> None:
    said = [run(program, "--log-format", "x", "list").stderr.partition("level=")[2] for program in PROGRAMS.values()]
    assert said[0] == said[1] == 'error msg="invalid log-format: x"\n'
