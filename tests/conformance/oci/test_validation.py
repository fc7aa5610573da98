"""The OCI project's validation programs: each passes, or is not applicable for a reason that stands in `validated.py`.

Every program runs with Debian's runc too, whose verdict is as exact: a row that is not true any more fails.
"""

from __future__ import annotations

import platform

import pytest

from support import paths, peers, summary, validation
from support.validated import EXPECTED, PASS
from support.validation import Verdict

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the programs have a root file system for x86_64 alone"),
]
RUNTIMES = {"runc": peers.binary("runc"), "corten-runtime": paths.COMMANDS / "corten-runtime"}
TEST = "test_the_program_finds_what_it_should"
NO_MEMORY = "error adding seccomp filter rule"  # runc's own, in one of ten runs where process_rlimits limits its memory
MOST_TRIES = 20
TITLE = "OCI validation programs: corten-runtime; runc"


@pytest.fixture(scope="module")
def verdicts(request: pytest.FixtureRequest) -> dict[str, dict[str, Verdict]]:
    """runtime: program: verdict, of those programs that were selected."""
    selected = {item.name for item in request.session.items}
    wanted = [name for name in validation.names() if f"{TEST}[{name}]" in selected]
    return {runtime: validation.run_all(path, wanted) for runtime, path in RUNTIMES.items()}


@pytest.mark.parametrize("name", validation.names())
def test_the_program_finds_what_it_should(verdicts: dict[str, dict[str, Verdict]], name: str) -> None:
    ours, theirs = verdicts["corten-runtime"][name], verdicts["runc"][name]
    expected = EXPECTED.get(name, PASS)
    for _ in range(MOST_TRIES):
        if NO_MEMORY not in theirs.errors:
            break
        theirs = validation.run_all(RUNTIMES["runc"], [name])[name]
    summary.add(TITLE, f"{name}: {ours}; {theirs}" + (f" [{expected.reason}]" if expected.reason else ""))
    assert ours.failed - expected.may_fail == expected.ours, f"{ours}\n{ours.errors}"
    assert theirs.failed - expected.may_fail == expected.theirs, f"runc: {theirs}\n{theirs.errors}"


def test_every_program_of_the_module_runs() -> None:
    built = {path.name for path in validation.programs().iterdir()} - {"runtimetest", "util"}
    assert built == set(validation.names())
    assert set(EXPECTED) <= built
