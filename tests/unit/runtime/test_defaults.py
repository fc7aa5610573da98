"""Node defaults: who says what, and what is no limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from corten.errors import InvalidArgument, NotFound
from corten.runtime import args, defaults, prepare
from corten.runtime.options import CreateOptions
from corten.spec.resources import parse_resources


def settings(*words: str) -> args.Options:
    return args.parse(["corten-runtime", *words, "state", "x"]).settings


def test_without_a_word_the_limit_is_the_built_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "CONFIG_PATH", str(tmp_path / "nowhere.json"))
    assert defaults.pids_limit(settings()) == (500, "built-in default")


def test_a_file_changes_it_and_a_flag_goes_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "runtime.json"
    path.write_text('{"default-pids-limit": 77}')
    assert defaults.pids_limit(settings("--config", str(path))) == (77, str(path))
    both = settings("--config", str(path), "--default-pids-limit=-1")
    assert defaults.pids_limit(both) == (-1, "--default-pids-limit")


@pytest.mark.parametrize(
    "content", ['{"default-pids-limit": 0}', '{"default-pids-limit": "7"}', '{"default-pid-limit": 7}', "[]", "{"]
)
def test_a_wrong_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "runtime.json"
    path.write_text(content)
    with pytest.raises(InvalidArgument):
        defaults.pids_limit(settings("--config", str(path)))


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        defaults.pids_limit(settings("--config", str(tmp_path / "nowhere")))


@pytest.mark.parametrize(
    ("pids", "expected"),
    [
        (None, (77, "somebody")),
        ({"limit": 0}, (77, "somebody")),
        ({"limit": 5}, (5, "config.json")),
        ({"limit": -1}, (-1, "config.json")),
    ],
)
def test_the_bundle_goes_before_the_default(pids: object, expected: tuple[int, str]) -> None:
    options = CreateOptions("c", "/r", "/b", default_pids_limit=77, default_pids_limit_origin="somebody")
    resources = parse_resources({"pids": pids} if pids else {})
    assert prepare.effective_pids_limit(resources, options) == expected
