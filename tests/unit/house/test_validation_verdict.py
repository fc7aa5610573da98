"""What is read from the TAP of a validation program."""

from __future__ import annotations

import pytest

from support.validation import verdict

DIAGNOSTIC = '  ---\n  {\n    "error": "Hooks MUST be called in the listed order\\nRefer to: https://x"\n  }\n  ...\n'


@pytest.mark.parametrize(
    ("status", "stdout", "failed"),
    [
        (0, "TAP version 13\nok 1 - a\nok 2 # SKIP b\n1..2\n", set()),
        (0, "", set()),
        (0, "TAP version 13\nok 1 - a\nnot ok 2 - b is set\n1..2\n", {"b is set"}),
        (0, f"ok 1 - a\n{DIAGNOSTIC}1..1\n", set()),
        (0, f"TAP version 13\n{DIAGNOSTIC}1..0\n", {"Hooks MUST be called in the listed order"}),
        (1, "TAP version 13\n", {"exit status 1"}),
        (-9, "ok 1 - a\n", {"exit status -9"}),
    ],
)
def test_points_that_fail_diagnostics_without_points_and_the_exit_status_count(
    status: int, stdout: str, failed: set[str]
) -> None:
    found = verdict(status, stdout, "")
    assert found.failed == failed
    assert found.is_pass == (not failed)
