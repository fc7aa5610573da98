"""References: normal form, shown form, refusals."""

from __future__ import annotations

import pytest

from corten.errors import InvalidArgument
from corten.spec.reference import Reference, parse, parse_any, parse_digest, parse_tag

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "normal", "familiar"),
    [
        ("busybox", "docker.io/library/busybox", "busybox"),
        ("busybox:1", "docker.io/library/busybox:1", "busybox:1"),
        ("docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox", "busybox"),
        ("someone/thing", "docker.io/someone/thing", "someone/thing"),
        ("docker.io/someone/thing:t", "docker.io/someone/thing:t", "someone/thing:t"),
        ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
        ("localhost/x", "localhost/x", "localhost/x"),
        ("reg.example:5000/a/b:c", "reg.example:5000/a/b:c", "reg.example:5000/a/b:c"),
        ("REG/a", "REG/a", "REG/a"),
        ("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}", f"busybox@{DIGEST}"),
        (f"a/b:1@{DIGEST}", f"docker.io/a/b:1@{DIGEST}", f"a/b:1@{DIGEST}"),
        ("x/a__b.c-d---e/f_g", "docker.io/x/a__b.c-d---e/f_g", "x/a__b.c-d---e/f_g"),
    ],
)
def test_names_are_normalized_and_shown_as_docker_does(text: str, normal: str, familiar: str) -> None:
    assert (str(parse(text)), parse(text).familiar) == (normal, familiar)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "invalid reference format"),
        (":tag", "invalid reference format"),
        ("a b", "invalid reference format"),
        ("a:", "invalid reference format"),
        ("-a", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("a/", "invalid reference format"),
        ("../x", "invalid reference format"),
        ("a:" + "t" * 129, "invalid reference format"),
        ("a@sha256:123", "invalid reference format"),
        ("a\n", "invalid reference format"),
        ("Busybox", r"invalid reference format: repository name \(library/Busybox\) must be lowercase"),
        (HEX, "invalid repository name .*, cannot specify 64-byte hexadecimal strings"),
        ("a/" * 127 + "b" * 20, "repository name must not be more than 255 characters"),
        (f"a@md5:{HEX}", "unsupported digest algorithm"),
        (f"a@sha256:{HEX}00", "invalid checksum digest length"),
    ],
)
def test_impossible_names_are_refused_in_dockers_words(text: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{why}$"):
        parse(text)


def test_a_user_may_give_a_name_a_digest_or_an_id() -> None:
    assert parse_any(HEX) == parse_any(DIGEST) == DIGEST
    assert parse_any("0123abc") == Reference("docker.io", "library/0123abc")


def test_latest_stands_for_neither_tag_nor_digest() -> None:
    assert str(parse("a").tagged()) == "docker.io/library/a:latest"
    assert parse("a:1").tagged() == parse("a:1")
    assert str(parse(f"a:1@{DIGEST}").stored()) == f"docker.io/library/a@{DIGEST}"
    assert str(parse("a").stored()) == "docker.io/library/a:latest"


@pytest.mark.parametrize(
    "text", ["sha256:", "sha256:../x", f"sha256:{HEX.upper()}", f"SHA256:{HEX}", "x", f"{DIGEST}\n"]
)
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_digest(text)


def test_tags() -> None:
    assert parse_tag("v1.0_x-y") == "v1.0_x-y"
    for bad in ("", "-a", "a/b", ".a", "a" * 129):
        with pytest.raises(InvalidArgument, match="invalid tag format"):
            parse_tag(bad)
