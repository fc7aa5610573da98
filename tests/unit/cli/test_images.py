"""Rows of `corten images`: which names, tags and digests of an image stand in which row."""

from __future__ import annotations

import json
from typing import Any

import pytest

from corten.cli.command import Failure
from corten.cli.images import image_rows, tag_names
from corten.cli.platforms import platform_queries

ONE, TWO = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"


def rows(tags: list[str], pinned: list[str], *, digests: bool) -> list[tuple[str, str, str]]:
    item: dict[str, Any] = {
        "Id": f"sha256:{'a' * 64}",
        "Created": 0,
        "Size": 1,
        "RepoTags": tags,
        "RepoDigests": pinned,
    }
    found = image_rows(item, no_trunc=False, digests=digests)
    return [(row["Repository"], row["Tag"], row["Digest"]) for row in found]


# docker CLI 28.2, cli/command/formatter/image.go (imageWrite), read and compared by hand
@pytest.mark.parametrize(
    ("tags", "pinned", "digests", "wanted"),
    [
        ([], [], True, [("<none>", "<none>", "<none>")]),
        (["a:1", "b:1"], [f"b@{ONE}"], True, [("a", "1", "<none>"), ("b", "1", ONE)]),
        (["a:1"], [f"a@{ONE}", f"a@{TWO}"], True, [("a", "1", ONE), ("a", "1", TWO)]),
        (["a:1"], [f"a@{ONE}", f"a@{TWO}"], False, [("a", "1", "<none>")]),
        ([], [f"a@{ONE}"], False, [("a", "<none>", "<none>")]),
        ([], [f"a@{ONE}"], True, [("a", "<none>", ONE)]),
        (["h:5000/a:1"], [f"h:5000/b@{ONE}"], True, [("h:5000/a", "1", "<none>"), ("h:5000/b", "<none>", ONE)]),
    ],
)
def test_a_digest_stands_beside_the_tags_of_its_repository(
    tags: list[str], pinned: list[str], digests: bool, wanted: list[tuple[str, str, str]]
) -> None:
    assert rows(tags, pinned, digests=digests) == wanted


# docker CLI 28.2, cli/command/image/remove.go: a pflag.StringSlice
def test_platforms_to_remove_come_one_by_one_or_with_commas() -> None:
    given = ("linux/amd64,linux/arm64", "linux/s390x")
    names = ("amd64", "arm64", "s390x")
    assert platform_queries(given) == [json.dumps({"os": "linux", "architecture": name}) for name in names]
    assert platform_queries(()) == []


# docker CLI 28.2, client/image_tag.go
@pytest.mark.parametrize(
    ("source", "target", "text"),
    [
        ("UPPER", "a", 'Error parsing reference: "UPPER" is not a valid repository/tag: invalid reference format'),
        ("a", "a:", 'Error parsing reference: "a:" is not a valid repository/tag: invalid reference format'),
        ("a", f"b@{ONE}", "refusing to create a tag with a digest reference"),
        ("a", f"b:1@{ONE}", "refusing to create a tag with a digest reference"),
    ],
)
def test_a_name_that_cannot_be_given_is_refused_before_anybody_is_asked(source: str, target: str, text: str) -> None:
    with pytest.raises(Failure) as told:
        tag_names(source, target)
    assert told.value.message.startswith(text)


def test_an_image_is_named_by_anything_that_it_is_known_by() -> None:
    for source in ("a", "a:1", f"a@{ONE}", ONE, "1" * 64, "1" * 12):
        assert tag_names(source, "h:5000/b:2") == ("h:5000/b", "2")
