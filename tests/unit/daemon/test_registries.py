"""What daemon.json and flags say about registries."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from corten.daemon import arguments, config
from corten.engine.settings import Settings
from corten.errors import InvalidArgument

PATH = "/etc/corten/daemon.json"


def made(file: dict[str, Any], *flags: str) -> Settings:
    return config.settings(PATH, file, arguments.flags(arguments.parse(list(flags))))


def refused(file: dict[str, Any], *flags: str) -> str:
    with pytest.raises(InvalidArgument) as caught:
        made(file, *flags)
    return caught.value.text.removeprefix(f"unable to configure the daemon with file {PATH}: ")


def test_the_limits_are_dockers_when_nobody_says_otherwise() -> None:
    found = made({"max-concurrent-downloads": 0})
    limits = (found.max_concurrent_downloads, found.max_concurrent_uploads, found.max_download_attempts)
    assert limits == (3, 5, 5)


def test_limits_are_taken_from_file_and_flags() -> None:
    found = made({"max-concurrent-downloads": 7, "max-download-attempts": 1}, "--max-concurrent-uploads", "2")
    limits = (found.max_concurrent_downloads, found.max_concurrent_uploads, found.max_download_attempts)
    assert limits == (7, 2, 1)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("max-concurrent-downloads", -1, "invalid max concurrent downloads: -1"),
        ("max-concurrent-uploads", -1, "invalid max concurrent uploads: -1"),
        ("max-download-attempts", -2, "invalid max download attempts: -2"),
        ("max-download-attempts", "x", "max-download-attempts: not a number"),
        ("max-download-attempts", True, "max-download-attempts: not a number"),
    ],
)
def test_a_wrong_limit_is_refused_by_name(key: str, value: Any, text: str) -> None:
    assert refused({key: value}) == text


def test_a_limit_that_is_no_number_is_refused_in_dockerds_words() -> None:
    with pytest.raises(InvalidArgument) as caught:
        arguments.parse(["--max-concurrent-downloads", "x"])
    text = 'invalid argument "x" for "--max-concurrent-downloads" flag: strconv.ParseInt: parsing "x": invalid syntax'
    assert caught.value.text == f"{text}\nSee 'cortend --help'."


def test_mirrors_end_with_one_slash() -> None:
    assert made({"registry-mirrors": ["http://a", "https://b:1/x/", "http://a/"]}).registry_mirrors == (
        "http://a/",
        "https://b:1/x/",
    )
    assert made({}, "--registry-mirror", "http://a", "--registry-mirror=http://b").registry_mirrors == (
        "http://a/",
        "http://b/",
    )


@pytest.mark.parametrize(
    ("mirror", "text"),
    [
        ("ftp://x", 'invalid mirror: unsupported scheme "ftp" in "ftp://x"'),
        ("mirror.example", 'invalid mirror: unsupported scheme "" in "mirror.example"'),
        ("https://a?b", 'invalid mirror: query or fragment at end of the URI "https://a?b"'),
        ("https://a#b", 'invalid mirror: query or fragment at end of the URI "https://a#b"'),
        ("https://u:p@a", 'invalid mirror: username/password not allowed in URI "https://u:xxxxx@a"'),
        ("https://[::1", 'invalid mirror: "https://[::1" is not a valid URI'),
        ("https://", 'invalid mirror: "https://" is not a valid URI'),
    ],
)
def test_a_mirror_that_cannot_be_used_is_refused(mirror: str, text: str) -> None:
    assert refused({"registry-mirrors": [mirror]}) == text
    assert refused({}, "--registry-mirror", mirror) == (
        f'invalid argument "{mirror}" for "--registry-mirror" flag: {text}'
    )


def test_insecure_registries_are_hosts_and_networks() -> None:
    given = ["a.example", "b.example:5000", "http://c.example", "10.1.2.3/8", "[::1]:5000", "fd00::/8", "fd00::1"]
    wanted = ("a.example", "b.example:5000", "c.example", "10.0.0.0/8", "[::1]:5000", "fd00::/8", "fd00::1")
    assert made({"insecure-registries": given}).insecure_registries == wanted


@pytest.mark.parametrize("text", ["ftp://a", "a:99999", "a:x", "10.0.0.0/33", "a/b", "-a", ""])
def test_an_insecure_registry_that_cannot_be_is_refused(text: str) -> None:
    assert f"insecure registry {text}" in refused({"insecure-registries": [text]})


def test_proxies_stand_in_an_object_or_under_their_flags_names() -> None:
    found = made({"proxies": {"http-proxy": "http://a", "no-proxy": "b"}, "https-proxy": "c:3128"})
    assert (found.http_proxy, found.https_proxy, found.no_proxy) == ("http://a", "c:3128", "b")
    found = made({}, "--http-proxy", "http://a", "--https-proxy=http://b", "--no-proxy", "c")
    assert (found.http_proxy, found.https_proxy, found.no_proxy) == ("http://a", "http://b", "c")


def test_the_environment_speaks_where_the_settings_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://env")
    monkeypatch.setenv("HTTPS_PROXY", "http://env")
    found = made({"proxies": {"http-proxy": "http://file"}}).proxies
    assert (found.http, found.https) == ("http://file", "http://env")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ({"proxies": "x"}, "proxies: not an object"),
        ({"proxies": {"foo": "x"}}, "the following directives don't match any configuration option: foo"),
        ({"proxies": {"http-proxy": 1}}, "http-proxy: not a string"),
        ({"proxies": {"http-proxy": "a"}, "http-proxy": "b"}, "http-proxy: stands in proxies as well"),
        (
            {"http-proxy": "socks5://u:p@a"},
            "http-proxy: invalid proxy: 'socks5://xxxxx:xxxxx@a': only http:// and https:// are supported",
        ),
    ],
)
def test_wrong_proxies_are_refused(file: dict[str, Any], text: str) -> None:
    assert refused(file) == text


def test_a_proxy_given_twice_is_refused_without_its_password() -> None:
    text = refused({"proxies": {"http-proxy": "http://u:p@a"}}, "--http-proxy", "http://u:p@b")
    both = "the following directives are specified both as a flag and in the configuration file"
    assert text == f"{both}: http-proxy: (from flag: http://xxxxx:xxxxx@b, from file: http://xxxxx:xxxxx@a)"


def test_the_configuration_is_shown_without_passwords() -> None:
    shown = msgspec.json.decode(config.shown(made({"https-proxy": "http://u:p@a"})))
    assert shown["proxies"] == {"https-proxy": "http://xxxxx:xxxxx@a"}
    assert not {"http-proxy", "https-proxy", "no-proxy"} & set(shown)


def test_a_reload_takes_over_limits_and_mirrors_and_leaves_proxies() -> None:
    after = made({"max-concurrent-downloads": 9, "registry-mirrors": ["http://a"], "http-proxy": "http://p"})
    found = config.reloaded(made({}), after)
    assert (found.max_concurrent_downloads, found.registry_mirrors, found.http_proxy) == (9, ("http://a/",), "")


def test_the_event_of_a_reload_says_what_dockerds_does() -> None:
    found = config.event_attributes(made({"registry-mirrors": ["http://a"], "labels": ["a=b"], "debug": True}))
    assert found == {
        "debug": "true",
        "default-runtime": "corten",
        "insecure-registries": "[]",
        "labels": '["a=b"]',
        "live-restore": "true",
        "max-concurrent-downloads": "3",
        "max-concurrent-uploads": "5",
        "max-download-attempts": "5",
        "registry-mirrors": '["http://a/"]',
        "runtimes": "",
    }


def test_certificates_are_looked_for_beside_the_file_and_then_at_dockers_place() -> None:
    assert made({}).certs_dirs == ("/etc/corten/certs.d", "/etc/docker/certs.d")
