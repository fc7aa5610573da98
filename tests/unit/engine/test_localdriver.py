"""Options of the driver `local`."""

from __future__ import annotations

import errno
import socket

import pytest

from corten.engine import localdriver
from corten.engine.localdriver import check_options, mount_options, needs_mount
from corten.errors import Internal, InvalidArgument


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"foo": "x"}, 'invalid option: "foo"'),
        ({"type": "tmpfs"}, 'missing required option: "device"'),
        ({"device": "tmpfs"}, 'missing required option: "type"'),
        ({"o": "bind"}, 'missing required option: "device"'),
        ({"size": "1g"}, "quota size requested but no quota support"),
        ({"size": "much"}, "invalid size: 'much'"),
    ],
)
def test_wrong_options_are_refused_in_dockers_words(options: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_options(options)
    assert caught.value.text == text


def test_options_that_dockerd_takes_are_taken() -> None:
    for options in (None, {}, {"type": "none", "o": "bind", "device": "/x"}, {"size": "0"}):
        check_options(options)
    assert not needs_mount({"size": "0"})
    assert needs_mount({"type": "nfs", "device": ":/x"})


def test_words_of_mount_8_become_flags_and_the_rest_is_the_file_systems() -> None:
    assert mount_options("bind,ro,size=1m") == (4096 | 1, "size=1m")
    assert mount_options("ro,rw,noexec") == (8, "")
    assert mount_options("addr=10.0.0.1,vers=4") == (0, "addr=10.0.0.1,vers=4")


def refused(monkeypatch: pytest.MonkeyPatch, options: dict[str, str]) -> tuple[list[tuple[object, ...]], str]:
    """What mount(2) is called with, and the text of its failure."""
    calls: list[tuple[object, ...]] = []

    def mount(*arguments: object) -> None:
        calls.append(arguments)
        raise OSError(errno.ENODEV, "no such device")

    def look_up(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        if host != "server.example":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(0, 0, 0, "", ("192.0.2.7", 0))]

    monkeypatch.setattr("corten.engine.localdriver.mount.mount", mount)
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(Internal) as caught:
        localdriver.mount_volume(options, "/v")
    return calls, caught.value.text


@pytest.mark.parametrize(
    ("options", "source", "data"),
    [
        ({"type": "nfs", "device": ":/x", "o": "addr=server.example,rw"}, ":/x", "addr=192.0.2.7"),
        ({"type": "nfs", "device": ":/x", "o": "addr=192.0.2.9,nolock"}, ":/x", "addr=192.0.2.9,nolock"),
        ({"type": "nfs", "device": "server.example:/x", "o": "vers=4"}, "server.example:/x", "vers=4"),
        ({"type": "cifs", "device": "//server.example/x", "o": "username=u"}, "//192.0.2.7/x", "username=u"),
        ({"type": "cifs", "device": "//a/x", "o": "addr=server.example"}, "//a/x", "addr=192.0.2.7"),
        ({"type": "ext4", "device": "/dev/x", "o": "addr=server.example"}, "/dev/x", "addr=server.example"),
    ],
)
def test_names_of_servers_become_numbers(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, str], source: str, data: str
) -> None:
    calls, text = refused(monkeypatch, options)
    assert calls == [(source, "/v", options["type"], 0, data)]
    assert text == f"failed to mount local volume: mount {source}:/v, data: {data}: no such device"


def test_a_name_that_nobody_knows_is_told_in_dockerds_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for options in (
        {"type": "nfs", "device": ":/x", "o": "addr=nobody.example"},
        {"type": "cifs", "device": "//nobody.example/x"},
    ):
        calls, text = refused(monkeypatch, options)
        assert not calls
        assert text == "error resolving passed in network volume address: lookup nobody.example: no such host"


def test_a_name_that_none_can_be_is_told_as_one_that_nobody_knows() -> None:
    for host in ("a..b", "a" * 64):
        with pytest.raises(Internal) as caught:
            localdriver.mount_volume({"type": "nfs", "device": ":/x", "o": f"addr={host}"}, "/v")
        assert caught.value.text == f"error resolving passed in network volume address: lookup {host}: no such host"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("password=secret", "password=********"),
        ("password=sec,,ret", "password=********"),
        ("pass=secret", "pass=********"),
        ("password2=secret,pass=", "password2=********,pass=********"),
        ("passkey=shown", "passkey=shown"),
    ],
)
def test_no_password_is_told(monkeypatch: pytest.MonkeyPatch, words: str, shown: str) -> None:
    options = {"type": "cifs", "device": "//server.example/x", "o": f"username=u,{words},rw"}
    calls, text = refused(monkeypatch, options)
    assert calls[0][-1] == f"username=u,{words}"
    assert f"data: username=u,{shown}:" in text
