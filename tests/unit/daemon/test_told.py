"""settings.json in the exec root: what the doctor hears of a cortend with flags of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from corten.daemon import config, told
from corten.engine.settings import Settings

FILE = "/etc/corten/daemon.json"


def settings(root: Path, file: Any = None, /, **flags: Any) -> Settings:
    return config.settings(FILE, file or {}, {"exec-root": str(root), **flags})


def test_the_doctor_hears_what_nobody_tells_it(tmp_path: Path) -> None:
    engine = settings(tmp_path, **{"signal-senders": True, "data-root": "/elsewhere"})
    told.tell(engine, FILE)
    told.tell(engine, FILE)
    assert (tmp_path / told.FILE).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [told.FILE]
    heard = told.heard(settings(tmp_path), FILE)
    assert (heard.signal_senders, heard.data_root) == (True, "/elsewhere")
    heard = told.heard(settings(tmp_path, **{"signal-senders": False, "data-root": "/here"}), FILE)
    assert (heard.signal_senders, heard.data_root) == (False, "/here")


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", '{"settings": {"data-root": 7, "signal-senders": "x"}}', '{"settings": 7, "from": 7}']
)
def test_a_file_that_says_nothing_changes_nothing(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / told.FILE).write_text(text)
    made = settings(tmp_path)
    assert told.heard(made, FILE) == made


def test_what_the_file_says_no_more_is_not_heard_of_the_engine_that_had_read_it(tmp_path: Path) -> None:
    told.tell(settings(tmp_path, {"signal-senders": True, "data-root": "/elsewhere"}), FILE)
    made = settings(tmp_path)
    assert told.heard(made, FILE) == made
    heard = told.heard(made, "/etc/docker/daemon.json")
    assert (heard.signal_senders, heard.data_root) == (True, "/elsewhere")


def test_no_password_is_written(tmp_path: Path) -> None:
    told.tell(settings(tmp_path, **{"http-proxy": "http://user:secret@proxy.example:3128"}), FILE)
    text = (tmp_path / told.FILE).read_text()
    assert "secret" not in text
    assert "proxy.example" in json.dumps(json.loads(text)["settings"]["proxies"])


def test_a_root_that_takes_no_file_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / told.FILE).mkdir()
    (tmp_path / told.FILE / "full").write_text("")
    told.tell(settings(tmp_path), FILE)
    assert "settings.json is not written" in caplog.text
