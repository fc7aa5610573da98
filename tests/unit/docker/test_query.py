"""Query strings as dockerd reads them."""

from __future__ import annotations

import pytest

from corten.docker.query import Query, integer
from corten.errors import Internal, InvalidArgument


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", True), ("true", True), ("True", True), ("yes", True), ("on", True), ("2", True)]
    + [(text, False) for text in ("", "0", "no", "false", "False", "none", " 0 ")],
)
def test_flags(text: str, expected: bool) -> None:
    assert Query(f"x={text}").flag("x", default=not expected) is expected


def test_a_missing_flag_has_its_default() -> None:
    assert Query("").flag("x", default=True)
    assert not Query("y=1").flag("x")


@pytest.mark.parametrize(("text", "expected"), [("5", 5), ("-1", -1), ("%2B7", 7), ("", None)])
def test_integers(text: str, expected: int | None) -> None:
    assert Query(f"t={text}").integer("t") == expected


@pytest.mark.parametrize("text", ["1.5", "1e3", "0x10", "٣", "9223372036854775808", "1_000"])
def test_what_is_no_integer(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"strconv\.Atoi: parsing"):
        integer(text)
    with pytest.raises(Internal, match=r"strconv\.Atoi: parsing"):
        Query(f"t={text}").integer("t")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("{}", {}),
        ("null", {}),
        ('{"label":{"a=b":true,"c":true}}', {"label": ["a=b", "c"]}),
        ('{"label":{"a":false}}', {"label": ["a"]}),
        ('{"status":["exited","created"]}', {"status": ["exited", "created"]}),
        ('{"id":null}', {"id": []}),
    ],
)
def test_filters(text: str, expected: dict[str, list[str]]) -> None:
    assert Query(f"filters={text}").filters() == expected


@pytest.mark.parametrize("text", ["x", "[]", '{"a":1}', '{"a":[1]}', '{"a":{"b":1}}', "[" * 4000])
def test_bad_filters(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid filter"):
        Query(f"filters={text}").filters()
