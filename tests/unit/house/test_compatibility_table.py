"""docs/runtime-compatibility.md: every difference that is known has its row, every row a test that exists."""

from __future__ import annotations

import re

import pytest

from support import paths
from support.compatibility import KNOWN, OF_RUN
from support.validated import EXPECTED

TESTS = paths.REPOSITORY / "tests"
PAGE = (paths.REPOSITORY / "docs/runtime-compatibility.md").read_text()


def table(title: str) -> list[list[str]]:
    """The cells of the rows of the table below a heading."""
    lines = PAGE[PAGE.index(f"## {title}\n") :].splitlines()[1:]
    end = next((number for number, line in enumerate(lines) if line.startswith("## ")), len(lines))
    rows = [line for line in lines[:end] if line.startswith("| ")][1:]
    return [[cell.strip() for cell in row.strip("| ").split(" | ")] for row in rows]


DIFFERENCES = table("Differences")


def test_every_row_has_five_cells_and_a_name_of_its_own() -> None:
    assert {len(row) for row in DIFFERENCES} == {5}
    assert len({row[0] for row in DIFFERENCES}) == len(DIFFERENCES)


def test_every_difference_that_tests_know_has_its_row() -> None:
    assert {known.row for known in KNOWN + OF_RUN} <= {row[0] for row in DIFFERENCES}


@pytest.mark.parametrize("row", DIFFERENCES, ids=lambda row: row[0])
def test_the_test_of_a_row_exists(row: list[str]) -> None:
    named = re.findall(r"`([\w/]+\.py)`((?: [a-z0-9_]+)?)", row[4])
    assert named, row
    for file, name in named:
        text = (TESTS / file).read_text()
        assert re.search(rf"def test_\w*{name.strip()}", text), (file, name)
        if "test_validation.py" in file:
            assert set(re.findall(r"\((\w+)\)", row[4])) <= set(EXPECTED), row


def test_the_table_of_the_programs_is_what_the_test_expects() -> None:
    wanted = [
        [
            f"`{name}`",
            "a race" if row.may_fail else "not applicable" if row.ours else "passes",
            "a race" if row.may_fail else "fails" if row.theirs else "passes",
            row.reason,
        ]
        for name, row in EXPECTED.items()
    ]
    assert table("The validation programs") == wanted


MATRIX = [line for line in PAGE.splitlines() if line.startswith("| ") and "| `podman" in line and "DIFF" not in line]


@pytest.mark.parametrize("line", MATRIX, ids=lambda line: line.split(" | ")[0].strip("| "))
def test_every_test_of_the_table_of_behaviours_exists(line: str) -> None:
    """A cell names files of tests/peers in short, then tests by a part of their name, or a row of a table in them."""
    named = 0
    for file, names in re.findall(r"`(\w+)` ([a-z_]\w*[\w ,]*)", line):
        path = TESTS / f"peers/test_runtime_{file}.py"
        text = path.read_text()
        for name in filter(None, re.split(r", *", names)):
            is_row = name.startswith("row ")
            wanted = f'"{name.removeprefix("row ").strip()}"' if is_row else rf"def test_\w*{name.strip()}"
            assert re.search(wanted, text), (file, name)
            named += 1
    assert named
