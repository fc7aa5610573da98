"""What `docker info` warns of."""

from __future__ import annotations

import pytest

from corten.engine.infowarnings import file_system, warnings

ALL = dict.fromkeys(
    ("MemoryLimit", "SwapLimit", "CpuCfsQuota", "CpuCfsPeriod", "CPUShares", "CPUSet", "IPv4Forwarding"), True
)


def test_a_kernel_that_has_everything_and_a_unix_socket_warn_of_nothing() -> None:
    assert warnings(ALL, ["unix:///s", "fd://"], is_tls=False, is_verified=False) == []


def test_what_the_kernel_lacks_is_told() -> None:
    found = warnings({**ALL, "SwapLimit": False, "IPv4Forwarding": False}, [], is_tls=False, is_verified=False)
    assert found == ["WARNING: No swap limit support", "WARNING: IPv4 forwarding is disabled"]


@pytest.mark.parametrize(
    ("is_tls", "is_verified", "text"),
    [
        (False, False, "http://0.0.0.0:2375 without encryption."),
        (True, False, "https://0.0.0.0:2375 without TLS client verification."),
        (True, True, ""),
    ],
)
def test_an_open_api_is_told(is_tls: bool, is_verified: bool, text: str) -> None:
    found = warnings(ALL, ["tcp://0.0.0.0:2375"], is_tls=is_tls, is_verified=is_verified)
    assert [line.split("\n")[0] for line in found] == ([f"WARNING: API is accessible on {text}"] if text else [])


def test_proc_is_a_file_system_of_its_own() -> None:
    assert file_system("/proc") == "proc"
