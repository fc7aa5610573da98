"""The command tree without an engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from corten.cli import session
from corten.cli.main import GROUPS, main
from corten.cli.transport import ConnectFailed


@pytest.mark.parametrize("words", [[], *([name] for name in GROUPS), *([name, "--"] for name in GROUPS)], ids=" ".join)
def test_a_group_without_a_verb_shows_its_help_on_stderr_and_has_not_failed(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["corten", *words]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"Usage: {' '.join(['corten', *words[:1]])} [OPTIONS] [COMMAND]")


@pytest.mark.parametrize("words", [[], ["run"], ["container"], ["container", "ls"]], ids=" ".join)
def test_help_before_a_command_is_help_after_it(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["corten", "help", *words]) == 0
    before = capsys.readouterr()
    assert main(["corten", *words, "--help"]) == 0
    assert before == capsys.readouterr()
    assert before.out.startswith(f"Usage: {' '.join(['corten', *words])} ")


@pytest.mark.parametrize(
    ("words", "topic"), [(["nope"], "nope"), (["container", "nope"], "nope"), (["run", "x", "y"], "x y")]
)
def test_help_on_what_is_no_command_is_refused(
    words: list[str], topic: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["corten", "help", *words]) == 1
    assert capsys.readouterr().err == f"unknown help topic: {topic}\n"


def test_a_groups_help_cuts_no_line_and_hides_what_is_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["corten", "container", "--help"]) == 0
    assert "..." not in capsys.readouterr().out.partition("Commands:")[2]
    assert main(["corten", "system", "--help"]) == 0
    assert "dial-stdio" not in capsys.readouterr().out


@pytest.mark.parametrize("is_there", [True, False])
def test_where_systemd_has_the_unit_no_engine_is_started_beside_it(
    is_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = tmp_path / "cortend.socket"
    if is_there:
        unit.touch()
    monkeypatch.setattr(session, "SYSTEMD", str(tmp_path))
    monkeypatch.setattr(session, "UNITS", (str(unit),))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    started: list[str] = []
    monkeypatch.setattr(session.Session, "_start_engine", lambda self: started.append(self.host))
    made = session.Session(f"unix://{tmp_path}/none", is_default=True)
    if is_there:
        with pytest.raises(ConnectFailed, match="`systemctl start "):
            _ = made.client
    else:
        _ = made.client
    assert bool(started) is not is_there
