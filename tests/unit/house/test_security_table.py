"""docs/security.md names tests: each of them exists."""

from __future__ import annotations

import re

import pytest

from support import paths

TESTS = paths.REPOSITORY / "tests"
_LINES = (paths.REPOSITORY / "docs/security.md").read_text().partition("\n| CVE")[2].splitlines()  # tables of attacks
ROWS = [line.split("|")[2] for line in _LINES if line.startswith("| ") and not line.startswith("| CVE")]
NAMES = re.compile(r"\b(?:Test[A-Z]\w+|[a-z]+(?:_[a-z0-9]+){2,})\b")


def test_rows_are_there() -> None:
    assert len(ROWS) > 30


@pytest.mark.parametrize("row", ROWS)
def test_files_and_tests_of_a_row_exist(row: str) -> None:
    files = [TESTS / name if "/" in name else TESTS / "attacks" / name for name in re.findall(r"`([\w/]+\.py)`", row)]
    for file in files:
        assert file.exists(), file
    known = "\n".join(
        path.read_text() for room in ("attacks", "system", "unit") for path in TESTS.glob(f"{room}/**/test_*.py")
    )
    for name in NAMES.findall(re.sub(r"`[^`]*`", "", row)):
        pattern = rf"class {name}\b" if name.startswith("Test") else rf"def test_\w*{name}"
        assert re.search(pattern, known), name
