"""`linux.intelRdt` where the machine has none, beside runc; where it has: `unit/runtime/test_rdt.py`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from support import peers, runtimes
from support.runtimes import Runtime

pytestmark = pytest.mark.skipif(
    " resctrl " in Path("/proc/mounts").read_text(), reason="this machine has resctrl: nothing would be refused"
)


@pytest.mark.parametrize("rdt", [{"l3CacheSchema": "L3:0=f"}, {"memBwSchema": "MB:0=20"}])
def test_without_resctrl_it_is_refused_in_runcs_words(rdt: dict[str, Any], corten: Runtime, folder: Path) -> None:
    bundle = runtimes.bundle("true", folder=folder / "bundle")
    bundle.config["linux"]["intelRdt"] = rdt
    bundle.save()
    runc = Runtime(peers.binary("runc"), folder / "runc-root")
    ours, theirs = (each("run", "-b", str(bundle.path), "c") for each in (corten, runc))
    said = [re.sub(r'.*run failed: (.*)"', r"\1", done.stderr.strip()) for done in (ours, theirs)]
    assert said[0] == said[1]
    assert ours.returncode == theirs.returncode == 1


def test_a_class_alone_is_refused_where_runc_says_nothing(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.bundle("true", folder=folder / "bundle")
    bundle.config["linux"]["intelRdt"] = {"closID": "gold"}
    done = corten("run", "-b", str(bundle.save().path), "c")
    assert done.returncode == 1
    assert "intelRdt is specified in config, but Intel RDT is not supported or enabled" in done.stderr


@pytest.mark.parametrize("flag", ["--l3-cache-schema=L3:0=f", "--mem-bw-schema=MB:0=20"])
def test_an_update_of_it_is_refused_in_runcs_words(flag: str, corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    runc = Runtime(peers.binary("runc"), folder / "runc-root")
    other = runtimes.bundle("sleep", "1000", folder=folder / "other")
    runc.detached("run", "-d", "-b", str(other.path), "c")
    try:
        said = [re.sub(r'.*msg="?(.*?)"?$', r"\1", each("update", flag, "c").stderr.strip()) for each in (corten, runc)]
        assert said[0] == said[1]
        assert "not enabled" in said[0]
    finally:
        runc.close()
