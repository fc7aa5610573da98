"""engine.links: what a request may say, and the ports of a linked container as variables."""

from __future__ import annotations

import pytest

from corten.engine.links import _ranges, parse
from corten.errors import Internal


@pytest.mark.parametrize(
    ("text", "expected"),
    [("one", ("one", "one")), ("one:alias", ("one", "alias")), ("/one:/two/alias", ("one", "alias"))],
)
def test_a_link_has_a_name_and_an_alias(text: str, expected: tuple[str, str]) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "words"), [("", "empty string specified for links"), ("a:b:c", "bad format for links")]
)
def test_a_wrong_link_is_refused_in_dockers_words(text: str, words: str) -> None:
    with pytest.raises(Internal, match=words):
        parse(text)


def test_three_ports_in_a_row_are_a_range_and_two_are_not() -> None:
    ports = [(80, "tcp"), (81, "tcp"), (90, "tcp"), (91, "tcp"), (92, "udp")]
    assert list(_ranges("A", "10.0.0.1", ports)) == [
        "A_PORT_90_TCP_START=tcp://10.0.0.1:90",
        "A_PORT_90_TCP_ADDR=10.0.0.1",
        "A_PORT_90_TCP_PROTO=tcp",
        "A_PORT_90_TCP_PORT_START=90",
        "A_PORT_90_UDP_END=udp://10.0.0.1:92",
        "A_PORT_90_TCP_PORT_END=92",
    ]
