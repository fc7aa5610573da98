"""Command lines and numbers as Docker's flag parser reads them."""

from __future__ import annotations

import click
import pytest

from corten.cli.flags import FlagError, OldName, Switch, go_integer, read
from corten.errors import InvalidArgument

PARAMS: list[click.Parameter] = [
    click.Option(["-d", "--detach"], is_flag=True),
    click.Option(["-i", "--interactive"], is_flag=True),
    click.Option(["-e", "--env"], multiple=True),
    Switch(["--sig-proxy/--no-sig-proxy"], default=True),
    OldName(["--network", "--net", "network"]),
]


@pytest.mark.parametrize(
    ("words", "plain"),
    [
        (["-di", "x"], ["--detach", "--interactive", "--", "x"]),
        (["-die", "A=b", "x"], ["--detach", "--interactive", "--env=A=b", "--", "x"]),
        (["-eA=b"], ["--env=A=b", "--"]),
        (["-e=A=b"], ["--env=A=b", "--"]),
        (["--env", "--detach"], ["--env=--detach", "--"]),
        (["-di=false"], ["--detach", "--"]),
        (["--detach", "--detach=false"], ["--"]),
        (["--detach=0", "--detach=T"], ["--detach", "--"]),
        (["--sig-proxy=false"], ["--no-sig-proxy", "--"]),
        (["--sig-proxy=false", "--sig-proxy"], ["--sig-proxy", "--"]),
        (["x", "-d"], ["--", "x", "-d"]),
        (["--", "-d"], ["--", "-d"]),
        (["--net=a"], ["--network=a", "--"]),
        (["-"], ["--", "-"]),
    ],
)
def test_words_become_the_ones_that_click_takes(words: list[str], plain: list[str]) -> None:
    assert read(PARAMS, words, is_mixed=False) == plain


def test_flags_may_stand_behind_operands_where_no_command_follows() -> None:
    assert read(PARAMS, ["x", "-d", "y"], is_mixed=True) == ["--detach", "--", "x", "y"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nonsense=1"], "unknown flag: --nonsense"),
        (["--no-sig-proxy"], "unknown flag: --no-sig-proxy"),
        (["-dZ"], "unknown shorthand flag: 'Z' in -Z"),
        (["--env"], "flag needs an argument: --env"),
        (["-de"], "flag needs an argument: 'e' in -e"),
        (["---x"], "bad flag syntax: ---x"),
        (["--=x"], "bad flag syntax: --=x"),
        (["-d=maybe"], 'invalid argument "maybe" for "-d, --detach" flag: strconv.ParseBool: parsing "maybe": '
         "invalid syntax"),
    ],
)  # fmt: skip
def test_wrong_words_are_refused_in_pflags_words(words: list[str], said: str) -> None:
    with pytest.raises(FlagError) as caught:
        read(PARAMS, words, is_mixed=False)
    assert caught.value.message == said


@pytest.mark.parametrize(("text", "number"), [("7", 7), ("-7", -7), ("0x10", 16), ("010", 8), ("1_000", 1000)])
def test_numbers_are_gos(text: str, number: int) -> None:
    assert go_integer(text) == number


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x", 'strconv.ParseInt: parsing "x": invalid syntax'),
        ("", 'strconv.ParseInt: parsing "": invalid syntax'),
        (" 1", 'strconv.ParseInt: parsing " 1": invalid syntax'),
        ("9223372036854775808", 'strconv.ParseInt: parsing "9223372036854775808": value out of range'),
    ],
)
def test_what_is_no_number_is_refused_in_gos_words(text: str, said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        go_integer(text)
    assert caught.value.text == said
