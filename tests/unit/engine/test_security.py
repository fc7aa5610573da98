"""Capabilities and --security-opt."""

from __future__ import annotations

import pytest

from corten.engine import defaults
from corten.engine.security import capabilities, parse_security_opt
from corten.errors import Internal

KNOWN = frozenset(defaults.ALL_CAPABILITIES)


def made(add: list[str], drop: list[str], *, privileged: bool = False) -> tuple[str, ...]:
    return capabilities(add, drop, privileged=privileged, known=KNOWN)


def test_without_options_they_are_dockers_fourteen() -> None:
    assert made([], []) == defaults.CAPABILITIES


def test_names_may_lack_the_prefix_and_be_in_lower_case() -> None:
    assert made(["net_admin", "CAP_SYS_TIME"], ["kill"])[-2:] == ("CAP_NET_ADMIN", "CAP_SYS_TIME")
    assert "CAP_KILL" not in made([], ["kill"])


def test_all_and_some_can_be_combined_both_ways() -> None:
    assert set(made(["ALL"], ["MKNOD"])) == KNOWN - {"CAP_MKNOD"}
    assert made(["CHOWN"], ["ALL"]) == ("CAP_CHOWN",)


def test_privileged_has_what_the_kernel_has() -> None:
    assert capabilities([], ["ALL"], privileged=True, known=frozenset({"CAP_CHOWN"})) == ("CAP_CHOWN",)


def test_security_options() -> None:
    security = parse_security_opt(["no-new-privileges", "seccomp=unconfined", "apparmor=x"], privileged=False)
    assert (security.no_new_privileges, security.seccomp, security.apparmor) == (True, "unconfined", "x")
    assert parse_security_opt(["no-new-privileges:false"], privileged=False).no_new_privileges is False
    assert parse_security_opt(["seccomp=builtin"], privileged=False).seccomp == ""


def test_a_profile_of_ones_own_holds_for_privileged_too() -> None:
    assert parse_security_opt(["seccomp={}"], privileged=True).seccomp == "{}"


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("foo", 'invalid --security-opt 1: "foo"'),
        ("foo=bar", 'invalid --security-opt 2: "foo=bar"'),
        ("no-new-privileges=maybe", 'invalid --security-opt 2: "no-new-privileges=maybe"'),
    ],
)
def test_unknown_options_are_refused_in_dockers_words(option: str, text: str) -> None:
    with pytest.raises(Internal) as caught:
        parse_security_opt([option], privileged=False)
    assert caught.value.text == text


@pytest.mark.parametrize("option", ["label=disable", "label:disable", "disable", "label=type:x", "label=", "label:x"])
def test_labels_are_taken_and_change_nothing(option: str) -> None:
    assert parse_security_opt([option], privileged=False) == parse_security_opt([], privileged=False)
