"""What the hot verbs load while they do their work: the import budget of design §7, on a container that lives.

tests/unit/house looks at verbs that fail at once; here each runs to its end.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support import runtimes
from support.runtimes import Runtime

BANNED = {
    *("argparse", "json", "typing", "dataclasses", "pathlib", "subprocess", "ctypes", "asyncio"),
    *("signal", "socket", "enum", "re", "selectors", "logging", "threading", "collections", "contextlib"),
}

# One life; the container's id is c.
VERBS = [
    ("create", "--bundle", "BUNDLE", "c"),
    ("state", "c"),
    ("start", "c"),
    ("exec", "c", "true"),
    ("list",),
    ("pause", "c"),
    ("resume", "c"),
    ("kill", "c", "KILL"),
    ("delete", "--force", "c"),
    ("run", "--bundle", "BUNDLE", "--detach", "c"),
]


def loaded(corten: Runtime, words: list[str], folder: Path) -> tuple[set[str], set[str]]:
    """(top-level names, full names) of the modules that a verb loads."""
    interpreter, flags = Path(corten.program).read_text().splitlines()[0].removeprefix("#!").split()
    report = folder / "report"
    with report.open("wb") as stderr:
        subprocess.run(
            [interpreter, flags, "-X", "importtime", *corten.argv(*words)],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    rows = [line for line in report.read_text().splitlines() if line.startswith("import time:")]
    names = {row.rpartition("|")[2].strip() for row in rows}
    return {name.split(".")[0] for name in names}, names


def test_no_hot_verb_loads_what_the_budget_bans(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    for words in VERBS:
        argv = [word.replace("BUNDLE", str(bundle.path)) for word in words]
        tops, names = loaded(corten, argv, folder)
        assert not tops & BANNED, words
        if words[0] not in ("create", "run", "exec"):
            assert not {name for name in names if name.startswith(("corten.launch", "corten.spec"))}, words
            # each costs 0.15 ms of the 2.5 that there are beyond the bare interpreter (docs/runtime.md)
            assert len([name for name in names if name.startswith("corten")]) <= 19, words


@pytest.mark.parametrize("profile", [None, {"defaultAction": "SCMP_ACT_ALLOW"}], ids=["none", "cached"])
def test_a_seccomp_profile_loads_ctypes_once(corten: Runtime, folder: Path, profile: dict[str, str] | None) -> None:
    bundle = runtimes.bundle("true", folder=folder / "bundle")
    if profile:
        bundle.config["linux"]["seccomp"] = profile
    bundle.save()
    corten("run", "--bundle", str(bundle.path), "first", check=True)
    tops, _ = loaded(corten, ["run", "--bundle", str(bundle.path), "second"], folder)
    assert not tops & BANNED
