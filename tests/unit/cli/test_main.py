"""The command tree without an engine."""

from __future__ import annotations

import pytest

from corten.cli.main import GROUPS, main


@pytest.mark.parametrize("words", [[], *([name] for name in GROUPS), *([name, "--"] for name in GROUPS)], ids=" ".join)
def test_a_group_without_a_verb_shows_its_help_on_stderr_and_has_not_failed(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["corten", *words]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"Usage: {' '.join(['corten', *words[:1]])} [OPTIONS] [COMMAND]")
