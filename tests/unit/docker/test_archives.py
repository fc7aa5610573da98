"""Operations that answer with an archive: the stream, and errors before and in it."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from corten.spec.image import Platform
from unit.docker.raw_client import Client, Harness


async def test_save_streams_the_images_of_the_path_or_of_names(harness: Harness, client: Client) -> None:
    answer = await client.ask("GET", "/images/busybox/get")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/x-tar")
    assert answer.body == b"archive of busybox"
    answer = await client.ask("GET", "/v1.51/images/get?names=busybox&names=busybox:latest")
    assert answer.body == b"archive of busybox busybox:latest"
    assert harness.engine.calls[-1] == ("save", ["busybox", "busybox:latest"], None)


async def test_an_image_that_is_not_there_is_an_ordinary_error(client: Client) -> None:
    answer = await client.ask("GET", "/images/get?names=nothing")
    assert (answer.status, answer.message) == (404, "No such image: nothing")


async def test_the_platform_is_an_object_and_older_versions_have_none(harness: Harness, client: Client) -> None:
    given = quote(json.dumps({"os": "linux", "architecture": "arm64", "variant": "v8"}))
    await client.ask("GET", f"/v1.48/images/get?names=busybox&platform={given}")
    assert harness.engine.calls[-1][2] == Platform("arm64", "linux", "v8")
    await client.ask("GET", f"/v1.47/images/get?names=busybox&platform={given}")
    assert harness.engine.calls[-1][2] is None
    for wrong, text in (("{", "failed to parse platform"), ('{"os":"linux"}', "both OS and Architecture")):
        answer = await client.ask("GET", f"/v1.48/images/get?names=busybox&platform={quote(wrong)}")
        assert (answer.status, answer.message[: len(text)]) == (400, text)


async def test_what_fails_on_the_way_cuts_the_stream(harness: Harness, client: Client) -> None:
    harness.engine.flood = b"x"
    with pytest.raises(ValueError, match="invalid literal"):  # the size of the next chunk never comes
        await client.ask("GET", "/images/busybox/get")
