"""config.json: credentials in the file and in helpers."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from corten import errors
from corten.cli.config import INDEX_SERVER, Config, Login, hostname
from corten.cli.credentials import registry_auth

SUE = "c3VlOnNlY3JldA=="  # sue:secret
HELPER = """#!/bin/sh
read -r given
echo "$1 $given" >> "{log}"
case "$1" in
get) {get} ;;
erase) exit {erase} ;;
esac
"""


def written(folder: Path, values: Any) -> Config:
    (folder / "config.json").write_text(values if isinstance(values, str) else json.dumps(values))
    return Config(str(folder))


def values(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text())


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`docker-credential-fake`, `-empty`, `-token` and `-broken` on PATH; what they were asked is in the log."""
    log = tmp_path / "asked"
    answers = {
        "fake": """echo '{"ServerURL":"r","Username":"sue","Secret":"kept"}'""",
        "token": """echo '{"ServerURL":"r","Username":"<token>","Secret":"abc"}'""",
        "empty": "echo credentials not found in native keychain; exit 1",
        "broken": "echo no such luck; exit 1",
        "odd": "echo nonsense",
    }
    for name, get in answers.items():
        program = tmp_path / f"docker-credential-{name}"
        program.write_text(HELPER.format(log=log, get=get, erase=int(name == "broken")))
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return log


def test_a_login_is_kept_as_base64_in_a_file_of_its_owner_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = tmp_path / "new"
    Config(str(folder)).save("r.example:5000", Login("sue", "secret"))
    assert values(folder) == {"auths": {"r.example:5000": {"auth": SUE}}}
    assert stat.S_IMODE((folder / "config.json").stat().st_mode) == 0o600
    assert f"stored unencrypted in '{folder}/config.json'" in capsys.readouterr().err
    assert Config(str(folder)).login("r.example:5000") == Login("sue", "secret")
    Config(str(folder)).save("r.example:5000", Login("sue", "secret"))
    assert capsys.readouterr().err == ""
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_what_else_is_in_the_file_is_kept_and_so_are_mode_and_link(tmp_path: Path) -> None:
    real = tmp_path / "real.json"
    real.write_text(json.dumps({"zz": 1, "HttpHeaders": {"A": "b"}, "auths": {"a": {"auth": SUE, "email": "x"}}}))
    real.chmod(0o640)
    (tmp_path / "config.json").symlink_to(real)
    Config(str(tmp_path)).save("b", Login("sue", "secret"))
    assert (tmp_path / "config.json").is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert values(tmp_path) == {
        "zz": 1,
        "HttpHeaders": {"A": "b"},
        "auths": {"a": {"auth": SUE, "email": "x"}, "b": {"auth": SUE}},
    }


def test_an_identity_token_is_kept_without_a_password(tmp_path: Path) -> None:
    config = written(tmp_path, {"auths": {"x": {}}})
    config.save("r", Login("sue", identity_token="abc"))
    assert values(tmp_path)["auths"]["r"] == {"auth": base64.b64encode(b"sue:").decode(), "identitytoken": "abc"}
    assert Config(str(tmp_path)).login("r") == Login("sue", identity_token="abc")


@pytest.mark.parametrize(
    "auths",
    [
        {"r.example": {"auth": SUE}},
        {"r.example": {"username": "sue", "password": "secret"}},
        {"https://r.example/v1/": {"auth": SUE}},
        {"http://r.example": {"auth": SUE}},
    ],
)
def test_logins_are_found_in_every_form_that_docker_wrote(tmp_path: Path, auths: Any) -> None:
    assert written(tmp_path, {"auths": auths}).login("r.example") == Login("sue", "secret")
    assert written(tmp_path, {"auths": auths}).login("other.example").is_empty


