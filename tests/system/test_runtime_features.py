"""`features` beside runc: what it knows, we know."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support import paths, peers

# lists of the document, and what runc's has that ours lacks
LISTS: dict[tuple[str, ...], set[str]] = {
    ("hooks",): set(),
    ("mountOptions",): set(),
    ("linux", "namespaces"): set(),
    ("linux", "capabilities"): set(),
    ("linux", "seccomp", "actions"): set(),
    ("linux", "seccomp", "operators"): set(),
    ("linux", "seccomp", "archs"): set(),
}


def features(program: Path, **more: Any) -> dict[str, Any]:
    """What a runtime prints."""
    done = subprocess.run([program, "features"], check=True, capture_output=True, **more)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("place", LISTS, ids=".".join)
def test_we_know_every_word_that_runc_knows(place: tuple[str, ...]) -> None:
    ours: Any = features(paths.COMMANDS / "corten-runtime")
    theirs: Any = features(peers.binary("runc"))
    for key in place:
        ours, theirs = ours[key], theirs[key]
    assert set(theirs) - set(ours) <= LISTS[place]


def test_it_works_without_root() -> None:
    found = features(paths.COMMANDS / "corten-runtime", user=65534, group=65534, extra_groups=[], env={})
    assert found == features(paths.COMMANDS / "corten-runtime")
