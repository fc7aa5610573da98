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
