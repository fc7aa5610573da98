"""The runtime on a host with cgroup v2 alone, in a virtual machine with Debian's kernel 6.1 (about a minute)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support import summary, vm

CHECKS = Path(__file__).parent / "guest" / "runtime_v2.py"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_runtime_works_on_cgroup_v2() -> None:
    console = vm.run(CHECKS)
    lines = re.findall(r"^((?:not )?ok \w+.*)\r?$", console, re.MULTILINE)
    for line in lines:
        summary.add("runtime on cgroup v2", line)
    assert re.search(r"^END\r?$", console, re.MULTILINE), console[-3000:]
    assert not [line for line in lines if line.startswith("not ok")]
    assert len(lines) == CHECKS.read_text().count("@check\n")
