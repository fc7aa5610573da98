"""Credentials, challenges, URLs, errors and cancelling: what comes as text, as values."""

from __future__ import annotations

import base64
import json
import time

import pytest

from corten.errors import InvalidArgument, NotFound, PermissionDenied, Unauthorized, Unavailable
from corten.registry.cancel import Cancel, Cancelled
from corten.registry.challenge import Challenge, parse_challenges
from corten.registry.credentials import Credentials, decode_auth, encode_auth
from corten.registry.endpoint import Endpoint, origin_of
from corten.registry.errors import (
    RegistryDenied,
    RegistryError,
    RegistryNotFound,
    RegistryUnauthorized,
    RegistryUnavailable,
    error_of,
    pull_error,
)
from corten.spec import reference

# X-Registry-Auth.


def header(document: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode()


def test_credentials_come_from_the_header() -> None:
    found = decode_auth(header({"username": "me", "password": "päss:word", "serveraddress": "r.example", "email": "x"}))
    assert found == Credentials("me", "päss:word", server_address="r.example")
    assert base64.b64decode(found.basic.removeprefix("Basic ")).decode() == "me:päss:word"


@pytest.mark.parametrize("text", ["", header({}), header({"auth": "eDp5"}), header({"username": None}), "bnVsbA=="[:0]])
def test_an_empty_header_has_none(text: str) -> None:
    assert decode_auth(text).is_empty


def test_a_header_is_taken_with_and_without_padding() -> None:
    text = header({"username": "me?", "password": "~~"})
    assert decode_auth(text) == decode_auth(text.rstrip("="))


@pytest.mark.parametrize(
    "text", ["!", "a", header([]), header({"username": 1}), "é", header({})[:-2] + "!!", "A" * 100_000, header("x")]
)
def test_a_damaged_header_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid X-Registry-Auth header"):
        decode_auth(text)


def test_a_header_that_is_written_is_read_back() -> None:
    credentials = Credentials("me", "secret", "identity", "token", "r.example")
    assert decode_auth(encode_auth(credentials)) == credentials


def test_nothing_secret_is_shown() -> None:
    credentials = Credentials("me", "secret", "secret", "secret", "r.example")
    assert "secret" not in repr(credentials)
    assert "secret" not in repr(Endpoint("https://r/v2", headers=(("Authorization", "secret"),)))


def test_a_user_without_a_password_proves_nothing_by_basic() -> None:
    assert Credentials("me").basic == ""
    assert Credentials(identity_token="x").basic == ""


# WWW-Authenticate.


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('Bearer realm="https://a/t",service="s"', [Challenge("bearer", {"realm": "https://a/t", "service": "s"})]),
        ('BASIC Realm="x"', [Challenge("basic", {"realm": "x"})]),
        ("Basic", [Challenge("basic")]),
        (
            'Basic realm="x, Bearer", Bearer realm=y , scope="a b"',
            [Challenge("basic", {"realm": "x, Bearer"}), Challenge("bearer", {"realm": "y", "scope": "a b"})],
        ),
        (r'Bearer realm="a\"b\\c"', [Challenge("bearer", {"realm": 'a"b\\c'})]),
        ('Bearer realm="first",realm="second"', [Challenge("bearer", {"realm": "first"})]),
        ("", []),
        ('="x"', []),
        ('Bearer realm="never closed', [Challenge("bearer", {"realm": ""})]),
    ],
)
def test_a_challenge_is_taken_apart(value: str, expected: list[Challenge]) -> None:
    assert parse_challenges([value]) == expected


@pytest.mark.parametrize("piece", ['Bearer realm="', "\\", "a=b,", ", ", "Basic ", '"', 'a="\\"'])
def test_a_long_challenge_costs_no_time(piece: str) -> None:
    before = time.process_time()
    parse_challenges([piece * 20_000])
    assert time.process_time() - before < 2


