"""Which proxy a request goes through."""

from __future__ import annotations

import pytest

from corten.errors import InvalidArgument
from corten.registry.proxies import Proxies, check, from_environment, masked

BOTH = Proxies("http://plain.example:3128", "http://secure.example:3128")


def test_the_scheme_of_the_request_chooses_the_proxy() -> None:
    assert BOTH.of("http://r.example/v2/") == "http://plain.example:3128"
    assert BOTH.of("https://r.example/v2/") == "http://secure.example:3128"
    assert Proxies(http="http://plain.example").of("https://r.example/v2/") == ""


def test_a_proxy_without_a_scheme_is_an_http_one() -> None:
    assert Proxies(http="p.example:3128").of("http://r.example/") == "http://p.example:3128"


@pytest.mark.parametrize("host", ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000"])
def test_the_local_machine_is_asked_directly(host: str) -> None:
    assert BOTH.of(f"http://{host}/v2/") == ""


@pytest.mark.parametrize(
    ("rule", "url"),
    [
        ("*", "https://anything.example/"),
        ("r.example", "https://r.example/"),
        ("r.example", "https://sub.r.example/"),
        (" R.Example ", "https://r.EXAMPLE:5000/"),
        (".example", "https://r.example/"),
        ("*.example", "https://r.example/"),
        ("r.example:5000", "https://r.example:5000/"),
        ("r.example:443", "https://r.example/"),
        ("10.0.0.0/8", "http://10.1.2.3:5000/"),
        ("10.1.2.3", "http://10.1.2.3:5000/"),
        ("10.1.2.3:5000", "http://10.1.2.3:5000/"),
        ("fd00::1", "http://[fd00::1]:5000/"),
        ("[fd00::1]:5000", "http://[fd00::1]:5000/"),
        ("fd00::/8", "http://[fd00::1]:5000/"),
        ("other.example,,r.example", "https://r.example/"),
    ],
)
def test_no_proxy_names_what_is_asked_directly(rule: str, url: str) -> None:
    assert Proxies("http://p:1", "http://p:1", rule).of(url) == ""


@pytest.mark.parametrize(
    ("rule", "url"),
    [
        ("r.example", "https://xr.example/"),
        (".r.example", "https://r.example/"),
        ("*.r.example", "https://r.example/"),
        ("r.example:5000", "https://r.example/"),
        ("10.0.0.0/8", "http://11.1.2.3/"),
        ("10.0.0.0/8", "http://ten.example/"),
        ("10.0.0.0/99", "http://10.1.2.3/"),
        ("", "https://r.example/"),
    ],
)
def test_what_no_proxy_does_not_name_goes_through_the_proxy(rule: str, url: str) -> None:
    assert Proxies("http://p:1", "http://p:1", rule).of(url) == "http://p:1"


def test_the_environment_may_be_in_small_letters() -> None:
    assert from_environment({"http_proxy": "a", "HTTPS_PROXY": "b", "https_proxy": "c", "no_proxy": "d"}) == Proxies(
        "a", "b", "d"
    )


def test_name_and_password_of_a_proxy_are_not_shown() -> None:
    assert masked("http://user:secret@p.example:3128/") == "http://xxxxx:xxxxx@p.example:3128/"
    assert masked("user:se@cret@p.example") == "xxxxx:xxxxx@p.example"
    assert masked("http://p.example") == "http://p.example"


@pytest.mark.parametrize("proxy", ["socks5://p.example", "http://", "http://p.example:99999", "http://[::1", ":3128"])
def test_a_proxy_that_cannot_be_used_is_refused(proxy: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid proxy"):
        check(proxy)


@pytest.mark.parametrize("proxy", ["", "p.example:3128", "https://u:p@p.example:3128", "http://[fd00::1]:3128"])
def test_a_proxy_that_can_be_used_is_taken(proxy: str) -> None:
    check(proxy)
