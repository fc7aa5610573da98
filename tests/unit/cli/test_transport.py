"""What a request says of values that are not given."""

from __future__ import annotations

from corten.cli.transport import API_VERSION, _target


def test_a_zero_is_a_value_and_nothing_is_none() -> None:
    query = {"t": 0, "signal": "", "all": False, "names": [], "force": True, "size": None}
    assert _target("/x", query) == f"/v{API_VERSION}/x?t=0&force=1"
    assert _target("/x", {}) == f"/v{API_VERSION}/x"