# URLs.


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Reg.Example/v2", ("https", "reg.example", 443)),
        ("http://reg.example", ("http", "reg.example", 80)),
        ("http://reg.example:443/v2?x#y", ("http", "reg.example", 443)),
        ("HTTPS://[::1]:5000/v2", ("https", "::1", 5000)),
        ("https://127.0.0.1:5000", ("https", "127.0.0.1", 5000)),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, origin: tuple[str, str, int]) -> None:
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    "url",
    [
        *("", "x", "/v2", "ftp://a", "file:///a", "https://", "https:///a", "https://a:x/", "https://a:99999/", "//a"),
        *("https://me@a/", "https://evil\\@a/", "https://a b/", "https://a\n/", "https://\u00e9/", "https://a:0/"),
        *("https://a%40b@c/", "https://[::1/", "https://a\x00/"),
    ],
)
def test_what_can_be_read_in_two_ways_has_no_origin(url: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        origin_of(url)


# Errors.


def errors(*said: tuple[str, str]) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message} for code, message in said]}).encode()


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (404, errors(("MANIFEST_UNKNOWN", "manifest unknown")), RegistryNotFound, "manifest unknown: manifest unknown"),
        (401, errors(("UNAUTHORIZED", "")), RegistryUnauthorized, "unauthorized: authentication required"),
        (401, b"<html>", RegistryUnauthorized, "unauthorized: authentication required"),
        (403, b'{"details": "no"}', RegistryDenied, "denied: no"),
        (429, b'{"details": "slow down"}', RegistryUnavailable, "toomanyrequests: slow down"),
        (400, errors(("OWN_CODE", "words")), RegistryError, "unknown: words"),
        (403, errors(("DENIED", "a"), ("UNAUTHORIZED", "b")), RegistryDenied, "errors:\ndenied: a\nunauthorized: b\n"),
        (
            404,
            b"404 page not found\n",
            RegistryNotFound,
            "error parsing HTTP 404 response body: invalid character '4' looking for beginning of value: \"404 page"
            ' not found\\n"',
        ),
        (
            400,
            b"{}",
            RegistryError,
            'error parsing HTTP 400 response body: no error details found in HTTP response body: "{}"',
        ),
        (500, b"", RegistryError, "received unexpected HTTP status: 500 Internal Server Error"),
        (503, b"", RegistryUnavailable, "received unexpected HTTP status: 503 Service Unavailable"),
        (599, b"", RegistryError, "received unexpected HTTP status: 599"),
    ],
)
def test_an_answer_becomes_dockers_words(status: int, body: bytes, kind: type[RegistryError], text: str) -> None:
    error = error_of(status, body)
    assert type(error) is kind
    assert str(error) == text
    assert error.status == status


def test_errors_are_of_the_kinds_that_doors_know() -> None:
    assert issubclass(RegistryUnauthorized, Unauthorized)
    assert issubclass(RegistryDenied, PermissionDenied)
    assert issubclass(RegistryNotFound, NotFound)
    assert issubclass(RegistryUnavailable, Unavailable)
    kinds = [each.kind for each in (RegistryUnauthorized, RegistryDenied, RegistryNotFound, RegistryUnavailable)]
    assert kinds == ["unauthorized", "permission-denied", "not-found", "unavailable"]
    assert RegistryError.kind == "internal"


def test_a_bearer_challenge_explains_a_refusal() -> None:
    error = error_of(401, b"", bearer_error=("insufficient_scope", "no push"))
    assert str(error) == "denied: no push"


def test_a_refused_pull_is_told_as_docker_tells_it() -> None:
    error = error_of(401, errors(("DENIED", "requested access to the resource is denied"), ("UNAUTHORIZED", "x")))
    told = pull_error(error, reference.parse("somebody/image:1"))
    assert type(told) is NotFound
    assert str(told) == (
        "pull access denied for somebody/image, repository does not exist or may require 'docker login': "
        "denied: requested access to the resource is denied"
    )


def test_an_error_without_a_code_is_told_as_it_is() -> None:
    error = error_of(500, b"")
    assert pull_error(error, reference.parse("busybox")) is error


# Giving up.


def test_a_callback_runs_once_when_a_request_is_given_up() -> None:
    cancel, told = Cancel(), list[str]()
    cancel.on_cancel(lambda: told.append("kept"))
    cancel.on_cancel(lambda: told.append("taken back"))()
    cancel.cancel()
    cancel.cancel()
    assert told == ["kept"]


def test_who_comes_late_is_told_at_once() -> None:
    cancel, told = Cancel(), list[str]()
    cancel.cancel()
    cancel.on_cancel(lambda: told.append("late"))
    assert told == ["late"]
    for ask in (cancel.check, lambda: cancel.wait(60)):
        with pytest.raises(Cancelled):
            ask()


def test_who_was_not_given_up_goes_on() -> None:
    cancel = Cancel()
    cancel.check()
    cancel.wait(0)
    assert not cancel.is_set
