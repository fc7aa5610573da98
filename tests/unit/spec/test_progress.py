"""Progress messages beside what dockerd 26.1 sent for the same numbers."""

from __future__ import annotations

import pytest

from corten.spec import progress


@pytest.mark.parametrize(
    ("current", "total", "shown"),
    [
        (33792, 1984132, "[>                                                  ]  33.79kB/1.984MB"),
        (512, 178, "[==================================================>]     512B"),
        (10240, 178, "[==================================================>]  10.24kB"),
        (2129920, 1984132, "[==================================================>]   2.13MB"),
        (50, 100, "[=========================>                         ]      50B/100B"),
        (2048, 0, " 2.048kB"),
        (0, 0, ""),
    ],
)
def test_bar_is_docker_s(current: int, total: int, shown: str) -> None:
    assert progress.bar(current, total) == shown


def test_narrow_terminal_gets_numbers_alone() -> None:
    assert progress.bar(50, 100, width=80) == "     50B/100B"


def test_message_with_numbers_has_the_api_s_members_in_order() -> None:
    assert list(progress.moved("Pushing", "abc", current=1, total=2)) == ["status", "progressDetail", "progress", "id"]


def test_message_without_numbers_has_an_empty_detail_when_it_is_about_something() -> None:
    assert progress.status("Preparing", "abc") == {"status": "Preparing", "progressDetail": {}, "id": "abc"}
    assert progress.status("done") == {"status": "done"}
