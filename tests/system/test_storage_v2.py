"""Sizes of containers and volumes by project quotas, on XFS and ext4, in the virtual machine: see support.machine.

The machine of the tests has no kernel with them.  Each test inside is a test here; all share one boot.
"""

from __future__ import annotations

import pytest

from support import machine, storagedisks
from support.boots import boot

TITLE = "project quotas and nfs on cgroup v2"
LONG_S = 1800.0  # two minutes on a quiet machine


@pytest.fixture(scope="module")
def long() -> machine.Run:
    """One boot with all of them."""
    with storagedisks.made() as devices:
        return boot(TITLE, slow=True, timeout_s=LONG_S, inside=storagedisks.INSIDE, devices=devices)


@pytest.mark.slow
@pytest.mark.timeout(LONG_S + 120)
@pytest.mark.parametrize("name", machine.names(slow=True, inside=storagedisks.INSIDE))
def test_storage_in_the_machine(long: machine.Run, name: str) -> None:
    long.expect(name)