def test_a_login_is_forgotten(tmp_path: Path) -> None:
    config = written(tmp_path, {"auths": {"r": {"auth": SUE}, "s": {"auth": SUE}}})
    config.erase("r")
    config.erase("absent")
    assert values(tmp_path) == {"auths": {"s": {"auth": SUE}}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{bad", "Expecting property name"),
        ("[]", "not a JSON object"),
        ('{"auths": 5}', "auths: not an object"),
        ('{"auths": {"r": 5}}', "auths: r: not an object"),
        ('{"auths": {"r": {"auth": "!!!"}}}', "illegal base64 data"),
        ('{"auths": {"r": {"auth": "c3Vl"}}}', "Invalid auth configuration file"),
        ('{"auths": {"r": {"auth": 5}}}', "auth: not a string"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_and_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    config = written(tmp_path, text)
    told = capsys.readouterr().err
    assert told.startswith(f"WARNING: Error parsing config file ({tmp_path}/config.json): ")
    assert said in told
    assert config.login("r").is_empty
    with pytest.raises(errors.FailedPrecondition, match="not overwritten"):
        config.save("r", Login("sue", "secret"))
    assert (tmp_path / "config.json").read_text() == text


def test_a_helper_keeps_the_secret_and_the_file_the_name_alone(tmp_path: Path, helper: Path) -> None:
    config = written(tmp_path, {"credsStore": "fake", "auths": {"r": {"auth": SUE}}})
    config.save("r", Login("sue", "secret"))
    assert values(tmp_path) == {"credsStore": "fake", "auths": {"r": {}}}
    assert config.login("r") == Login("sue", "kept")
    config.erase("r")
    assert values(tmp_path) == {"credsStore": "fake", "auths": {}}
    stored = json.dumps({"ServerURL": "r", "Username": "sue", "Secret": "secret"})
    assert helper.read_text().splitlines() == [f"store {stored}", "get r", "erase r"]


def test_a_registry_may_have_a_helper_of_its_own(tmp_path: Path, helper: Path) -> None:
    config = written(tmp_path, {"credsStore": "empty", "credHelpers": {"r": "fake"}})
    assert config.login("r") == Login("sue", "kept")
    assert config.login("other").is_empty
    assert helper.read_text() == "get r\nget other\n"


def test_a_token_in_a_helper_is_an_identity_token(tmp_path: Path, helper: Path) -> None:
    config = written(tmp_path, {"credHelpers": {"r": "token"}})
    assert config.login("r") == Login(identity_token="abc")
    config.save("r", Login("sue", identity_token="abc"))
    assert '"Username": "<token>", "Secret": "abc"' in helper.read_text()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("broken", "exit status 1, out: `no such luck`"),
        ("absent", 'exec: "docker-credential-absent": executable file not found in $PATH, out: ``'),
        ("odd", "docker-credential-odd: its answer cannot be read"),
        ("../../bin/sh", "'../../bin/sh' is not the name of a credential helper"),
    ],
)
def test_a_helper_that_fails_leaves_nobody_logged_in_and_is_told(
    tmp_path: Path, helper: Path, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    assert written(tmp_path, {"credHelpers": {"r": name}}).login("r").is_empty
    assert capsys.readouterr().err == f"WARNING: no credentials for r: {text}\n"


def test_what_a_helper_cannot_keep_is_an_error_in_dockers_words(tmp_path: Path, helper: Path) -> None:
    config = written(tmp_path, {"credHelpers": {"r": "absent"}})
    with pytest.raises(errors.Internal) as caught:
        config.save("r", Login("sue", "secret"))
    assert caught.value.text == (
        'error storing credentials - err: exec: "docker-credential-absent": executable file not found in $PATH, out: ``'
    )
    assert values(tmp_path) == {"credHelpers": {"r": "absent"}}


def test_the_desktops_keeper_is_chosen_where_nothing_is_kept_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pass", "docker-credential-pass"):
        (tmp_path / name).write_text("#!/bin/sh\ncat > /dev/null\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    config = written(tmp_path, {})
    config.save("r", Login("sue", "secret"))
    assert values(tmp_path) == {"credsStore": "pass", "auths": {"r": {}}}


def test_proxies_are_the_engines_own_or_the_default_ones(tmp_path: Path) -> None:
    proxies = {"default": {"httpProxy": "http://p", "noProxy": ""}, "tcp://one": {"allProxy": "socks5://q", "x": 1}}
    config = written(tmp_path, {"proxies": proxies})
    assert config.proxies("unix:///s") == {"HTTP_PROXY": "http://p", "http_proxy": "http://p"}
    assert config.proxies("tcp://one") == {"ALL_PROXY": "socks5://q", "all_proxy": "socks5://q"}
    assert written(tmp_path, {"proxies": 5}).proxies("unix:///s") == {}
    assert written(tmp_path, {"proxies": {"default": 5}}).proxies("unix:///s") == {}


def test_a_secret_is_not_shown_by_repr() -> None:
    assert "secret" not in repr(Login("sue", "secret", "secret", "secret"))


def test_the_host_of_a_servers_name() -> None:
    forms = ("r:5000", "http://r:5000", "https://r:5000/v2/", "r:5000/x")
    assert {hostname(form) for form in forms} == {"r:5000"}


def test_the_header_for_the_engine_names_user_and_registry(tmp_path: Path) -> None:
    written(tmp_path, {"auths": {"r.example": {"auth": SUE}, INDEX_SERVER: {"auth": SUE}}})
    for reference, server in (("r.example/a/b:1", "r.example"), ("busybox", INDEX_SERVER)):
        header = registry_auth(reference, str(tmp_path))["X-Registry-Auth"]
        assert json.loads(base64.urlsafe_b64decode(header)) == {
            "username": "sue",
            "password": "secret",
            "serveraddress": server,
        }
    assert registry_auth("other.example/x", str(tmp_path)) == {}
