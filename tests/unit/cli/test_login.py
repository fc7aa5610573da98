"""`corten login` and `logout`, with an engine that answers what the test says."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from corten.cli import main as cli
from corten.cli import session
from corten.cli.transport import Internal

SUE = "c3VlOnNlY3JldA=="  # sue:secret
NO_TTY = "Error: Cannot perform an interactive login from a non TTY device\n"


class Engine:
    """Answers `POST /auth`: the password `secret` is right; the user `token` gets a token instead."""

    def __init__(self, asked: list[Any]) -> None:
        self.asked = asked

    def json(self, method: str, path: str, *, body: Any) -> Any:
        assert (method, path) == ("POST", "/auth")
        self.asked.append(body)
        if body["password"] != "secret":
            raise Internal("login attempt to http://r/v2/ failed with status: 401 Unauthorized")
        return {"Status": "Login Succeeded", "IdentityToken": "abc" if body["username"] == "token" else ""}


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the engine was asked; config.json is in tmp_path."""
    found: list[Any] = []
    monkeypatch.setattr(session.Session, "client", property(lambda _: Engine(found)))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    return found


def auths(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text())["auths"]


def run(*argv: str) -> int:
    return cli.main(["corten", *argv])


def test_login_asks_the_engine_and_keeps_what_is_right(
    asked: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("login", "-u", "sue", "-p", "secret", "https://r.example:5000/v2/") == 0
    assert asked == [{"username": "sue", "password": "secret", "serveraddress": "r.example:5000"}]
    assert auths(tmp_path) == {"r.example:5000": {"auth": SUE}}
    out, err = capsys.readouterr()
    assert out == "Login Succeeded\n"
    assert err.startswith("WARNING! Using --password via the CLI is insecure. Use --password-stdin.\n")


@pytest.mark.parametrize("text", ["secret", "secret\n", "secret\r\n"])
def test_the_password_may_come_from_stdin(
    asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert run("login", "-u", "sue", "--password-stdin") == 0
    assert auths(tmp_path) == {"https://index.docker.io/v1/": {"auth": SUE}}


def test_config_names_another_folder(asked: list[Any], tmp_path: Path) -> None:
    assert run("--config", str(tmp_path / "other"), "login", "-u", "sue", "-p", "secret", "docker.io") == 0
    assert auths(tmp_path / "other") == {"https://index.docker.io/v1/": {"auth": SUE}}


def test_an_identity_token_takes_the_passwords_place(asked: list[Any], tmp_path: Path) -> None:
    assert run("login", "-u", "token", "-p", "secret", "r") == 0
    assert auths(tmp_path) == {"r": {"auth": "dG9rZW46", "identitytoken": "abc"}}


def test_a_wrong_password_is_not_kept(asked: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("login", "-u", "sue", "-p", "wrong", "r") == 1
    assert not (tmp_path / "config.json").exists()
    error = "Error response from daemon: login attempt to http://r/v2/ failed with status: 401 Unauthorized\n"
    assert capsys.readouterr().err.endswith(error)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["-u", ""], "username is empty\n"),
        (["-u", "sue", "-p", ""], "password is empty\n"),
        (["--password-stdin"], "the --password-stdin option requires --username to be set\n"),
        (
            ["-u", "sue", "-p", "x", "--password-stdin"],
            "conflicting options: cannot specify both --password and --password-stdin\n",
        ),
        ([], NO_TTY),
        (["-u", "sue"], NO_TTY),
        (["-u", "sue", "--password-stdin"], NO_TTY),
    ],
)
def test_what_is_missing_or_wrong_is_said_before_the_engine_is_asked(
    asked: list[Any], capsys: pytest.CaptureFixture[str], flags: list[str], text: str
) -> None:
    assert run("login", *flags, "r") == 1
    assert (capsys.readouterr().err, asked) == (text, [])


def test_credentials_that_are_kept_are_tried_again(
    asked: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"r": {"auth": SUE}}}))
    assert run("login", "r") == 0
    assert capsys.readouterr().err.startswith("Authenticating with existing credentials... [Username: sue]\n")


def test_credentials_that_went_bad_are_asked_for(
    asked: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"r": {"auth": "c3VlOm9sZA=="}}}))
    assert run("login", "r") == 1
    err = capsys.readouterr().err
    assert "Login did not succeed, error: Error response from daemon: login attempt to" in err
    assert err.endswith(NO_TTY)


def test_logout_forgets_every_form_of_the_name(
    asked: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("r", "http://r", "https://r", "other")
    (tmp_path / "config.json").write_text(json.dumps({"auths": {name: {"auth": SUE} for name in names}}))
    assert run("logout", "https://r/") == 0
    assert auths(tmp_path) == {"other": {"auth": SUE}}
    assert capsys.readouterr().out == "Removing login credentials for r\n"
    assert run("logout") == 0
    assert capsys.readouterr().out == "Removing login credentials for https://index.docker.io/v1/\n"
