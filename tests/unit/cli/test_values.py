"""What the CLI may not import is the same as where it is ruled."""

from __future__ import annotations

import pytest

from corten.cli import values
from corten.errors import InvalidArgument
from corten.launch.checks import IPC_SYSCTLS
from corten.spec.runtime import RLIMITS


def test_sysctls_are_those_that_the_launch_knows() -> None:
    for name in IPC_SYSCTLS:
        assert values.sysctl(f"{name}=1") == f"{name}=1"
    with pytest.raises(InvalidArgument, match=r"kernel.domainname=x' is not allowed"):
        values.sysctl("kernel.domainname=x")


def test_ulimits_are_the_kernels_but_the_one_that_docker_leaves_out() -> None:
    known = {name.removeprefix("RLIMIT_").lower() for name in RLIMITS}
    for name in known - {"as"}:
        assert values.ulimit(f"{name}=1:2") == {"Name": name, "Soft": 1, "Hard": 2}
    with pytest.raises(InvalidArgument, match="invalid ulimit type: as"):
        values.ulimit("as=1")
