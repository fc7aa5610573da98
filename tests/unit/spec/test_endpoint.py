"""What may follow `tcp://`, with what Docker makes of it."""

from __future__ import annotations

import pytest

from corten.spec.endpoint import tcp_endpoint


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("10.0.0.1:80", ("10.0.0.1", 80)),
        ("[::1]:80", ("::1", 80)),
        (":80", ("localhost", 80)),
        ("[]:80", ("localhost", 80)),
        ("10.0.0.1", ("10.0.0.1", 2375)),
        ("10.0.0.1:", ("10.0.0.1", 2375)),
        (":", ("localhost", 2375)),
        ("", ("localhost", 2375)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
    ],
)
def test_a_missing_host_is_localhost_and_a_missing_port_dockers(text: str, endpoint: tuple[str, int]) -> None:
    assert tcp_endpoint(text) == endpoint


@pytest.mark.parametrize("text", [":x", ":70000", ":-1", ": 1", "[::1]", ":1/a"])
def test_a_port_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid port"):
        tcp_endpoint(text)
