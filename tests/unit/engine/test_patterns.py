"""Go's expressions and path patterns, and that no pattern of a client takes long."""

from __future__ import annotations

import time

import pytest

from corten.engine.patterns import PathPattern, Regexps
from corten.errors import Internal, InvalidArgument


@pytest.mark.parametrize(
    ("value", "is_found"),
    [
        ("web", True),  # the text
        ("eb", True),  # a part of it
        ("w.b", True),
        ("^w", True),
        ("(?i)WEB", True),
        ("b$", True),
        ("e$", False),
        ("w.b.", False),
        ("[", False),  # dockerd: a wrong expression matches nothing
        ("web++", False),
        ("(?=web)", False),
        ("", True),
    ],
)
def test_an_expression_is_found_as_dockerd_finds_it(value: str, is_found: bool) -> None:
    assert Regexps("name", [value]).match("web") is is_found


def test_a_wrong_expression_that_is_the_name_itself_matches() -> None:
    assert Regexps("name", ["["]).match("[")


def test_no_values_match_everything_and_one_of_many_is_enough() -> None:
    assert Regexps("name", []).match("web")
    assert Regexps("name", ["(", "x", "^/w"]).match("/web", "web")
    assert not Regexps("name", ["(", "x", "^/v"]).match("/web", "web")


def test_lone_surrogates_match_nothing() -> None:
    assert not Regexps("name", ["a.\ud800"]).match("web")


@pytest.mark.parametrize("value", ["(a+)+$", "(a|aa)+$", "(a*)*b", "(.*a){15}$", "(x+x+)+y"])
def test_a_pattern_that_tries_every_way_takes_no_time(value: str) -> None:
    began = time.monotonic()
    assert not Regexps("name", [value]).match("a" * 5000 + "!")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("value", ["(" * 20_000, "[a-z]?" * 4000, "(.*)" * 5000])
def test_more_expression_than_is_reasonable_is_refused_by_name(value: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid filter 'name': expressions of \d+ characters"):
        Regexps("name", [value])


def test_a_small_expression_with_a_large_program_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid filter 'id=(.pL){21}.…': expression is too large$"):
        Regexps("id", [r"\pL" * 3000]).match("web")


@pytest.mark.parametrize(
    ("pattern", "text", "is_match"),
    [
        # The table of Go's path/match_test.go: facts of path.Match.
        ("abc", "abc", True),
        ("*", "abc", True),
        ("*c", "abc", True),
        ("a*", "a", True),
        ("a*", "abc", True),
        ("a*", "ab/c", False),
        ("a*/b", "abc/b", True),
        ("a*/b", "a/c/b", False),
        ("a*b*c*d*e*/f", "axbxcxdxe/f", True),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/f", True),
        ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", False),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", False),
        ("a*b?c*x", "abxbbxdbxebxczzx", True),
        ("a*b?c*x", "abxbbxdbxebxczzy", False),
        ("ab[c]", "abc", True),
        ("ab[b-d]", "abc", True),
        ("ab[e-g]", "abc", False),
        ("ab[^c]", "abc", False),
        ("ab[^b-d]", "abc", False),
        ("ab[^e-g]", "abc", True),
        ("a\\*b", "a*b", True),
        ("a\\*b", "ab", False),
        ("a?b", "a☺b", True),
        ("a[^a]b", "a☺b", True),
        ("a???b", "a☺b", False),
        ("[a-ζ]*", "α", True),
        ("*[a-ζ]", "A", False),
        ("a?b", "a/b", False),
        ("a*b", "a/b", False),
        ("[\\]a]", "]", True),
        ("[\\-]", "-", True),
        ("[x\\-]", "x", True),
        ("[x\\-]", "-", True),
        ("[x\\-]", "z", False),
        ("[\\-x]", "a", False),
        ("*x", "xxx", True),
        ("", "", True),
        ("", "x", False),
    ],
)
def test_a_path_pattern_matches_as_in_go(pattern: str, text: str, is_match: bool) -> None:
    assert PathPattern(pattern).match(text) is is_match


@pytest.mark.parametrize(
    "pattern",
    ["[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[", "[^", "[^bc", "a[", "\\", "a\\", "x/[a-", "[a-b-d]", "*["],
)
def test_a_path_pattern_that_is_none_is_refused_in_dockerds_words(pattern: str) -> None:
    with pytest.raises(Internal, match=r"^syntax error in pattern$"):
        PathPattern(pattern)


def test_a_path_pattern_of_many_stars_takes_no_time() -> None:
    began = time.monotonic()
    assert not PathPattern("*a" * 100 + "b").match("a" * 400)
    assert not PathPattern("*?" * 100_000).match("a" * 400)
    assert time.monotonic() - began < 20
