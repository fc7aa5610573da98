"""The tree of a container's files: a source is what it was when it was compared."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from corten.engine import rootview
from corten.engine.rootview import Graft
from corten.errors import Conflict


@pytest.mark.parametrize("subpath", ["", "s"])
def test_a_source_that_was_replaced_after_it_was_compared_is_not_mounted(tmp_path: Path, subpath: str) -> None:
    """The race of moby CVE-2018-15664: what another container has of the host is swapped for a link."""
    graft = Graft("/data", str(tmp_path / "source"), subpath)
    (tmp_path / "source" / "s").mkdir(parents=True)
    theirs = os.stat(tmp_path / "source" / subpath)
    (tmp_path / "source").rename(tmp_path / "was")
    (tmp_path / "outside" / "s").mkdir(parents=True)
    (tmp_path / "source").symlink_to("outside")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Conflict, match="was replaced meanwhile"):
        rootview._opened(graft, theirs)
    assert len(os.listdir("/proc/self/fd")) <= before  # less: what an earlier test left to the collector
